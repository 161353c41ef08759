"""A document: one text and its place, held in memory or read from a file each time it is looked at."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.ngrams import Hashes, word_hashes


def line_feeds(text: str) -> str:
    """A text with line feeds alone at the ends of its lines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def identity(text: str) -> str:
    """sha256 of a text in NFC, with line feeds, without blanks at its ends and at the ends of its lines.

    Copies that differ by a final newline, by Windows line ends or by macOS's decomposed letters are one text.
    """
    lines = unicodedata.normalize("NFC", line_feeds(text)).split("\n")
    return sha256("\n".join(line.rstrip() for line in lines).strip().encode()).hexdigest()


def identity_of_lines(lines: Iterable[str]) -> str:
    """The identity of a text that is not held: no letter of NFC goes over the end of a line.

    lines   with or without their line feeds
    """
    digest, blank_lines = sha256(), -1  # nothing before the first line with a letter
    for line in lines:
        line = unicodedata.normalize("NFC", line).rstrip()
        if not line:
            blank_lines += blank_lines >= 0
            continue
        line = line.lstrip() if blank_lines < 0 else "\n" * (blank_lines + 1) + line
        digest.update(line.encode())
        blank_lines = 0
    return digest.hexdigest()


class Document(Protocol):
    """One text and its place: `source` is relative to the corpus root, `row` counts from 0 within it."""

    @property
    def source(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def whole_sha256(self) -> str | None:
        """Of the file (or the split.group) that this is a piece of."""

    @property
    def near_group(self) -> str | None:
        """The group of its near-duplicates (screening.py)."""

    @property
    def corpus(self) -> str:
        """In a mixture the label of the source that it is of."""

    @property
    def sha256(self) -> str:
        """The text's identity."""

    @property
    def text_sha256(self) -> str:
        """Of the exact text, which is what a model reads."""

    @property
    def words(self) -> Hashes:
        """A hash of each of its words (ngrams.py)."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str:
        """The unit of splitting and resampling: pieces of one file are not independent."""

    def in_group(self, near_group: str) -> Document:
        """The same document among near-duplicates."""


class Placed:
    """What a document's place says, wherever its text is."""

    __slots__ = ()

    @property
    def id(self: Document) -> str:
        place = f"{self.source}#{self.row}"
        return f"{self.corpus}: {place}" if self.corpus else place

    @property
    def group(self: Document) -> str:
        return self.near_group or self.whole_sha256 or self.sha256


@dataclass(frozen=True, slots=True)
class TextDocument(Placed):
    """A document in memory."""

    source: str
    row: int
    text: str
    whole_sha256: str | None = None
    near_group: str | None = None
    corpus: str = ""
    _sha256: str | None = field(default=None, init=False, repr=False, compare=False)
    _text_sha256: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            object.__setattr__(self, "_sha256", identity(self.text))
        return self._sha256 or ""

    @property
    def text_sha256(self) -> str:
        if self._text_sha256 is None:
            object.__setattr__(self, "_text_sha256", sha256(self.text.encode()).hexdigest())
        return self._text_sha256 or ""

    @property
    def words(self) -> Hashes:
        return word_hashes(self.text)

    def in_group(self, near_group: str) -> Document:
        return replace(self, near_group=near_group)


def first_of_equal(documents: Sequence[Document]) -> NDArray[np.int64]:
    """(documents,) the number of the first document with the same text as each: its own, mostly.

    64 bits of the identities are compared, and the whole of those that agree: eight bytes a document.
    """
    _, firsts, inverse = np.unique(text_keys(documents), return_index=True, return_inverse=True)
    found = firsts[inverse]
    for number in np.flatnonzero(found != np.arange(len(documents))).tolist():
        if documents[number].sha256 != documents[found[number]].sha256:  # one in 10**7 corpora of 10**6
            same = (n for n in range(number) if documents[n].sha256 == documents[number].sha256)
            found[number] = next(same, number)
    return np.asarray(found, dtype=np.int64)


def text_keys(documents: Sequence[Document]) -> Hashes:
    """(documents,) the first 64 bits of each text's identity."""
    return first_bits(document.sha256 for document in documents)


def first_bits(sha256s: Iterable[str]) -> Hashes:
    """The first 64 bits of some hashes."""
    return np.array([int(each[:16], 16) for each in sha256s], np.uint64)


def hash_documents(documents: Sequence[Document]) -> str:
    """sha256 over the exact texts of documents, in their order."""
    digest = sha256()
    for document in documents:
        digest.update(document.text_sha256.encode())
    return digest.hexdigest()
