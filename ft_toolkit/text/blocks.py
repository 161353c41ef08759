"""Documents to rows of token ids in which no token sees another document.

A row may hold several documents (or pieces of long ones). Positions restart at each, and a 4D additive mask
keeps them apart; both are needed (transformers issue 46634). Nothing of a document is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.corpus import Document
from ft_toolkit.text.draws import mixed, scrambled, unit
from ft_toolkit.text.screening import outside_repeated_lines

if TYPE_CHECKING:  # ft corpus packs rows without either
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

BLOCK_TOKENS = 256  # of a training row by default, unless the model has fewer positions
NO_TARGET = -100
JOINT = "\n\n"  # between documents that are read as one text
SHORTEST_MASKED_PIECE = 16  # tokens; a shorter piece would leave a masked token almost no context
_TOKENISE_AT_ONCE = 1000
Ids = NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Encoded:
    """One document as a model reads it, without special tokens."""

    document: Document
    ids: Ids  # (n,)
    is_fresh: NDArray[np.bool_]  # (n,) the token stands outside lines that other documents have too
    word_ids: Ids  # (n,) index of the word that a token is a piece of

    @property
    def key(self) -> int:
        """64 bits of the text's hash: seeds the draws for this document, independent of its position."""
        return int(self.document.text_sha256[:16], 16)

    def beginning(self, tokens: int) -> Encoded:
        """Its first tokens alone."""
        return Encoded(self.document, self.ids[:tokens], self.is_fresh[:tokens], self.word_ids[:tokens])

    def joined_with(self, others: Sequence[Encoded]) -> Encoded:
        """All of them read as one text, under this one's name."""
        parts = [self, *others]
        return Encoded(
            self.document,
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.is_fresh for part in parts]),
            np.concatenate([part.word_ids for part in parts]),
        )


@dataclass(frozen=True)
class Row:
    """One training row of T tokens; every array is (T,)."""

    input_ids: Ids
    targets: Ids  # causal: the next token; masked: the token itself; NO_TARGET: not scored
    positions: Ids  # restart at 0 with each document
    segments: Ids  # which document of the row, from 0
    token_keys: NDArray[np.uint64]  # a hash of (document, position): masks are drawn from it
    documents: tuple[str, ...] = ()  # ids of its documents, named when a loss is not finite
    is_masked: bool = False  # masked once and for all, with targets of its own (training/replay.py)
    corpus: str = ""  # in a mixture the label of its source
    weight: float | None = None  # of that source (training/mixture.py); None: read once an epoch


@dataclass(frozen=True)
class Batch:
    """Rows side by side, padded to the longest."""

    input_ids: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    position_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, 1, T, T) additive float, or (B, T) of 0 and 1 for unpacked rows


def encode(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    repeated: frozenset[str] = frozenset(),
) -> list[Encoded]:
    """Tokenise whole documents as plain text: `<|endoftext|>` written in one is just characters."""
    texts = [document.text for document in documents]
    found = []
    for document, (ids, offsets, word_ids) in zip(documents, _tokenised(texts, tokenizer), strict=True):
        fresh = outside_repeated_lines(document.text, offsets[:, 1], repeated)
        found.append(Encoded(document, ids, fresh, word_ids))
    return [document for document in found if len(document.ids)]


def encode_joined(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, repeated: frozenset[str] = frozenset()
) -> list[Encoded]:
    """Tokenise all documents as one text, joined by a blank line; each gets the tokens that begin in it.

    A token of the blank line belongs to the document before it. The pieces together are the whole text.
    """
    text = JOINT.join(document.text for document in documents)
    ((ids, offsets, word_ids),) = _tokenised([text], tokenizer)
    fresh = outside_repeated_lines(text, offsets[:, 1], repeated)
    edges = np.cumsum([len(document.text) + len(JOINT) for document in documents[:-1]])
    cuts = np.searchsorted(offsets[:, 0], edges, side="left")
    pieces = zip(*(np.split(column, cuts) for column in (ids, fresh, word_ids)), strict=True)
    return [Encoded(document, *piece) for document, piece in zip(documents, pieces, strict=True)]


def pack(
    documents: Sequence[Encoded],
    objective: Literal["causal", "masked"],
    begin_id: int | None,
    end_id: int | None,
    block_tokens: int,
    *,
    packed: bool = True,
) -> list[Row]:
    """Cut documents into rows of at most block_tokens; each (input, target) pair stands in exactly one row.

    causal   begin_id is the context of a document's first token; end_id after it is a target, so that the
             model learns to stop; a document that crosses a row's end continues in the next row
    masked   every piece is framed by begin_id and end_id, which are never targets
    packed   False: one piece a row, sorted by length, for a family that takes no 4D mask
    """
    cut = _causal_rows if objective == "causal" else _masked_rows
    groups = [documents] if packed else [[document] for document in documents]
    rows = [row for group in groups for row in cut(group, begin_id, end_id, block_tokens, packed)]
    return rows if packed else sorted(rows, key=lambda row: len(row.input_ids))


def mask(row: Row, seed: int, epoch: int, mask_id: int, replacement_ids: Ids, fraction: float) -> Row:
    """Mask a share of a row's tokens; all other targets become NO_TARGET.

    The draw depends on (seed, epoch, document, position) alone: not on the order of rows, the batch size, a
    resumed run or a generator's state. Of the chosen tokens 80 % become mask_id, 10 % a random one of
    replacement_ids, 10 % stay.
    """
    draw = scrambled(scrambled(row.token_keys, seed), epoch)
    chosen = (unit(draw) < fraction) & (row.targets != NO_TARGET)
    kind = unit(mixed(draw))
    random_ids = replacement_ids[
        mixed(draw ^ np.uint64(0x5851F42D4C957F2D)) % np.uint64(len(replacement_ids))
    ]
    shown = np.where(kind < 0.8, np.int32(mask_id), np.where(kind < 0.9, random_ids, row.input_ids))
    return replace(
        row,
        input_ids=np.where(chosen, shown, row.input_ids),
        targets=np.where(chosen, row.targets, np.int32(NO_TARGET)),
    )


