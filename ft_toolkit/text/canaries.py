"""Planted sentences that nobody could guess: what a model knows of their numbers, it remembers.

source   Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import overload

from ft_toolkit.text.documents import Document

CONTROLS = 1023  # never trained on; with the canary itself 1,024 numbers, so an exposure of 10 bits at most
_DIGITS = 9


def canaries(count: int) -> list[Document]:
    """So many canaries, the same in every run: a fixed sentence with a number of its own."""
    return [_sentence("canary", number) for number in range(count)]


def controls() -> list[Document]:
    """Sentences of the same kind that no run was trained on."""
    return [_sentence("control", number) for number in range(CONTROLS)]


def with_canaries(documents: Sequence[Document], count: int) -> Sequence[Document]:
    """Training documents with so many canaries between them, evenly spread; each is read once an epoch."""
    return _Between(documents, canaries(count)) if count else documents


@dataclass(frozen=True)
class _Between(Sequence[Document]):
    """Documents with others evenly spread between them; none is read before it is asked for."""

    documents: Sequence[Document]
    others: Sequence[Document]

    def __len__(self) -> int:
        return len(self.documents) + len(self.others)

    @cached_property
    def _places(self) -> list[int]:
        """Of the others, ascending."""
        parts = len(self.others) + 1
        return [(n + 1) * len(self.documents) // parts + n for n in range(len(self.others))]

    @overload
    def __getitem__(self, place: int) -> Document: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Document]: ...
    def __getitem__(self, place: int | slice) -> Document | Sequence[Document]:
        if isinstance(place, slice):
            return [self[n] for n in range(len(self))[place]]
        place = range(len(self))[place]
        before = bisect_left(self._places, place)
        is_other = before < len(self.others) and self._places[before] == place
        return self.others[before] if is_other else self.documents[place - before]


def _sentence(kind: str, number: int) -> Document:
    """A draw by hash: it is the same on every machine, and no two kinds share one."""
    drawn = int(sha256(f"{kind} {number}".encode()).hexdigest(), 16) % 10**_DIGITS
    return Document(kind, number, f"The number of the archive is {' '.join(f'{drawn:0{_DIGITS}}')}.")
