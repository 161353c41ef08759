"""What a corpus holds, by counting alone: scripts, languages, repeated sentences, personal data, lengths."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.documents import Document
from ft_toolkit.text.kept import is_kept
from ft_toolkit.text.personal import find, redact
from ft_toolkit.text.screening import Screened
from ft_toolkit.text.splitting import sample

SAMPLE_BYTES = 2**19  # tokenising 10 MB takes longer than anybody wants to look
EXAMPLES = 3
REPEATED_DOCUMENTS = 3  # a sentence that so many documents have is boilerplate
LEAST_SENTENCE = 30  # characters; a shorter one may repeat by chance
_COUNTERS = 2**25
_SENTENCE_ENDS = (". ", "? ", "! ", "。")
_WORD = re.compile(r"[^\W\d_]{2,24}")
_BATCH_CHARACTERS = 2**20
_BATCH_SENTENCES = 2**17
# the most frequent words of some languages that share the Latin script
_FUNCTION_WORDS = {
    "en": "the of and to in is that it for was with as are be this on by have from or which you",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an",
    "fr": "de la le et les des en un une du dans est que pour qui sur pas plus par au avec ce il ne",
    "es": "de la que el en y los se del las un por con no una su para es al lo como más pero",
    "it": "di e il la che in un per del è non una con si da le dei nel della sono come al più",
    "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao",
    "nl": "de van het een en in is dat op te zijn met voor niet aan er ook als door bij naar om",
}
_LATIN = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
_LANGUAGE_OF_SCRIPT = {
    "Hangul": "ko",
    "Hiragana": "ja",
    "Katakana": "ja",
    "CJK": "zh",
    "Arabic": "ar or another in Arabic script",
    "Cyrillic": "ru or another in Cyrillic",
    "Greek": "el",
    "Hebrew": "he",
    "Thai": "th",
}


@dataclass(frozen=True)
class Repeated:
    """A sentence that several documents have."""

    text: str
    documents: int


@dataclass
class Personal:
    """Personal data of one kind; examples are masked."""

    count: int = 0
    documents: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Broken:
    """A frequent word of which the tokenizer makes many pieces."""

    word: str
    count: int
    pieces: list[str]


@dataclass(frozen=True)
class Tokens:
    """How a base's tokenizer reads the corpus; of a large one a sample, and the totals are estimates."""

    base: str
    read_bytes: int
    is_sample: bool
    tokens: int
    bytes_per_token: float
    unknown_fraction: float | None  # None: the tokenizer knows every byte, or its model has no [UNK]
    lengths: list[tuple[int, int, int]]  # tokens a document: from, below, documents
    broken: list[Broken]


@dataclass(frozen=True)
class Source:
    """One source of a mixture."""

    label: str
    documents: int
    bytes: int
    parts: dict[str, int]
    weight: float | None


@dataclass(frozen=True)
class Look:
    """What a corpus holds; no personal data stands in it but masked."""

    source: str
    license: str | None
    documents: int
    bytes: int
    characters: int
    parts: dict[str, int]
    parts_fault: str | None  # why there are none
    empty: list[str]  # ids
    copied: list[tuple[str, str]]  # id of a copy, id of the document that is kept
    near: list[tuple[str, str]]  # id of a near-duplicate, id of the document that it is second to
    unreadable: list[str]
    not_nfc_documents: int
    longest_line: tuple[int, str]  # characters, id of its document
    scripts: dict[str, float]
    languages: dict[str, int]  # documents of the sample
    repeated_share: float
    repeated: list[Repeated]
    personal: dict[str, Personal]
    redacted: dict[str, int]
    tokens: Tokens | None
    tokens_fault: str | None  # why they were not counted
    rows: list[str]
    sources: list[Source] = field(default_factory=list)  # of a mixture


def sample_texts(documents: Sequence[Document], most_bytes: int = SAMPLE_BYTES) -> list[str]:
    """Texts of at most so many bytes together, drawn by a hash of each; the last one is cut to fit."""
    found, room = [], most_bytes
    for document in sample(documents, len(documents)):
        data = document.text.encode()
        found.append(document.text if len(data) <= room else data[:room].decode(errors="ignore"))
        room -= len(data)
        if room <= 0:
            break
    return [text for text in found if text]


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """The share of each script among the letters of some texts, the largest first."""
    counts: NDArray[np.int64] = np.zeros(0x110000, np.int64)
    for batch in _batches(texts):
        codes = np.frombuffer(batch.encode("utf-32-le", "surrogatepass"), np.uint32)
        counts += np.bincount(codes, minlength=0x110000)
    letters: Counter[str] = Counter()
    for code in np.flatnonzero(counts):
        if name := _script(chr(code)):
            letters[name] += int(counts[code])
    return {name: count / letters.total() for name, count in letters.most_common()}


def languages(texts: Sequence[str]) -> dict[str, int]:
    """How many texts are in each language, as far as script and frequent words tell; others are unknown."""
    return dict(Counter(_language(text) for text in texts).most_common())