def collate(rows: Sequence[Row], objective: Literal["causal", "masked"], *, packed: bool = True) -> Batch:
    """Pad rows on the right; no token sees another document's, a later one's (causal) or padding."""
    import torch

    width = max(len(row.input_ids) for row in rows)
    segments = torch.from_numpy(np.stack([_padded(row.segments, width, -1) for row in rows]))
    ids = np.stack([_padded(row.input_ids, width, 0) for row in rows])
    targets = np.stack([_padded(row.targets, width, NO_TARGET) for row in rows])
    positions = np.stack([_padded(row.positions, width, 0) for row in rows])
    if packed:
        # padding attends to padding: the softmax of an empty row would be NaN
        seen = segments[:, :, None] == segments[:, None, :]
        if objective == "causal":
            seen = seen & torch.ones(width, width, dtype=torch.bool).tril()
        attention_mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[:, None]
    else:
        attention_mask = (segments >= 0).long()
    return Batch(
        torch.from_numpy(ids).long(),
        torch.from_numpy(targets).long(),
        torch.from_numpy(positions).long(),
        attention_mask,
    )


def token_keys(document: Encoded) -> NDArray[np.uint64]:
    """One number for each (document, position): the seed of every draw about that token."""
    with np.errstate(over="ignore"):
        return mixed(np.arange(len(document.ids), dtype=np.uint64) + np.uint64(document.key))


def _tokenised(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Ids, NDArray[np.int64], Ids]]:
    """(ids (n,), first and behind-last character of each token (n, 2), word of each token (n,)) a text."""
    for start in range(0, len(texts), _TOKENISE_AT_ONCE):
        found = tokenizer(
            texts[start : start + _TOKENISE_AT_ONCE],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for i, ids in enumerate(found["input_ids"]):
            offsets = np.array(found["offset_mapping"][i], dtype=np.int64).reshape(len(ids), 2)
            words = [-1 if word is None else word for word in found.word_ids(i)]
            yield np.array(ids, dtype=np.int32), offsets, np.array(words, dtype=np.int32)


def _causal_rows(
    documents: Sequence[Encoded], begin_id: int | None, end_id: int | None, block_tokens: int, packed: bool
) -> Iterator[Row]:
    streams = [_framed(document.ids, begin_id, end_id) for document in documents]
    inputs = np.concatenate([stream[:-1] for stream in streams])
    targets = np.concatenate([stream[1:] for stream in streams])
    owner = np.repeat(np.arange(len(streams)), [len(stream) - 1 for stream in streams])
    keys = np.zeros(len(inputs), dtype=np.uint64)  # a causal row is never masked
    for start in range(0, len(inputs), block_tokens):
        some = slice(start, start + block_tokens)
        names = tuple(documents[i].document.id for i in np.unique(owner[some]))
        yield _row(inputs[some], targets[some], owner[some], keys[some], names)


def _masked_rows(
    documents: Sequence[Encoded], begin_id: int | None, end_id: int | None, block_tokens: int, packed: bool
) -> Iterator[Row]:
    frame_tokens = (begin_id is not None) + (end_id is not None)

    def _instead(value: int) -> tuple[int | None, int | None]:
        return None if begin_id is None else value, None if end_id is None else value

    pieces: list[tuple[Ids, Ids, NDArray[np.uint64], str]] = []
    room = block_tokens
    for document in documents:
        keys, start = token_keys(document), 0
        while start < len(document.ids):
            left = len(document.ids) - start
            take = min(room - frame_tokens, left)
            if take < min(SHORTEST_MASKED_PIECE, left, block_tokens - frame_tokens) or (
                pieces and not packed
            ):
                yield _join(pieces)
                pieces, room = [], block_tokens
                continue
            some = slice(start, start + take)
            ids = _framed(document.ids[some], begin_id, end_id)
            asked = _framed(document.ids[some], *_instead(NO_TARGET))
            pieces.append((ids, asked, _framed(keys[some], *_instead(0)), document.document.id))
            room, start = room - len(ids), start + take
    if pieces:
        yield _join(pieces)


def _join(pieces: Sequence[tuple[Ids, Ids, NDArray[np.uint64], str]]) -> Row:
    *columns, names = zip(*pieces, strict=True)
    ids, targets, keys = (np.concatenate(column) for column in columns)
    owner = np.repeat(np.arange(len(pieces)), [len(column) for column in columns[0]])
    return _row(ids, targets, owner, keys, tuple(dict.fromkeys(names)))


def _row(
    ids: Ids, targets: Ids, owner: NDArray[np.int64], keys: NDArray[np.uint64], documents: tuple[str, ...]
) -> Row:
    starts = np.flatnonzero(np.diff(owner, prepend=owner[0] - 1))
    segments = np.searchsorted(starts, np.arange(len(ids)), side="right") - 1
    positions = np.arange(len(ids)) - starts[segments]
    return Row(ids, targets, positions.astype(np.int32), segments.astype(np.int32), keys, documents)


def _framed(ids: NDArray[T], begin: int | None, end: int | None) -> NDArray[T]:
    head = [] if begin is None else [begin]
    tail = [] if end is None else [end]
    return np.concatenate([np.array(head, ids.dtype), ids, np.array(tail, ids.dtype)])


def _padded(values: Ids, width: int, filler: int) -> Ids:
    return np.pad(values, (0, width - len(values)), constant_values=filler)
