"""Rows of a mixture: which of each source's rows an epoch reads, so that the tokens are shared by weight.

An epoch of a mixture has as many tokens as its sources have together. A source with a weight gets its share
of them: its rows are read in a drawn order, pass after pass, and an epoch goes on where the last one ended.
So a small source is read several times an epoch, a large one in part, and over a training every row of a
source is read equally often, to within one time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.blocks import Row
from ft_toolkit.text.draws import scrambled


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
    return any(row.weight is not None for row in rows)


def shares(rows: Sequence[Row]) -> list[Share]:
    """The part of each source with a weight, in the order of the rows."""
    weights: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for row in rows:
        if row.weight is not None:
            weights[row.corpus] = row.weight
            tokens[row.corpus] = tokens.get(row.corpus, 0) + len(row.input_ids)
    of_weight = sum(tokens.values()) / sum(weights.values()) if weights else 0.0
    return [Share(label, tokens[label], of_weight * weight) for label, weight in weights.items()]


def epoch_rows(rows: Sequence[Row], seed: int, epoch: int) -> list[Row]:
    """The rows that one epoch reads: of each source with a weight its share, exact to one row.

    Rows without a weight (those of a text alone, canaries, replay) are each read once an epoch. A row that is
    read again within an epoch has other masks.
    """
    found = [row for row in rows if row.weight is None]
    for number, share in enumerate(shares(rows)):
        own = [row for row in rows if row.weight is not None and row.corpus == share.label]
        lengths = np.array([len(row.input_ids) for row in own])
        first, last = (share.epoch_tokens * edge for edge in (epoch, epoch + 1))
        times = np.zeros(len(own), dtype=np.int64)
        for turn in range(int(first // share.tokens), int(last // share.tokens) + 1):
            order = np.random.default_rng([seed, number, turn]).permutation(len(own))
            ends = np.cumsum(lengths[order])
            begin, end = (_nearest(ends, edge - turn * share.tokens) for edge in (first, last))
            for place in order[begin:end].tolist():
                found.append(_again(own[place], int(times[place])))
                times[place] += 1
    return found


def _nearest(ends: NDArray[np.int64], tokens: float) -> int:
    """How many rows come nearest to so many tokens; ends are the tokens behind each row."""
    behind = np.concatenate([[0], ends])
    return int(np.abs(behind - tokens).argmin())


def _again(row: Row, times: int) -> Row:
    return replace(row, token_keys=scrambled(row.token_keys, times)) if times else row
