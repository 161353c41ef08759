"""How often the training text has a token, kept as a bit length: bands of frequency need no text, no ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.splitting import sample

if TYPE_CHECKING:  # torch comes with them; the bands themselves need no model
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.text.documents import Document

UNKNOWN = -1  # bits of a token whose count nobody knows
COUNTED_CHARACTERS = 5_000_000  # of larger training texts whole documents are counted until so many are read
Counts = NDArray[np.int64]  # (V,) how often a text has each token


def training_counts(
    model: LanguageModel, documents: Sequence[Document], most_characters: float = COUNTED_CHARACTERS
) -> Counts | None:
    """Token counts of the training text, (V,); None where there is no training text.

    Of a text beyond most_characters a sample of documents is counted, chosen by a hash of their text.
    """
    from ft_toolkit.text.blocks import encode

    counted: list[Document] = []
    left = most_characters
    for document in sample(documents, len(documents)):
        if left <= 0:
            break
        counted.append(document)
        left -= len(document.text)
    if not counted:
        return None
    ids = np.concatenate([one.ids for one in encode(counted, model.tokenizer)])
    return np.bincount(ids, minlength=len(model.tokenizer))


def count_bits(counts: Counts, ids: NDArray[np.int32]) -> NDArray[np.int8]:
    """The bit length of each token's count: 0 never, 1 once, 2 two or three times, 3 four to seven times …"""
    inside = ids < len(counts)
    found = np.where(inside, counts[np.where(inside, ids, 0)], 0)
    return np.frexp(found.astype(np.float64))[1].astype(np.int8)  # the exponent is the bit length


def unigram_nats(counts: Counts, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """NLL in nats of each token, (n,), under the frequencies of a text, one added to each count of (V,).

    source   Laplace 1814; Jurafsky & Martin, Speech and Language Processing, chapter 3
    """
    inside = ids < len(counts)
    found = np.where(inside, counts[np.where(inside, ids, 0)], 0).astype(np.float64)
    nats: NDArray[np.float64] = np.log(counts.sum() + len(counts)) - np.log1p(found)
    return nats
