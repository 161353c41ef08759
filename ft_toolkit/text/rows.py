"""Training rows that are made when they are asked for.

What a schedule needs of all rows at once (their lengths, and the source that each is of) stands in arrays, so
that a text of any size costs a few bytes a row until a step is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.draws import scrambled

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One training row of T tokens; every array is (T,)."""

    input_ids: Ids
    targets: Ids  # causal: the next token; masked: the token itself; NO_TARGET: not scored
    positions: Ids  # restart at 0 with each document
    segments: Ids  # which document of the row, from 0
    token_keys: NDArray[np.uint64]  # a hash of (document, position): masks are drawn from it
    documents: Sequence[str] = ()  # ids of its documents, named when a loss is not finite
    is_masked: bool = False  # masked once and for all, with targets of its own (training/replay.py)
    corpus: str = ""  # in a mixture the label of its source
    weight: float | None = None  # of that source (training/mixture.py); None: read once an epoch


@dataclass(frozen=True)
class Source:
    """What rows are of, as Row.corpus and Row.weight."""

    label: str = ""
    weight: float | None = None


@dataclass(frozen=True)
class Outline:
    """What is known of rows without making them."""

    lengths: Places  # (rows,) tokens of each
    source: NDArray[np.int32]  # (rows,) number of each row's source
    sources: tuple[Source, ...]  # in the order in which they first appear

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return int(self.lengths.sum())


class Rows(Sequence[Row], ABC):
    """Rows by their place; each is made anew whenever it is asked for."""

    @property
    @abstractmethod
    def outline(self) -> Outline:
        """Lengths and sources of all rows."""

    @abstractmethod
    def made(self, place: int) -> Row:
        """The row at a place from 0."""

    @abstractmethod
    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Row | Rows:
        if isinstance(place, slice):
            return Chosen(self, np.arange(len(self))[place])
        return self.made(range(len(self))[place])


@dataclass(frozen=True, eq=False)
class Chosen(Rows):
    """Some rows of others, in an order of their own.

    places   of the rows
    times    how often each was read before; masks of a row that is read again are drawn anew
    """

    rows: Sequence[Row]
    places: Places
    times: Places | None = None

    @cached_property
    def outline(self) -> Outline:
        whole = outline_of(self.rows)
        return Outline(whole.lengths[self.places], whole.source[self.places], whole.sources)

    def made(self, place: int) -> Row:
        row = self.rows[int(self.places[place])]
        times = 0 if self.times is None else int(self.times[place])
        return replace(row, token_keys=scrambled(row.token_keys, times)) if times else row

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class Joined(Rows):
    """Rows of several kinds, one after the other."""

    parts: Sequence[Sequence[Row]]

    @cached_property
    def outline(self) -> Outline:
        outlines = [outline_of(part) for part in self.parts]
        sources = tuple(dict.fromkeys(source for one in outlines for source in one.sources))
        renumbered = [
            np.array([sources.index(source) for source in one.sources], np.int32)[one.source]
            for one in outlines
        ]
        none = np.zeros(0, np.int32)
        lengths = np.concatenate([none.astype(np.int64), *(one.lengths for one in outlines)])
        return Outline(lengths, np.concatenate([none, *renumbered]), sources)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @cached_property
    def _ends(self) -> Places:
        return np.cumsum([len(part) for part in self.parts])

    def made(self, place: int) -> Row:
        number = int(np.searchsorted(self._ends, place, side="right"))
        return self.parts[number][place - int(self._ends[number])]  # counted from the part's end


def outline_of(rows: Sequence[Row]) -> Outline:
    """Lengths and sources of any rows; a list has to be walked for them."""
    if isinstance(rows, Rows):
        return rows.outline
    numbers: dict[Source, int] = {}
    source = [numbers.setdefault(Source(row.corpus, row.weight), len(numbers)) for row in rows]
    lengths = np.array([len(row.input_ids) for row in rows], np.int64)
    return Outline(lengths, np.array(source, np.int32), tuple(numbers))
