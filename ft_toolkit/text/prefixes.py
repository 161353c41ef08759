"""Which of many documents that share a template can be near-duplicates at all: prefix filtering, exact.

The shingles of all documents are put in one order, rare ones first. Two sets whose Jaccard similarity is at
least t then share a shingle among the first ones of each: among the first n - ceil(2t/(1+t) n) + 1 of the
smaller one and the first n - ceil(t n) + 1 of the larger (Xiao et al. 2008, Efficient similarity joins for
near duplicate detection, section 4). A template's shingles stand last, so documents that share nothing else
are never compared, however many they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.ngrams import Hashes

_MOST = 255  # documents with a shingle are counted up to here
_COUNTERS_BITS = (16, 26)  # fewest and most of them, a byte each
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Prefixes:
    """The first shingles of some documents, without those that no other document has.

    threshold   Jaccard similarity of near-duplicates
    sizes       (documents,) different shingles of each
    starts      (documents + 1,) where a document's begin in the other two; those of others are empty
    keys        rank and hash of a shingle
    is_short    whether it is among the first ones that the smaller document of a pair needs
    """

    threshold: float
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    keys: Hashes
    is_short: NDArray[np.bool_]

    def among(self, numbers: NDArray[np.int64]) -> Callable[[int], NDArray[np.int64]]:
        """A function from one of these documents to those of them that may be its near-duplicates."""
        counts = self.starts[numbers + 1] - self.starts[numbers]
        before = np.repeat(np.cumsum(counts) - counts, counts)
        places = np.arange(counts.sum()) - before + np.repeat(self.starts[numbers], counts)
        order = np.argsort(self.keys[places], kind="stable")
        places, owners = places[order], np.repeat(numbers, counts)[order]
        keys, is_short, size_of = self.keys[places], self.is_short[places], self.sizes[owners]

        def candidates(first: int) -> NDArray[np.int64]:
            own = slice(self.starts[first], self.starts[first + 1])
            ranges = [np.searchsorted(keys, self.keys[own], side) for side in ("left", "right")]
            size, found = self.sizes[first], [np.empty(0, np.int64)]
            for begin, end, short in zip(*(r.tolist() for r in ranges), self.is_short[own], strict=True):
                if end - begin > 1:  # another one than itself
                    sizes = size_of[begin:end]
                    # of equal ones each is the smaller
                    is_asked = is_short[begin:end] & (sizes <= size) & (sizes >= self.threshold * size)
                    if short:
                        is_asked |= (sizes >= size) & (size >= self.threshold * sizes)
                    found.append(owners[begin:end][is_asked])
            return np.unique(np.concatenate(found))

        return candidates


def prefixes_of(
    shingles: Callable[[], Iterable[Hashes]], numbers: NDArray[np.int64], documents: int, threshold: float
) -> Prefixes:
    """The prefixes of some of the documents.

    shingles    reads their different shingles, in the order of numbers; it is called more than once, so that
                none are kept
    numbers     which documents they are, ascending
    """
    sizes, shared = np.zeros(documents, np.int64), np.zeros(documents, np.int64)
    for number, each in zip(numbers.tolist(), shingles(), strict=True):
        sizes[number] = len(each)
    bits = min(max(int(sizes.sum()).bit_length() + 1, _COUNTERS_BITS[0]), _COUNTERS_BITS[1])
    shift, counts = np.uint64(64 - bits), np.zeros(2**bits, np.uint8)
    for each in shingles():
        slots = each >> shift
        counts[slots] += counts[slots] < _MOST
    found: list[tuple[Hashes, NDArray[np.bool_]]] = []
    for number, each in zip(numbers.tolist(), shingles(), strict=True):
        rank = counts[each >> shift].astype(np.uint64)
        keys = np.sort((rank << np.uint64(56)) | (each >> np.uint64(8)))
        keys = keys[: _prefix(len(keys), threshold)]
        is_short = np.arange(len(keys)) < _prefix(len(each), 2 * threshold / (1 + threshold))
        is_shared = keys >= np.uint64(2) << np.uint64(56)
        found.append((keys[is_shared], is_short[is_shared]))
        shared[number] = is_shared.sum()
    starts = np.concatenate([[0], np.cumsum(shared)])
    keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in found)])
    is_short = np.concatenate([np.empty(0, np.bool_), *(short for _, short in found)])
    return Prefixes(threshold, sizes, starts, keys, is_short)


def _prefix(size: int, share: float) -> int:
    return size - math.ceil(share * size - _ROUNDING) + 1
