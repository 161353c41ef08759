"""What documents of a corpus share: near-duplicates, which must not straddle parts, and repeated lines.

Near-duplicates are found as in Lee et al. 2022 (arXiv:2107.06499): MinHash signatures of the sets of runs of
five words propose pairs, the exact Jaccard similarity of the two sets decides, and what hangs together
through such pairs is one cluster. Characters of scripts without spaces count as words; a text of fewer than
five words is compared as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.documents import Document, first_of_equal
from ft_toolkit.text.draws import mixed
from ft_toolkit.text.kept import Arrays, kept_arrays
from ft_toolkit.text.ngrams import Hashes, folded, ngrams_of_each, text_hash, word_batches
from ft_toolkit.text.prefixes import prefixes_of
from ft_toolkit.text.scratch import scratch

SHINGLE_WORDS = 5
# A band of r equal values out of r proposes a pair: of similarity s with probability 1 - (1 - s^r)^bands, the
# S-curve. The more values in a band, the fewer unlike pairs are proposed, and the more bands are needed. 108
# values are 18 bands of 6 at the threshold of 0.8: 0.9958 of the pairs at 0.8 itself, 0.9999 at 0.87, 0.25
# at 0.5; 16 bands (96 values) would leave 0.992, and sampling 0.99.
SIGNATURE_VALUES = 108
LEAST_RECALL = 0.995
# Standard errors that a signature's estimate may be below the threshold before the exact similarity is asked
_ESTIMATE_ERRORS = 3.0
_SHINGLES_AT_ONCE = 1024  # times 108 values of 4 bytes stay in a core's cache
_KEPT_SHINGLES = 2**21  # 16 MB
_LARGE_BUCKET = 16  # documents
SEED = 1
Signatures = NDArray[np.uint32]


@dataclass(frozen=True)
class Screened:
    """Documents in the groups that they are split by, and which of them are second to another.

    second     ids of near-duplicates, or kept copies, of another of their group: training reads that alone
    copies     ids of kept exact copies of another: held-out text counts the first
    left_out   how many documents are in no part, as near-duplicates of one in another file or split.group
    """

    documents: list[Document]
    second: frozenset[str]
    copies: frozenset[str]
    left_out: int


def screen(documents: Sequence[Document], threshold: float | None, *, keep: bool = False) -> Screened:
    """Give near-duplicates one group, named after the smallest of their hashes: no other document moves it.

    Pieces of files (or rows of a split.group) are left out like copies where their near-duplicate is in
    another one: to unite the files would chain all that share a heading.

    threshold   Jaccard similarity from which two documents are near-duplicates; None: exact copies alone
    keep        nothing is left out: groups of pieces are united, too
    """
    firsts = first_of_equal(documents)
    second, elsewhere, name = _second(documents, _clusters(documents, firsts, threshold), keep=keep)
    is_repeated = np.bincount(firsts, minlength=len(documents))[firsts] > 1
    found: list[Document] = []
    copies: set[str] = set()
    known: set[int] = set()
    for number, document in enumerate(documents):
        if number in elsewhere:
            continue
        if is_repeated[number]:
            if firsts[number] in known:
                copies.add(document.id)
            known.add(firsts[number])
        group = name.get(document.group) if name else None
        found.append(document.in_group(group) if group else document)
    return Screened(found, frozenset(documents[n].id for n in second), frozenset(copies), len(elsewhere))


def _second(
    documents: Sequence[Document], clusters: Iterable[Sequence[int]], *, keep: bool
) -> tuple[set[int], set[int], dict[str, str]]:
    """(numbers of those that are second to another of their group, of those second to one of another group,
    the common name of each group that is united with others)."""
    from scipy.cluster.hierarchy import DisjointSet

    united = DisjointSet()
    second: set[int] = set()
    elsewhere: set[int] = set()
    for cluster in clusters:
        first, *others = sorted(cluster, key=lambda number: documents[number].sha256)
        groups = {number: documents[number].group for number in cluster}
        if keep or all(documents[number].whole_sha256 is None for number in cluster):
            for number in cluster:
                united.add(groups[number])
                united.merge(groups[cluster[0]], groups[number])
            second.update(others)
        else:
            inside = {number for number in others if groups[number] == groups[first]}
            second |= inside
            elsewhere |= set(others) - inside
    names = {group: min(some) for some in united.subsets() if len(some) > 1 for group in some}
    return second, elsewhere, names


def _clusters(
    documents: Sequence[Document], firsts: NDArray[np.int64], threshold: float | None
) -> list[list[int]]:
    """Numbers of the documents that hang together as near-duplicates or copies; at least two in each.

    firsts   the first of each text, as first_of_equal gives it
    """

    def found() -> Arrays:
        clusters = _Clusters(len(documents))
        for number in np.flatnonzero(firsts != np.arange(len(documents))).tolist():
            clusters.unite(int(firsts[number]), number)
        if threshold is not None and len(documents) > 1:
            _unite_near(documents, clusters, threshold)
        members = [sorted(each) for each in clusters.members.values()]
        sizes = np.array([len(each) for each in members], np.int64)
        return {"sizes": sizes, "numbers": np.array([n for each in members for n in each], np.int64)}

    kept = kept_arrays("near", [documents], threshold, found)
    ends = np.cumsum(kept["sizes"])[:-1]
    return [each.tolist() for each in np.split(kept["numbers"], ends)] if len(kept["sizes"]) else []


class _Clusters:
    """Numbers in clusters; `label` has the cluster of each, so that many are looked up at once."""

    def __init__(self, count: int) -> None:
        self.label = np.arange(count)
        self.members: dict[int, list[int]] = {}  # of clusters of two and more

    def unite(self, one: int, other: int) -> None:
        large, small = int(self.label[one]), int(self.label[other])
        if large == small:
            return
        sizes = [len(self.members.get(label, [label])) for label in (large, small)]
        if sizes[0] < sizes[1]:
            large, small = small, large
        moved = self.members.pop(small, [small])
        self.members.setdefault(large, [large]).extend(moved)
        self.label[moved] = large


def _unite_near(documents: Sequence[Document], clusters: _Clusters, threshold: float) -> None:
    """Unite documents whose Jaccard similarity is at least the threshold.

    In a large bucket only those are compared that share a rare shingle, too (prefixes.py): all who use one
    template are in one bucket, and to compare each with each would be quadratic.
    """
    signatures = signatures_of(documents)
    count, values = bands(threshold)
    compare = _Comparing(documents, clusters, signatures, threshold)
    parts = [signatures[:, band * values : (band + 1) * values] for band in range(count)]
    large = np.zeros(len(documents), dtype=np.bool_)
    for part in parts:
        for bucket in _buckets(part, clusters):
            large[bucket] |= len(bucket) >= _LARGE_BUCKET
    numbers = np.flatnonzero(large)

    def shingles() -> Iterator[Hashes]:
        return map(np.unique, _shingles_of(documents[number] for number in numbers.tolist()))

    prefixes = prefixes_of(shingles, numbers, len(documents), threshold) if len(numbers) else None
    for band, part in enumerate(parts):
        for bucket in _buckets(part, clusters):
            is_large = prefixes is not None and len(bucket) >= _LARGE_BUCKET
            candidates = prefixes.among(bucket) if prefixes is not None and is_large else None
            compare.all_of(bucket, candidates, band * values)


class _Comparing:
    """Compares documents that may be near-duplicates, and unites those that are."""

    def __init__(
        self, documents: Sequence[Document], clusters: _Clusters, signatures: Signatures, threshold: float
    ) -> None:
        self.documents, self.clusters, self.signatures = documents, clusters, signatures
        self.threshold, self.band_values = threshold, bands(threshold)[1]
        error = np.sqrt(threshold * (1 - threshold) / SIGNATURE_VALUES)
        self.least_equal = (threshold - _ESTIMATE_ERRORS * error) * SIGNATURE_VALUES
        self.sets: dict[int, Hashes] = {}
        self.kept = 0

    def all_of(
        self,
        bucket: NDArray[np.int64],
        candidates: Callable[[int], NDArray[np.int64]] | None,
        earlier_values: int,
    ) -> None:
        """Compare those of a bucket that are in different clusters, each pair once.

        candidates       of the bucket, those that one may be near to; None: all of it
        earlier_values   of the signatures are in earlier bands: who agrees in one of them was compared there
        """
        label, members = self.clusters.label, self.clusters.members
        _, at, sizes = np.unique(label[bucket], return_index=True, return_counts=True)
        # the largest cluster's documents meet all others when it is those others' turn
        largest = int(bucket[at[sizes.argmax()]]) if sizes.max() > 1 else None
        is_done = dict.fromkeys(bucket.tolist(), False)
        for first in is_done:
            if largest is not None and label[first] == label[largest]:
                continue
            is_done[first] = True
            near = bucket if candidates is None else candidates(first)
            others = [n for n in near[label[near] != label[first]].tolist() if not is_done[n]]
            if others:
                self._one(first, np.array(others), earlier_values)
            if largest is None and 2 * len(members.get(int(label[first]), ())) > len(bucket):
                largest = first

    def _one(self, first: int, others: NDArray[np.int64], earlier_values: int) -> None:
        equal = self.signatures[others] == self.signatures[first]
        is_asked = equal.sum(axis=1) >= self.least_equal
        agree = equal[is_asked, :earlier_values]
        earlier = agree.reshape(len(agree), earlier_values // self.band_values, self.band_values)
        asked = others[is_asked][~earlier.all(axis=2).any(axis=1)]
        found = jaccards(self._set(first), [self._set(other) for other in asked.tolist()])
        for other in asked[found >= self.threshold].tolist():
            self.clusters.unite(first, other)

    def _set(self, number: int) -> Hashes:
        if number not in self.sets:
            if self.kept > _KEPT_SHINGLES:
                self.sets.clear()
                self.kept = 0
            self.sets[number] = shingle_set(self.documents[number])
            self.kept += len(self.sets[number])
        return self.sets[number]


def _buckets(band: Signatures, clusters: _Clusters) -> Iterator[NDArray[np.int64]]:
    """Documents that agree in all values of a band and are not all in one cluster yet.

    datasketch's MinHashLSH holds a Python set for each bucket, gigabytes for a million documents; sorting
    the bands one by one finds the same buckets.
    """
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = mixed(keys ^ column)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]) != 0)
    labels = clusters.label[order]
    is_open = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[is_open].tolist(), ends[is_open].tolist(), strict=True):
        yield order[start:end]


def bands(threshold: float) -> tuple[int, int]:
    """(bands, values in each): as many values as LEAST_RECALL at the threshold leaves room for."""
    for values in range(SIGNATURE_VALUES, 0, -1):
        count = SIGNATURE_VALUES // values
        if 1 - (1 - threshold**values) ** count >= LEAST_RECALL:
            return count, values
    return SIGNATURE_VALUES, 1


def signatures_of(documents: Sequence[Document]) -> Signatures:
    """(documents, SIGNATURE_VALUES): the smallest value of each permutation of a document's shingles."""
    from datasketch import MinHash

    signatures = scratch((len(documents), SIGNATURE_VALUES), np.uint32)
    sketch = MinHash(SIGNATURE_VALUES, SEED, hashfunc=lambda hashes: hashes)
    for number, hashes in enumerate(_shingles_of(documents)):
        sketch.clear()
        halves = (hashes >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(halves), _SHINGLES_AT_ONCE):
            # one "value", an array of hashes: passed on as it is, all of them are permuted at once
            sketch.update_batch([halves[start : start + _SHINGLES_AT_ONCE]])
        signatures[number] = sketch.hashvalues
    return signatures


