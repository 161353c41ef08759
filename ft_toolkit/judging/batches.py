"""Rows of unequal length in batches of about equal size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(
    rows: Sequence[T], width_of: Callable[[T], int], batch_tokens: int
) -> Iterator[tuple[int, list[T]]]:
    """(width in tokens, rows of at most this width), the longest first: hardly any padding.

    batch_tokens   of a batch, padding included; a longer row is a batch of its own
    """
    ordered = sorted(rows, key=width_of, reverse=True)
    first = 0
    while first < len(ordered):
        width = width_of(ordered[first])
        some = ordered[first : first + max(1, batch_tokens // width)]
        first += len(some)
        yield width, some
