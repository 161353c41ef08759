"""Documents to token ids, and rows of them (packing.py) to masked and padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.documents import Document
from ft_toolkit.text.draws import mixed, scrambled, unit
from ft_toolkit.text.rows import Ids, Row
from ft_toolkit.text.screening import outside_repeated_lines

if TYPE_CHECKING:  # ft corpus packs rows without either
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

BLOCK_TOKENS = 256  # of a training row by default, unless the model has fewer positions
NO_TARGET = -100
JOINT = "\n\n"  # between documents that are read as one text
_TOKENISE_AT_ONCE = 1000


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
    return keys_of_positions(document.key, 0, len(document.ids))


def keys_of_positions(key: int, start: int, stop: int) -> NDArray[np.uint64]:
    """The same for some positions of the document with this key."""
    with np.errstate(over="ignore"):
        return mixed(np.arange(start, stop, dtype=np.uint64) + np.uint64(key))


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


def _padded(values: Ids, width: int, filler: int) -> Ids:
    return np.pad(values, (0, width - len(values)), constant_values=filler)
