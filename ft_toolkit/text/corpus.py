"""Sources to documents.

A model reads the exact strings of the file. Readers change nothing, and `_clean` is the one place that does:
it removes a byte order mark and turns CRLF and CR into LF. `identity` normalises more, but only to find
copies.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import groupby, islice

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.references import parse_text
from ft_toolkit.sections import Corpus, Unit
from ft_toolkit.text.columns import group_sha256, template
from ft_toolkit.text.hub import hub_rows
from ft_toolkit.text.packed import File
from ft_toolkit.text.personal import redact
from ft_toolkit.text.readers import is_table, read_text, table_rows
from ft_toolkit.text.sources import CHECK, files_of

# source, row, text, and a hash of the file or of the split.group that the text is a piece of
Raw = tuple[str, int, str, str | None]
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


def identity(text: str) -> str:
    """sha256 of a text in NFC, with line feeds, without blanks at its ends and at the ends of its lines.

    Copies that differ by a final newline, by Windows line ends or by macOS's decomposed letters are one text.
    """
    lines = unicodedata.normalize("NFC", _line_feeds(text)).split("\n")
    return sha256("\n".join(line.rstrip() for line in lines).strip().encode()).hexdigest()


@dataclass(frozen=True)
class Document:
    """One text and its place: `source` is relative to the corpus root, `row` counts from 0 within it."""

    source: str
    row: int
    text: str
    whole_sha256: str | None = None  # of the file (or the split.group) that this is a piece of
    near_group: str | None = None  # the group of its near-duplicates (screening.py)
    corpus: str = ""  # in a mixture the label of the source that it is of

    @property
    def id(self) -> str:
        place = f"{self.source}#{self.row}"
        return f"{self.corpus}: {place}" if self.corpus else place

    @cached_property
    def sha256(self) -> str:
        """The text's identity."""
        return identity(self.text)

    @cached_property
    def text_sha256(self) -> str:
        """Of the exact text, which is what a model reads."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def group(self) -> str:
        """The unit of splitting and resampling: pieces of one file are not independent."""
        return self.near_group or self.whole_sha256 or self.sha256


@dataclass(frozen=True)
class Reading:
    """The documents of a source; empty ones and later copies of a text are counted and left out."""

    documents: list[Document]
    empty_documents: int
    copies: int
    unreadable: Sequence[str] = ()  # why each file was left out that could not be read
    redacted: Mapping[str, int] = field(default_factory=dict)  # pieces of personal data, by their kind
    empty: Sequence[str] = ()  # ids
    copied: Sequence[tuple[str, str]] = ()  # the id of each copy, and of the document that was kept

    @property
    def not_nfc_documents(self) -> int:
        """How many documents are not in Unicode's NFC form, as on macOS; they are kept as they are."""
        return sum(not unicodedata.is_normalized("NFC", document.text) for document in self.documents)


def read_corpus(corpus: Corpus) -> Reading:
    """Read every document of one source; see read_corpora."""
    return read_corpora(corpus)


def read_corpora(*corpora: Corpus) -> Reading:
    """Read every document of a recipe's sources, in the order of their files; of copies the first is kept.

    raises   FtError naming the file (and byte, line or column) for what cannot be read as asked, or a source
             without a document of its own
    """
    documents: list[Document] = []
    known: dict[str, int] = {}  # number of the first document, by the text's identity
    empty: list[str] = []
    copied: list[tuple[str, str]] = []
    unreadable: list[str] = []
    redacted: Counter[str] = Counter()
    for corpus in corpora:
        before = len(documents), len(empty), len(copied), len(unreadable)
        label = corpus.label if len(corpora) > 1 else ""
        for name, row, text, whole_sha256 in raw_documents(corpus, unreadable):
            if corpus.redact:
                text, replaced = redact(text)
                redacted.update(replaced)
            document = Document(name, row, text, whole_sha256, corpus=label)
            if not document.text.strip():
                empty.append(document.id)
            elif document.sha256 in known and not corpus.keep_duplicates:
                copied.append((document.id, documents[known[document.sha256]].id))
            else:
                known.setdefault(document.sha256, len(documents))
                documents.append(document)
        sizes = (len(each) for each in (documents, empty, copied, unreadable))
        own, *left_out = (size - old for size, old in zip(sizes, before, strict=True))
        if not own:
            what = ("empty documents", "copies of another source's", "unreadable files")
            found = ", ".join(f"{n} {name}" for n, name in zip(left_out, what, strict=True) if n)
            wanted = "at least one document with text"
            raise FtError(f"corpus {corpus.source}", wanted, found or "nothing", CHECK)
    return Reading(documents, len(empty), len(copied), unreadable, redacted, empty, copied)


