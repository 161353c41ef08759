"""Words and n-grams of words as 64-bit hashes: texts are compared by them, and never kept."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

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
_WORDS_AT_ONCE = 2**16
_KEPT_WORDS = 2**17  # 20 MB; a text has some ten thousand different words
Hashes = NDArray[np.uint64]


class _Worded(Protocol):
    @property
    def words(self) -> Hashes: ...


W = TypeVar("W", bound=_Worded)
_NOTHING: Hashes = np.empty(0, dtype=np.uint64)


def folded(text: str) -> str:
    """In NFC and without case."""
    return unicodedata.normalize("NFC", text).casefold()


def word_hashes(text: str) -> Hashes:
    """A hash of each word, without case and punctuation, in their order."""
    words = _WORD.findall(folded(text))
    return np.fromiter(map(_hash_of.__getitem__, words), dtype=np.uint64, count=len(words))


def ngrams(words: Hashes, size: int) -> Hashes:
    """A hash of each run of `size` words; none where there are fewer words.

    words   (n,) as word_hashes gives them
    """
    count = len(words) - size + 1
    if count < 1:
        return _NOTHING
    found = words[:count]
    for offset in range(1, size):  # the order of the words counts
        found = scrambled(found, offset) ^ words[offset : offset + count]
    return scrambled(found, size)


def word_batches(documents: Iterable[W]) -> Iterator[list[tuple[W, Hashes]]]:
    """Documents with their words' hashes, many at once: most are too short for calls of numpy."""
    batch: list[tuple[W, Hashes]] = []
    size = 0
    for document in documents:
        batch.append((document, document.words))
        size += len(batch[-1][1])
        if size >= _WORDS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def ngrams_of_each(texts: Sequence[Hashes], size: int) -> list[Hashes]:
    """The n-grams of each text, as ngrams gives them; none goes on in the next text.

    texts   the words of each
    """
    found = ngrams(np.concatenate(texts), size) if texts else _NOTHING
    starts = np.cumsum([0, *map(len, texts)])
    return [
        found[start : max(start, start + len(words) - size + 1)]
        for start, words in zip(starts.tolist(), texts, strict=False)
    ]


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


class _HashOf(dict[str, int]):
    """The hash of each word met so far: looked up twice as fast as through functools.lru_cache."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KEPT_WORDS:
            self.clear()
        found = self[word] = text_hash(word)
        return found


_hash_of = _HashOf()
