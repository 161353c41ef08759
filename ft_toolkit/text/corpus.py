"""Sources to documents.

A model reads the exact strings of the file. Readers change nothing, and `_clean` is the one place that does:
it removes a byte order mark and turns CRLF and CR into LF. `identity` normalises more, but only to find
copies.
"""

from __future__ import annotations

import io
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import Any

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.network import hub_or_cache, hub_reason
from ft_toolkit.references import TextReference, parse_text
from ft_toolkit.sections import Corpus, Unit
from ft_toolkit.text.packed import File
from ft_toolkit.text.personal import redact
from ft_toolkit.text.readers import is_table, read_text, table_rows
from ft_toolkit.text.sources import CHECK, files_of

# source, row, text, and a hash of the file or of the split.group that the text is a piece of
Raw = tuple[str, int, str, str | None]
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
    known: dict[str, str] = {}  # the first document's id, by the text's identity
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
                copied.append((document.id, known[document.sha256]))
            else:
                documents.append(document)
                known.setdefault(document.sha256, document.id)
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
    """Every document of a source, also empty ones and copies.

    unreadable   receives a line for each file that corpus.skip_unreadable leaves out
    raises       Unreadable for such a file where it is not to be left out
    """
    reference = parse_text(corpus.source)
    if reference.kind == "hub":
        for split_name, row, raw, whole_sha256 in _hub_rows(reference, corpus.text, corpus.split.group):
            yield split_name, row, _clean(raw, f"{split_name}, row {row}"), whole_sha256
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
        fill = _template(corpus.text)
        for row, columns in enumerate(table_rows(file, corpus.encoding)):
            where = f"{file.place}, row {row}"
            whole_sha256 = _group_sha256(columns, corpus.split.group, where)
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


def _hub_rows(
    reference: TextReference, text: str, group: str | None
) -> Iterator[tuple[str, int, str, str | None]]:
    """Rows of a Hub dataset, every split of it: the parts are ours to choose, by hash."""
    import datasets

    revision = reference.revision or ""
    where = f"corpus {reference.source.removesuffix(revision)}{revision[:12]}"
    with hub_or_cache() as silence:
        try:
            # given a bare name, datasets prefers a folder of that name in the working folder
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{reference.name}", reference.config, revision=reference.revision
            )
            builder.download_and_prepare()
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            fix = f"Check the {'network' if silence else 'name'}."
            reason = hub_reason(error, silence)
            raise FtError(where, "a dataset on the Hub or in the cache", reason, fix) from None
    if _COMMIT.fullmatch(revision) and builder.hash != revision:
        found = f"{builder.hash[:12]}, the newest in the cache"  # which datasets falls back to
        raise FtError(where, "that revision", found, "Check the network.")
    fill = _template(text)
    for split_name, rows in builder.as_dataset().items():
        for row, columns in enumerate(rows):
            where = f"{reference.source}, {split_name} row {row}"
            yield split_name, row, fill(columns, where), _group_sha256(columns, group, where)


def _template(text: str) -> Callable[[dict[str, Any], str], str]:
    """A column name, or a template whose {names} are columns, as a function of one row."""
    try:
        parsed = [field[1:] for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise FtError("corpus.text", "a template like {title}", text, f"Fix it: {error}.") from None
    fields = [name for name, _, _ in parsed if name is not None]
    # {title:>10000000} and {title!r} would produce text that is in no file
    if any(spec or conversion or not (name or "").isidentifier() for name, spec, conversion in parsed):
        raise FtError("corpus.text", "plain column names in braces", text, "Write {column}; {{ for a brace.")
    columns: Sequence[str] = fields or [text]

    def fill(row: dict[str, Any], where: str) -> str:
        values = {name: _cell(row, name, where) for name in columns}
        return text.format_map(values) if fields else values[text]

    return fill


def _group_sha256(row: dict[str, Any], column: str | None, where: str) -> str | None:
    """A hash of what rows that belong together share, so that no name of a patient is in the run folder."""
    value = "" if column is None else _cell(row, column, where, "corpus.split.group").strip()
    return sha256(f"split.group {value}".encode()).hexdigest() if value else None


def _cell(row: dict[str, Any], column: str, where: str, key: str = "corpus.text") -> str:
    if column not in row:
        present = ", ".join(str(name) for name in row)
        raise FtError(f"{where}: {key}", f"column {column}", f"columns {present}", f"Set {key}.")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise FtError(f"{where}: {column}", "text", type(value).__name__, "Store the column as text.")
