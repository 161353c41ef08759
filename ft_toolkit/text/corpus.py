"""Sources to documents.

A model reads the exact strings of the file. Readers change nothing, and `_clean` is the one place that does:
it removes a byte order mark and turns CRLF and CR into LF. `documents.identity` normalises more, but only to
find copies.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby, islice

import numpy as np

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.references import parse_text
from ft_toolkit.sections import Corpus, Unit
from ft_toolkit.text.columns import group_sha256, template
from ft_toolkit.text.documents import Document, TextDocument, first_of_equal, identity_of_lines, line_feeds
from ft_toolkit.text.hub import hub_rows
from ft_toolkit.text.kept import facts_of, is_kept, keep, kept_documents, place_for, shelved
from ft_toolkit.text.packed import File
from ft_toolkit.text.personal import redact
from ft_toolkit.text.readers import is_table, read_text, table_rows, text_lines
from ft_toolkit.text.sources import CHECK, files_of, sources_key

# source, row, text, and a hash of the file or of the split.group that the text is a piece of
Raw = tuple[str, int, str, str | None]
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Reading:
    """The documents of a source; empty ones and later copies of a text are counted and left out."""

    documents: list[Document]
    unreadable: list[str] = field(default_factory=list)  # why each file was left out that could not be read
    redacted: dict[str, int] = field(default_factory=dict)  # pieces of personal data, by their kind
    empty: list[str] = field(default_factory=list)  # ids
    copied: list[tuple[str, str]] = field(default_factory=list)  # ids: of a copy, of what was kept

    @property
    def empty_documents(self) -> int:
        return len(self.empty)

    @property
    def copies(self) -> int:
        return len(self.copied)

    @property
    def not_nfc_documents(self) -> int:
        """How many documents are not in Unicode's NFC form, as on macOS; they are kept as they are."""
        return sum(not unicodedata.is_normalized("NFC", document.text) for document in self.documents)


def read_corpora(*corpora: Corpus, keep_text: bool = True) -> Reading:
    """Read every document of a recipe's sources, in the order of their files; of copies the first is kept.

    keep_text  False: a large text's file is gone with its documents
    raises   FtError naming the file (and byte, line or column) for what cannot be read as asked, or a source
             without a document of its own
    """
    path = place_for(sources_key(corpora)) if keep_text else None
    if (facts := facts_of(path)) is not None and path is not None:
        return _without_copies(kept_documents(path), Reading([], **facts), corpora)
    found = Reading([])
    documents = shelved(_with_text(corpora, found), path)
    # not where a file was changed while it was read
    if path is not None and is_kept(documents) and place_for(sources_key(corpora)) == path:
        facts = asdict(found)
        del facts["documents"], facts["copied"]
        keep(path, facts)
    return _without_copies(documents, found, corpora)


def _with_text(corpora: Sequence[Corpus], found: Reading) -> Iterator[Document]:
    """Every document that is not empty; what else there is stands in `found` then."""
    for corpus in corpora:
        label = corpus.label if len(corpora) > 1 else ""
        own, before = 0, (len(found.empty), len(found.unreadable))
        for name, row, text, whole_sha256 in raw_documents(corpus, found.unreadable):
            if corpus.redact:
                text, replaced = redact(text)
                for kind, count in replaced.items():
                    found.redacted[kind] = found.redacted.get(kind, 0) + count
            document = TextDocument(name, row, text, whole_sha256, corpus=label)
            if text.strip():
                own += 1
                yield document
            else:
                found.empty.append(document.id)
        if not own:
            empty, unreadable = len(found.empty) - before[0], len(found.unreadable) - before[1]
            raise _nothing(corpus, {"empty documents": empty, "unreadable files": unreadable})


def _without_copies(documents: list[Document], read: Reading, corpora: Sequence[Corpus]) -> Reading:
    """raises   FtError for a source that holds copies alone"""
    firsts = first_of_equal(documents)
    is_copy = firsts != np.arange(len(documents))
    if corpora[0].keep_duplicates:  # all sources agree (sections.py)
        is_copy[:] = False
    left = [document for document, no in zip(documents, is_copy.tolist(), strict=True) if not no]
    copied = [(documents[n].id, documents[firsts[n]].id) for n in np.flatnonzero(is_copy).tolist()]
    if len(corpora) > 1:
        labels = {document.corpus for document in left}
        for corpus in corpora:
            if corpus.label not in labels:
                own = sum(document.corpus == corpus.label for document in documents)
                raise _nothing(corpus, {"copies of another source's": own})
    return replace(read, documents=left, copied=copied)


def _nothing(corpus: Corpus, left_out: dict[str, int]) -> FtError:
    found = ", ".join(f"{count} {what}" for what, count in left_out.items() if count) or "nothing"
    return FtError(f"corpus {corpus.source}", "at least one document with text", found, CHECK)


def read_source(source: str, text: str = "text", unit: Unit | None = None) -> Reading:
    """Read a source as a recipe without other keys would; see sections.Corpus for the meaning of each."""
    return read_corpora(Corpus(source=source, text=text, documents=unit))


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
    else:
        yield from pieces_of_lines(io.StringIO(line_feeds(text)), unit)


def pieces_of_lines(lines: Iterable[str], unit: str) -> Iterator[str]:
    """The paragraphs or lines of a text whose lines come one after the other, with their line feeds."""
    if unit == "line":
        yield from lines
        return
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield "".join(group).removesuffix("\n")


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
            file = open_file()  # all of it, or nothing: a large one is read twice, and not held
            found = deque(_documents(file, corpus), maxlen=0 if file.is_mapped else None)
        except Unreadable as fault:
            if unreadable is not None:
                unreadable.append(str(fault))
            continue
        yield from _documents(file, corpus) if file.is_mapped else found


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
        file_sha256, cut = _cut(file, corpus)
        for row, raw in enumerate(cut):
            yield file.name, row, _clean(raw, f"{file.place}, row {row}"), file_sha256


def _cut(file: File, corpus: Corpus) -> tuple[str | None, Iterable[str]]:
    """(the identity of a file that is cut, its pieces); a file that is one document has none."""
    if corpus.documents not in ("paragraph", "line"):
        return None, [read_text(file, corpus.encoding)]
    lines = partial(text_lines, file, corpus.encoding)  # a large file is read twice, and not held
    return identity_of_lines(lines()), pieces_of_lines(lines(), corpus.documents)


def _clean(raw: str, where: str) -> str:
    text = line_feeds(raw.removeprefix("\ufeff"))
    if "\0" in text:
        raise Unreadable(where, "text", "a NUL character", "Is this a binary file?")
    if _HALF_SURROGATE.search(text):
        raise Unreadable(where, "text", "half a surrogate pair", "Fix the \\u escapes of this row.")
    return text
