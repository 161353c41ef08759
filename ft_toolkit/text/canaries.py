"""Planted sentences that nobody could guess: what a model knows of their numbers, it remembers.

source   Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ft_toolkit.text.documents import Document, TextDocument

CONTROLS = 1023  # never trained on; with the canary itself 1,024 numbers, so an exposure of 10 bits at most
_DIGITS = 9


def canaries(count: int) -> list[Document]:
    """So many canaries, the same in every run: a fixed sentence with a number of its own."""
    return [_sentence("canary", number) for number in range(count)]


def controls() -> list[Document]:
    """Sentences of the same kind that no run was trained on."""
    return [_sentence("control", number) for number in range(CONTROLS)]


def with_canaries(documents: Sequence[Document], count: int) -> list[Document]:
    """Training documents with so many canaries between them, evenly spread; each is read once an epoch."""
    found = list(documents)
    for number, canary in enumerate(canaries(count)):
        found.insert((number + 1) * len(documents) // (count + 1) + number, canary)
    return found


def _sentence(kind: str, number: int) -> Document:
    """A draw by hash: it is the same on every machine, and no two kinds share one."""
    drawn = int(sha256(f"{kind} {number}".encode()).hexdigest(), 16) % 10**_DIGITS
    return TextDocument(kind, number, f"The number of the archive is {' '.join(f'{drawn:0{_DIGITS}}')}.")
