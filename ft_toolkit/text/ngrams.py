"""Words and n-grams of words as 64-bit hashes: texts are compared by them, and never kept."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.draws import scrambled

# Thai, Lao, Myanmar, Khmer, kana and Chinese characters stand without spaces: each counts as a word
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_PUNCTUATION = "!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}{_PUNCTUATION}]+")
Hashes = NDArray[np.uint64]


def folded(text: str) -> str:
    """In NFC and without case."""
    return unicodedata.normalize("NFC", text).casefold()


def word_hashes(text: str) -> Hashes:
    """A hash of each word, without case and punctuation, in their order."""
    words = _WORD.findall(folded(text))
    return np.fromiter(map(text_hash, words), dtype=np.uint64, count=len(words))


def ngrams(words: Hashes, size: int) -> Hashes:
    """A hash of each run of `size` words; none where there are fewer words.

    words   (n,) as word_hashes gives them
    """
    count = len(words) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    found = words[:count]
    for offset in range(1, size):  # the order of the words counts
        found = scrambled(found, offset) ^ words[offset : offset + count]
    return scrambled(found, size)


@lru_cache(maxsize=2**16)
def text_hash(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