def read_source(source: str, text: str = "text", unit: Unit | None = None) -> Reading:
    """Read a source as a recipe without other keys would; see sections.Corpus for the meaning of each."""
    return read_corpus(Corpus(source=source, text=text, documents=unit))


@contextmanager
def faults_name(key: str) -> Iterator[None]:
    """Let faults of reading a source name another key of the recipe than corpus.source."""
    try:
        yield
    except FtError as error:
        fix = error.fix.replace("corpus.source", key)
        raise FtError(f"{key}, {error.where}", error.expected, error.found, fix) from None


def pieces(text: str, unit: str) -> Iterator[str]:
    """A text whole (`file`), by its paragraphs or by its lines."""
    if unit == "file":
        yield text
    elif unit == "line":
        yield from io.StringIO(_line_feeds(text))
    else:
        lines = _line_feeds(text).split("\n")
        for blank, group in groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield "\n".join(group)


def raw_documents(corpus: Corpus, unreadable: list[str] | None = None) -> Iterator[Raw]:
    """The documents of a source, also empty ones and copies; no more than corpus.most_documents of them.

    unreadable   receives a line for each file that corpus.skip_unreadable leaves out
    raises       Unreadable for such a file where it is not to be left out
    """
    return islice(_all_raw(corpus, unreadable), corpus.most_documents)


def _all_raw(corpus: Corpus, unreadable: list[str] | None) -> Iterator[Raw]:
    reference = parse_text(corpus.source)
    if reference.kind == "hub":
        fill = template(corpus.text)
        for split_name, row, columns in hub_rows(reference, corpus.most_documents):
            where = f"{reference.source}, {split_name} row {row}"
            text = _clean(fill(columns, where), f"{split_name}, row {row}")
            yield split_name, row, text, group_sha256(columns, corpus.split.group, where)
        return
    for open_file in files_of(corpus, reference):
        if not corpus.skip_unreadable:
            yield from _documents(open_file(), corpus)
            continue
        try:
            documents = list(_documents(open_file(), corpus))  # all of a file, or nothing of it
        except Unreadable as fault:
            if unreadable is not None:
                unreadable.append(str(fault))
            continue
        yield from documents


def _documents(file: File, corpus: Corpus) -> Iterator[Raw]:
    unit = corpus.documents
    if is_table(file.name):
        if unit not in (None, "row"):
            found = f"{unit}"
            raise FtError(
                f"{file.place}: corpus.documents", "row, for a table", found, "Leave documents out."
            )
        fill = template(corpus.text)
        for row, columns in enumerate(table_rows(file, corpus.encoding)):
            where = f"{file.place}, row {row}"
            whole_sha256 = group_sha256(columns, corpus.split.group, where)
            yield file.name, row, _clean(fill(columns, where), where), whole_sha256
    elif corpus.split.group is not None:
        wanted = f"a table with a column {corpus.split.group}"
        raise FtError(f"{file.place}: corpus.split.group", wanted, "a text file", "Leave it out.")
    elif unit == "row":
        wanted = "file, paragraph or line, for text"
        raise FtError(f"{file.place}: corpus.documents", wanted, unit, "Change it.")
    else:
        whole = read_text(file, corpus.encoding)
        file_sha256 = identity(whole) if unit in ("paragraph", "line") else None
        for row, raw in enumerate(pieces(whole, unit or "file")):
            yield file.name, row, _clean(raw, f"{file.place}, row {row}"), file_sha256


def _clean(raw: str, where: str) -> str:
    text = _line_feeds(raw.removeprefix("\ufeff"))
    if "\0" in text:
        raise Unreadable(where, "text", "a NUL character", "Is this a binary file?")
    if _HALF_SURROGATE.search(text):
        raise Unreadable(where, "text", "half a surrogate pair", "Fix the \\u escapes of this row.")
    return text


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