def shingle_set(document: Document) -> Hashes:
    """The different shingles of a document, sorted."""
    return np.unique(next(_shingles_of([document])))


def jaccards(one: Hashes, others: Sequence[Hashes]) -> NDArray[np.float64]:
    """(others,) shared shingles by all shingles of two texts.

    one, others   as shingle_set gives them
    """
    if not others:
        return np.empty(0)
    sizes = np.array([len(each) for each in others])
    joined = np.concatenate(others)
    is_shared = one[np.searchsorted(one, joined).clip(max=len(one) - 1)] == joined
    shared = np.add.reduceat(is_shared.astype(np.int64), np.cumsum(sizes) - sizes)
    found: NDArray[np.float64] = shared / (len(one) + sizes - shared)
    return found


def _shingles_of(documents: Iterable[Document]) -> Iterator[Hashes]:
    for batch in word_batches(documents):
        found = ngrams_of_each([words for _, words in batch], SHINGLE_WORDS)
        for (document, _), shingles in zip(batch, found, strict=True):
            # a few words say little without their punctuation: 1 + 1 is not 1 - 1
            whole = [] if len(shingles) else [text_hash(" ".join(folded(document.text).split()))]
            yield np.array(whole, dtype=np.uint64) if whole else shingles


def repeated_lines(documents: Sequence[Document], among: Iterable[Document] | None = None) -> frozenset[str]:
    """Lines (without surrounding blanks) that occur in two or more documents of a corpus.

    among   the documents whose lines are asked for; None: all of them
    """
    asked = set[str]().union(*map(_different_lines, documents if among is None else among))
    documents_with: Counter[str] = Counter()
    for document in documents:
        documents_with.update(_different_lines(document) & asked)
    return frozenset(line for line, count in documents_with.items() if count > 1)


def _different_lines(document: Document) -> set[str]:
    return {line.strip() for line in document.text.split("\n")} - {""}


def outside_repeated_lines(text: str, ends: NDArray[np.int64], repeated: frozenset[str]) -> NDArray[np.bool_]:
    """Whether each token's last character is outside the repeated lines.

    ends     (n,) index in `text` behind each token's last character
    returns  (n,) true for a token of a line that only this document has
    """
    lines = text.split("\n")
    is_fresh = np.array([line.strip() not in repeated for line in lines])
    line_ends = np.cumsum([len(line) + 1 for line in lines])  # a line feed counts as part of its line
    fresh: NDArray[np.bool_] = is_fresh[
        np.searchsorted(line_ends, np.maximum(ends - 1, 0), side="right").clip(max=len(lines) - 1)
    ]
    return fresh
