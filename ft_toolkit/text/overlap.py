"""How much of the held-out text also stands in the training text, by its n-grams of words.

8-grams are those of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 8), 13-grams those of GPT-3 (Brown
et al. 2020, arXiv:2005.14165, appendix C). A test document is tainted by PaLM's rule, from 70 % of its
8-grams on: a single shared 13-gram, GPT-3's rule, is any sentence of boilerplate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.documents import Document, text_keys
from ft_toolkit.text.kept import Arrays, kept_arrays
from ft_toolkit.text.ngrams import Hashes, ngrams_of_each, word_batches
from ft_toolkit.text.scratch import Numbers, scratch
from ft_toolkit.text.splitting import Parts

SIZES = (8, 13)
TAINTED_FRACTION = 0.7  # of the 8-grams
_WORD_LETTERS = 5  # with its blank; a little few, to be safe
_MARK_BITS = (16, 26)  # fewest and most bytes of the table, as powers of two


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
    """Compare some sets of documents with the training text; what a large text has is kept for the next time.

    The n-grams of the held-out text are sorted, in a file where they are many, and each that the training
    text has is marked: the held-out text is read twice, the training text once.
    """

    def found() -> Arrays:
        return {f"{name} {kind}": each for name, kinds in _compared(train, held) for kind, each in kinds}

    arrays = kept_arrays("overlap", [train, *held.values()], list(held), found)
    return {
        name: Overlap(documents, arrays[f"{name} copy"], {n: arrays[f"{name} {n}"] for n in SIZES})
        for name, documents in held.items()
    }


def _compared(
    train: Sequence[Document], held: Mapping[str, Sequence[Document]]
) -> Iterator[tuple[str, list[tuple[str, NDArray[Any]]]]]:
    words = sum(len(document.text) for documents in held.values() for document in documents) // _WORD_LETTERS
    marks, numbers = _Marks(words), {n: Numbers() for n in SIZES}
    for documents in held.values():
        for batch in word_batches(documents):
            for n in SIZES:
                found = _ngrams(batch, n)
                marks.add(n, found)
                numbers[n].add(found)
    asked = {n: each.sorted() for n, each in numbers.items()}
    is_seen = {n: scratch((len(each) + 1,), np.bool_) for n, each in asked.items()}
    for batch in word_batches(train):
        for n in SIZES:
            found = _ngrams(batch, n)
            found = np.unique(found[marks.has(n, found)])
            places = np.searchsorted(asked[n], found).clip(max=max(0, len(asked[n]) - 1))
            is_seen[n][places[asked[n][places] == found]] = True
    keys = np.sort(text_keys(train))
    for name, documents in held.items():
        shares: dict[int, list[float]] = {n: [] for n in SIZES}
        for batch in word_batches(documents):
            for n in SIZES:
                different = [np.unique(each) for each in ngrams_of_each([words for _, words in batch], n)]
                seen = is_seen[n][_places(asked[n], np.concatenate(different))]
                ends = np.cumsum([len(each) for each in different])[:-1]
                shares[n] += map(_mean, np.split(seen, ends))
        copies = np.isin(text_keys(documents), keys)
        yield name, [("copy", copies), *((f"{n}", np.array(each)) for n, each in shares.items())]


def _places(hashes: Hashes, asked: Hashes) -> NDArray[np.int64]:
    """Where each of some hashes is among sorted ones, looked up in order: that takes half the time."""
    order = np.argsort(asked)
    places = np.empty(len(asked), np.int64)
    places[order] = np.searchsorted(hashes, asked[order])
    return places


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


def _ngrams(batch: Sequence[tuple[Document, Hashes]], size: int) -> Hashes:
    """Of all texts of a batch; none goes on in the next text."""
    return np.concatenate(ngrams_of_each([words for _, words in batch], size))


def _mean(is_seen: NDArray[np.bool_]) -> float:
    return float(is_seen.mean()) if len(is_seen) else 0.0
