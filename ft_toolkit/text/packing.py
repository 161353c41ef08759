"""Documents to training rows in which no token sees another document.

First a plan, from the documents' token counts alone: which piece of which document stands in which row. Then
rows, each made from its pieces when it is asked for. A row may hold several documents (or pieces of long
ones). Positions restart at each, and a 4D additive mask keeps them apart (blocks.collate); both are needed
(transformers issue 46634). Nothing of a document is dropped.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.blocks import NO_TARGET, Encoded, keys_of_positions
from ft_toolkit.text.documents import Document
from ft_toolkit.text.rows import Ids, Outline, Places, Row, Rows, Source

SHORTEST_MASKED_PIECE = 16  # tokens; a shorter piece would leave a masked token almost no context
T = TypeVar("T", bound=np.generic)
_Piece = tuple[Ids, Ids, NDArray[np.uint64]]  # input ids, targets, token keys


class TokenIds(Protocol):
    """Token ids of documents, without special tokens, read when they are asked for."""

    @property
    def documents(self) -> Sequence[Document]: ...
    @property
    def lengths(self) -> Places:
        """(documents,) tokens of each."""

    def ids(self, document: int, start: int, stop: int) -> Ids:
        """Some tokens of the document with this number."""

    def key(self, document: int) -> int:
        """64 bits of its text's hash."""


@dataclass(frozen=True)
class Layout:
    """How documents are cut into rows.

    begin_id, end_id   causal: begin_id is the context of a document's first token; end_id after it is a
                       target, so that the model learns to stop. masked: they frame every piece, and are
                       never targets
    block_tokens       the longest row
    packed             False: one piece a row, sorted by length, for a family that takes no 4D mask
    """

    objective: Literal["causal", "masked"]
    begin_id: int | None
    end_id: int | None
    block_tokens: int
    packed: bool = True

    @property
    def frame_tokens(self) -> int:
        return (self.begin_id is not None) + (self.end_id is not None)


@dataclass(frozen=True)
class Plan:
    """Which piece of which document stands in which row.

    first_piece   (rows + 1,) of each row, and behind the last
    document      (pieces,) its number
    start         (pieces,) masked: the piece's first token; causal: its first (input, target) pair
    take          (pieces,) how many tokens or pairs it has
    """

    first_piece: Places
    document: Ids
    start: Ids
    take: Ids

    def lengths(self, frame_tokens: int) -> Places:
        """(rows,) tokens of each, where each piece has so many in addition to its own."""
        if not len(self.take):
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.take.astype(np.int64) + frame_tokens, self.first_piece[:-1])


def plan_rows(lengths: Places, layout: Layout) -> Plan:
    """Cut documents of so many tokens into rows of at most block_tokens.

    Each (input, target) pair stands in exactly one row. A document that crosses a row's end continues in the
    next row.
    """
    width = layout.block_tokens
    if layout.objective == "causal":
        pairs = np.maximum(lengths + layout.frame_tokens - 1, 0)
        return _streamed(pairs, width) if layout.packed else _alone(pairs, width)
    frame_tokens = layout.frame_tokens
    return _fitted(lengths, width, frame_tokens) if layout.packed else _alone(lengths, width - frame_tokens)


@dataclass(frozen=True, eq=False)
class PackedRows(Rows):
    """The rows of a plan.

    which    number in `tokens` of each document of the plan
    """

    tokens: TokenIds
    layout: Layout
    plan: Plan
    which: Places
    source: Source = field(default_factory=Source)

    def __len__(self) -> int:
        return len(self.plan.first_piece) - 1

    @property
    def outline(self) -> Outline:
        masked = self.layout.objective == "masked"
        lengths = self.plan.lengths(self.layout.frame_tokens if masked else 0)
        return Outline(lengths, np.zeros(len(lengths), np.int32), (self.source,))

    def made(self, place: int) -> Row:
        plan = self.plan
        some = slice(*plan.first_piece[place : place + 2].tolist())
        numbers = self.which[plan.document[some]].tolist()
        piece = self._causal if self.layout.objective == "causal" else self._masked
        pieces = [
            piece(number, start, take)
            for number, start, take in zip(
                numbers, plan.start[some].tolist(), plan.take[some].tolist(), strict=True
            )
        ]
        ids, targets, keys = (np.concatenate(column) for column in zip(*pieces, strict=True))
        sizes = [len(ids) for ids, _, _ in pieces]
        positions = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        segments = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        names = _Names(self.tokens.documents, tuple(dict.fromkeys(numbers)))
        label, weight = self.source.label, self.source.weight
        return Row(ids, targets, positions, segments, keys, names, corpus=label, weight=weight)

    def _causal(self, number: int, start: int, take: int) -> _Piece:
        """Pair n of a document is token n of the framed text and the one behind it."""
        layout, tokens = self.layout, int(self.tokens.lengths[number])
        before = layout.begin_id is not None
        own = self.tokens.ids(number, max(0, start - before), min(tokens, start + take + 1 - before))
        stream = _framed(
            own,
            layout.begin_id if start == 0 else None,
            layout.end_id if start + take + 1 > tokens + before else None,
        )
        return stream[:-1], stream[1:], np.zeros(take, np.uint64)  # a causal row is never masked

    def _masked(self, number: int, start: int, take: int) -> _Piece:
        begin, end = self.layout.begin_id, self.layout.end_id
        own = self.tokens.ids(number, start, start + take)
        keys = keys_of_positions(self.tokens.key(number), start, start + take)
        no_begin, no_end = (None if value is None else NO_TARGET for value in (begin, end))
        no_key, no_last_key = (None if value is None else 0 for value in (begin, end))
        return _framed(own, begin, end), _framed(own, no_begin, no_end), _framed(keys, no_key, no_last_key)


