"""How much of the held-out text also stands in the training text, by its n-grams of words.

8-grams are those of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 8), 13-grams those of GPT-3 (Brown
et al. 2020, arXiv:2005.14165, appendix C). A test document is tainted by PaLM's rule, from 70 % of its
8-grams on: a single shared 13-gram, GPT-3's rule, is any sentence of boilerplate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.corpus import Document
from ft_toolkit.text.ngrams import Hashes, ngrams_of_each, word_batches
from ft_toolkit.text.splitting import Parts

SIZES = (8, 13)
TAINTED_FRACTION = 0.7  # of the 8-grams


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
    """Compare some sets of documents with the training text, which is read once and not kept."""
    identities = {document.sha256 for document in train}
    own = {
        name: [words for batch in word_batches(d.text for d in documents) for _, words in batch]
        for name, documents in held.items()
    }
    grams = {(name, n): _different(words, n) for name, words in own.items() for n in SIZES}
    asked = {n: _sorted(chain.from_iterable(grams[name, n] for name in held)) for n in SIZES}
    is_seen = {n: np.zeros(len(asked[n]), dtype=np.bool_) for n in SIZES}
    for batch in word_batches(document.text for document in train):
        for n in SIZES:
            found = _sorted(ngrams_of_each([words for _, words in batch], n))
            places = np.searchsorted(asked[n], found)
            is_seen[n][places[asked[n][places] == found]] = True
    return {
        name: Overlap(
            documents,
            np.array([document.sha256 in identities for document in documents], dtype=np.bool_),
            {
                n: np.array([_mean(is_seen[n][np.searchsorted(asked[n], each)]) for each in grams[name, n]])
                for n in SIZES
            },
        )
        for name, documents in held.items()
    }


def _different(words: Sequence[Hashes], size: int) -> list[Hashes]:
    return [np.unique(each) for each in ngrams_of_each(words, size)]


def _sorted(hashes: Iterable[Hashes]) -> Hashes:
    """All different ones, and the largest number: a search then never ends behind the last."""
    return np.unique(np.concatenate([np.array([2**64 - 1], dtype=np.uint64), *hashes]))


def _mean(is_seen: NDArray[np.bool_]) -> float:
    return float(is_seen.mean()) if len(is_seen) else 0.0
