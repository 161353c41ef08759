"""Rows of a mixture: which of each source's rows an epoch reads, so that the tokens are shared by weight.

An epoch of a mixture has as many tokens as its sources have together. A source with a weight gets its share
of them: its rows are read in a drawn order, pass after pass, and an epoch goes on where the last one ended.
So a small source is read several times an epoch, a large one in part, and over a training every row of a
source is read equally often, to within one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.rows import Chosen, Outline, Row, outline_of


@dataclass(frozen=True)
class Share:
    """One source's part of an epoch."""

    label: str
    tokens: int  # of its training rows
    epoch_tokens: float  # of an epoch that are its

    @property
    def passes(self) -> float:
        """How often an epoch reads each of its rows, on average."""
        return self.epoch_tokens / self.tokens


def is_weighted(rows: Sequence[Row]) -> bool:
    return any(source.weight is not None for source in outline_of(rows).sources)


def shares(rows: Sequence[Row]) -> list[Share]:
    """The part of each source with a weight, in the order of the rows."""
    return [share for _, share in _shares(outline_of(rows))]


def epoch_rows(rows: Sequence[Row], seed: int, epoch: int) -> Chosen:
    """The rows that one epoch reads: of each source with a weight its share, exact to one row.

    Rows without a weight (those of a text alone, canaries, replay) are each read once an epoch. A row that is
    read again within an epoch has other masks.
    """
    known = outline_of(rows)
    read_once = [number for number, source in enumerate(known.sources) if source.weight is None]
    places = [np.flatnonzero(np.isin(known.source, read_once))]
    times = [np.zeros(len(places[0]), np.int64)]
    for number, (source, share) in enumerate(_shares(known)):
        own = np.flatnonzero(known.source == source)
        first, last = (share.epoch_tokens * edge for edge in (epoch, epoch + 1))
        read = np.zeros(len(own), np.int64)
        for turn in range(int(first // share.tokens), int(last // share.tokens) + 1):
            order = np.random.default_rng([seed, number, turn]).permutation(len(own))
            ends = np.cumsum(known.lengths[own[order]])
            begin, end = (_nearest(ends, edge - turn * share.tokens) for edge in (first, last))
            some = order[begin:end]
            places.append(own[some])
            times.append(read[some])
            read[some] += 1
    return Chosen(rows, np.concatenate(places), np.concatenate(times))


def _shares(known: Outline) -> list[tuple[int, Share]]:
    """(number of the source, its share) of each with a weight."""
    tokens = np.zeros(len(known.sources), np.int64)
    np.add.at(tokens, known.source, known.lengths)
    weighted = [
        (number, source.label, source.weight, int(tokens[number]))
        for number, source in enumerate(known.sources)
        if source.weight is not None and tokens[number]
    ]
    weights = sum(weight for _, _, weight, _ in weighted)
    of_weight = sum(own for *_, own in weighted) / weights if weights else 0.0
    return [(number, Share(label, own, of_weight * weight)) for number, label, weight, own in weighted]


def _nearest(ends: NDArray[np.int64], tokens: float) -> int:
    """How many rows come nearest to so many tokens; ends are the tokens behind each row."""
    behind = np.concatenate([[0], ends])
    return int(np.abs(behind - tokens).argmin())