def packed_rows(
    tokens: TokenIds, layout: Layout, which: Places | None = None, source: Source | None = None
) -> PackedRows:
    """Plan the rows of some documents, in their order.

    which    their numbers; None: all
    """
    numbers = np.arange(len(tokens.lengths)) if which is None else which
    plan = plan_rows(tokens.lengths[numbers], layout)
    return PackedRows(tokens, layout, plan, numbers, source or Source())


def pack(
    documents: Sequence[Encoded],
    objective: Literal["causal", "masked"],
    begin_id: int | None,
    end_id: int | None,
    block_tokens: int,
    *,
    packed: bool = True,
) -> PackedRows:
    """Plan the rows of documents that are in memory; see Layout."""
    return packed_rows(_Held(documents), Layout(objective, begin_id, end_id, block_tokens, packed))


class _Held:
    """Token ids that are in memory."""

    def __init__(self, encoded: Sequence[Encoded]) -> None:
        self.encoded = encoded
        self.documents = [one.document for one in encoded]
        self.lengths = np.array([len(one.ids) for one in encoded], np.int64)

    def ids(self, document: int, start: int, stop: int) -> Ids:
        return self.encoded[document].ids[start:stop]

    def key(self, document: int) -> int:
        return self.encoded[document].key


@dataclass(frozen=True)
class _Names(Sequence[str]):
    """Ids of some documents, looked up when they are asked for: a document may have to be read for it."""

    documents: Sequence[Document]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return _Names(self.documents, self.numbers[place])
        return self.documents[self.numbers[place]].id


def _streamed(pairs: Places, width: int) -> Plan:
    """All documents' pairs one after the other, cut every `width`."""
    ends = np.cumsum(pairs)
    begins = ends - pairs
    total = int(ends[-1]) if len(ends) else 0
    rows = np.arange(0, total, width)
    cuts = np.union1d(begins[pairs > 0], rows)
    document = np.searchsorted(ends, cuts, side="right")
    return Plan(
        np.append(np.searchsorted(cuts, rows), len(cuts)),
        document.astype(np.int32),
        (cuts - begins[document]).astype(np.int32),
        np.diff(cuts, append=total).astype(np.int32),
    )


def _alone(counts: Places, width: int) -> Plan:
    """Each document cut every `width`, a piece a row, the shortest rows first."""
    pieces = -(-counts // width)
    document = np.repeat(np.arange(len(counts)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = number * width
    take = np.minimum(width, counts[document] - start)
    order = np.argsort(take, kind="stable")
    columns = (column[order].astype(np.int32) for column in (document, start, take))
    return Plan(np.arange(len(document) + 1), *columns)


def _fitted(lengths: Places, width: int, frame_tokens: int) -> Plan:
    """Framed pieces, as long as the rest of their row allows; a rest too short for context stays empty."""
    document, starts, takes, first = array("i"), array("i"), array("i"), array("q")
    whole, room = width - frame_tokens, 0  # of a row without a piece; for tokens of the next one
    for number, tokens in enumerate(lengths.tolist()):
        start = 0
        while start < tokens:
            left = tokens - start
            take = min(room, left)
            if take < min(SHORTEST_MASKED_PIECE, left, whole):
                first.append(len(document))
                room = whole
                continue
            document.append(number)
            starts.append(start)
            takes.append(take)
            room, start = room - take - frame_tokens, start + take
    first.append(len(document))
    return Plan(np.array(first, np.int64), *(np.array(each, np.int32) for each in (document, starts, takes)))


def _framed(ids: NDArray[T], begin: int | None, end: int | None) -> NDArray[T]:
    head = [] if begin is None else [begin]
    tail = [] if end is None else [end]
    return np.concatenate([np.array(head, ids.dtype), ids, np.array(tail, ids.dtype)])