def repeated_sentences(documents: Sequence[Document]) -> tuple[float, list[Repeated]]:
    """The share of all characters in sentences that REPEATED_DOCUMENTS documents have, and these sentences.

    The sentences are ordered by the characters they take in all; personal data in them is replaced. Of a
    large text only sentences are held that may be repeated: a first reading counts their hashes.
    """
    counts = _hash_counts(documents) if is_kept(documents) else None
    documents_with: Counter[str] = Counter()
    characters = 0
    for document in documents:
        characters += len(document.text)
        sentences = {s for s in _sentences(document.text) if len(s) >= LEAST_SENTENCE}
        if counts is not None:
            sentences = {s for s in sentences if counts[hash(s) % _COUNTERS] >= REPEATED_DOCUMENTS}
        documents_with.update(sentences)
    found = [(len(s) * n, s, n) for s, n in documents_with.items() if n >= REPEATED_DOCUMENTS]
    found.sort(key=lambda each: (-each[0], each[1]))
    taken = sum(size for size, _, _ in found)
    return taken / max(1, characters), [Repeated(redact(s)[0], n) for _, s, n in found]


def _hash_counts(documents: Iterable[Document]) -> NDArray[np.uint8]:
    """(_COUNTERS,) in how many documents is a sentence with each hash: too many by chance, never too few."""
    counts = np.zeros(_COUNTERS, np.uint8)

    def count(waiting: list[int]) -> None:
        slots, times = np.unique(np.array(waiting, np.int64), return_counts=True)
        counts[slots] = np.minimum(counts[slots] + times, REPEATED_DOCUMENTS)

    waiting: list[int] = []
    for document in documents:
        sentences = (s for s in _sentences(document.text) if len(s) >= LEAST_SENTENCE)
        waiting.extend({hash(s) % _COUNTERS for s in sentences})
        if len(waiting) >= _BATCH_SENTENCES:
            count(waiting)
            waiting = []
    count(waiting)
    return counts


def near_pairs(screened: Screened) -> list[tuple[str, str]]:
    """(near-duplicate, the document that it is second to) by their ids."""
    if not screened.second:
        return []
    first: dict[str, str] = {}
    for document in screened.documents:
        if document.id not in screened.second:
            first.setdefault(document.group, document.id)
    return [(d.id, first.get(d.group, "")) for d in screened.documents if d.id in screened.second]


def personal_data(documents: Iterable[Document]) -> dict[str, Personal]:
    """What matches the patterns of text/personal.py, by kind."""
    kinds: dict[str, Personal] = {}
    for document in documents:
        matches = find(document.text)
        for kind in {match.kind for match in matches}:
            kinds.setdefault(kind, Personal()).documents += 1
        for match in matches:
            kinds[match.kind].count += 1
            if len(kinds[match.kind].examples) < EXAMPLES:
                kinds[match.kind].examples.append(match.masked)
    return kinds


def histogram(values: Sequence[int]) -> list[tuple[int, int, int]]:
    """(from, below, count) for each doubling, from the first to the last that holds a value."""
    counts = Counter(value.bit_length() for value in values)
    rows = range(min(counts), max(counts) + 1) if counts else range(0)
    return [(2 ** (bits - 1) if bits else 0, 2**bits, counts[bits]) for bits in rows]


def frequent_words(texts: Iterable[str], least: int) -> list[tuple[str, int]]:
    """Words of four letters or more that occur at least so often, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word in _WORD.findall(text) if len(word) > 3)
    return [(word, count) for word, count in counts.most_common(2000) if count >= least]


def _sentences(text: str) -> list[str]:
    for end in _SENTENCE_ENDS:  # three times as fast as a regular expression
        text = text.replace(end, f"{end[0]}\n")
    return [line.strip() for line in text.split("\n")]


def _batches(texts: Iterable[str]) -> Iterator[str]:
    waiting, size = [], 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size > _BATCH_CHARACTERS:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


_LETTERS = frozenset(("LETTER", "SYLLABLE", "CJK"))  # in a name; º is an indicator, not a letter


@lru_cache(maxsize=2**16)
def _script(character: str) -> str:
    """The script of a letter, as its Unicode name begins; "" for what is no letter."""
    words = unicodedata.name(character, "").split(" ")
    if not unicodedata.category(character).startswith("L") or not _LETTERS.intersection(words):
        return ""
    return words[0] if words[0] == "CJK" else words[0].capitalize()


def _language(text: str) -> str:
    start = text[:4000]
    counts = Counter(filter(None, map(_script, start)))
    letters = counts.total()
    if not letters:
        return "unknown"
    if counts["Hiragana"] + counts["Katakana"] > 0.1 * letters:  # beside as many Chinese characters
        return "ja"
    script, most = counts.most_common(1)[0]
    if script != "Latin" or most < letters / 2:
        return _LANGUAGE_OF_SCRIPT.get(script, "unknown")
    words = Counter(_WORD.findall(start.lower()))
    shares = {name: sum(words[word] for word in known) for name, known in _LATIN.items()}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= 0.08 * words.total() else "unknown"
