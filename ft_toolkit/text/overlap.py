"""How much of the held-out text also stands in the training text, by its n-grams of words.

8-grams are those of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 8), 13-grams those of GPT-3 (Brown
et al. 2020, arXiv:2005.14165, appendix C). A test document is tainted by PaLM's rule, from 70 % of its
8-grams on: a single shared 13-gram, GPT-3's rule, is any sentence of boilerplate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.corpus import Document
from ft_toolkit.text.ngrams import Hashes, ngrams_of_each, word_batches
from ft_toolkit.text.splitting import Parts

SIZES = (8, 13)
TAINTED_FRACTION = 0.7  # of the 8-grams
_WORD_LETTERS = 5  # with its blank; a little few, to be safe
_MARK_BITS = (16, 27)  # fewest and most bytes of the table, as powers of two
_WAITING = 2**18


@dataclass(frozen=True)
class Overlap:
    """Some documents against the training text; every array is (documents,).

    is_copy     the whole text is a training document
    fractions   n → share of a document's different n-grams that are in training; 0 for one without n words
    """

    documents: Sequence[Document]
    is_copy: NDArray[np.bool_]
    fractions: Mapping[int, NDArray[np.float64]]

    @property
    def is_tainted(self) -> NDArray[np.bool_]:
        return self.is_copy | (self.fractions[SIZES[0]] >= TAINTED_FRACTION)

    def as_dict(self) -> dict[str, int]:
        """How many documents share anything of a kind."""
        shared = {f"with_{n}gram": int((fraction > 0).sum()) for n, fraction in self.fractions.items()}
        counts = {"documents": len(self.documents), "copies": int(self.is_copy.sum())}
        return counts | shared | {"tainted": int(self.is_tainted.sum())}


def marked(parts: Parts, general: Sequence[Document] = ()) -> tuple[Parts, dict[str, Overlap]]:
    """The parts with the tainted test documents named, and the overlap of each text with training."""
    held = {"validation": parts.validation, "test": parts.test, "general": general}
    found = {name: each for name, each in overlaps(parts.train, held).items() if each.documents}
    test = found.get("test")
    is_tainted = zip(parts.test, test.is_tainted if test else (), strict=True)
    return replace(parts, tainted=frozenset(document.id for document, yes in is_tainted if yes)), found


def overlaps(train: Sequence[Document], held: Mapping[str, Sequence[Document]]) -> dict[str, Overlap]:
    """Compare some sets of documents with the training text.

    No n-gram is kept but those of the training text that a held-out one may have, so the memory is a few
    bytes for each held-out word: the held-out text is read twice, the training text once.
    """
    identities = {document.sha256 for document in train}
    words = sum(len(document.text) for documents in held.values() for document in documents) // _WORD_LETTERS
    marks = _Marks(words)
    for documents in held.values():
        for batch in word_batches(document.text for document in documents):
            for n in SIZES:
                marks.add(n, _ngrams(batch, n))
    seen = {n: _Different() for n in SIZES}
    for batch in word_batches(document.text for document in train):
        for n in SIZES:
            found = _ngrams(batch, n)
            seen[n].add(found[marks.has(n, found)])
    shared = {n: each.sorted() for n, each in seen.items()}
    return {name: _overlap(documents, identities, shared) for name, documents in held.items()}


def _overlap(documents: Sequence[Document], identities: set[str], shared: Mapping[int, Hashes]) -> Overlap:
    fractions: dict[int, list[float]] = {n: [] for n in SIZES}
    for batch in word_batches(document.text for document in documents):
        for n in SIZES:
            for found in ngrams_of_each([words for _, words in batch], n):
                different = np.unique(found)
                places = np.searchsorted(shared[n], different)
                fractions[n].append(_mean(shared[n][places] == different))
    is_copy = np.array([document.sha256 in identities for document in documents], dtype=np.bool_)
    return Overlap(documents, is_copy, {n: np.array(each) for n, each in fractions.items()})


class _Marks:
    """Which n-grams may be among those that were added: four bits a byte and size, found by their hash.

    An n-gram that was added is always among them, another one by chance, here to about one in 64.
    """

    def __init__(self, words: int) -> None:
        """words   about how many n-grams of a size will be added"""
        bits = min(max((16 * words).bit_length(), _MARK_BITS[0]), _MARK_BITS[1])
        self.table, self.shift = np.zeros(2**bits, np.uint8), np.uint64(64 - bits)

    def add(self, n: int, hashes: Hashes) -> None:
        first_bit = 4 * SIZES.index(n)
        # one bit after the other: a slot may be named twice in an assignment
        for low in range(4):
            some = hashes[hashes & np.uint64(3) == low] >> self.shift
            self.table[some] |= np.uint8(1 << (low + first_bit))

    def has(self, n: int, hashes: Hashes) -> NDArray[np.bool_]:
        bits = (hashes & np.uint64(3)).astype(np.uint8) + np.uint8(4 * SIZES.index(n))
        is_marked: NDArray[np.bool_] = (self.table[hashes >> self.shift] >> bits & 1).astype(np.bool_)
        return is_marked


class _Different:
    """Different hashes, put in order whenever there are twice as many as before."""

    def __init__(self) -> None:
        # the largest number: a search then never ends behind the last
        self.kept: Hashes = np.array([2**64 - 1], dtype=np.uint64)
        self.waiting: list[Hashes] = []
        self.size = 0

    def add(self, hashes: Hashes) -> None:
        self.waiting.append(hashes)
        self.size += len(hashes)
        if self.size > max(len(self.kept), _WAITING):
            self.sorted()

    def sorted(self) -> Hashes:
        self.kept = np.unique(np.concatenate([self.kept, *self.waiting]))
        self.waiting, self.size = [], 0
        return self.kept


def _ngrams(batch: Sequence[tuple[str, Hashes]], size: int) -> Hashes:
    """Of all texts of a batch; none goes on in the next text."""
    return np.concatenate(ngrams_of_each([words for _, words in batch], size))


def _mean(is_seen: NDArray[np.bool_]) -> float:
    return float(is_seen.mean()) if len(is_seen) else 0.0
