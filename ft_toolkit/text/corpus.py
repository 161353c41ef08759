"""Sources to documents, and documents to a split that nothing moves.

Text reaches a model as the exact strings of the file: every reader takes strings as they stand, and
`_clean` is the one place that changes any (a byte order mark is removed, CRLF and CR become LF).
"""

from __future__ import annotations

import glob
import io
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.network import hub_or_cache, hub_reason
from ft_toolkit.recipe import Corpus, Split
from ft_toolkit.text.readers import TABLE_ENDINGS, TEXT_ENDINGS, decode, ending_of, table_rows

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_DATASET = re.compile(rf"(?P<owner>{_ID})/(?P<name>{_ID})(?:/(?P<config>[^@]+))?(?:@.+)?")
_CHECK = "Check corpus.source."
_HUB_OR_FOLDER = "Write hf:owner/name, or a local folder without hf:."
Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Document:
    """One text, and where it stands: `source` relative to the corpus root, `row` counted from 0 in it."""

    source: str
    row: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.source}#{self.row}"

    @cached_property
    def sha256(self) -> str:
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Reading:
    """What a source held; empty documents are counted and left out."""

    documents: list[Document]
    empty_documents: int

    @property
    def not_nfc_documents(self) -> int:
        """How many have letters apart from their marks, or Hangul in jamo, as macOS writes it: kept so."""
        return sum(not unicodedata.is_normalized("NFC", document.text) for document in self.documents)


@dataclass(frozen=True)
class Parts:
    """The three parts of a corpus: learn from, choose by, judge on."""

    train: list[Document]
    validation: list[Document]
    test: list[Document]

    def __iter__(self) -> Iterator[tuple[Part, list[Document]]]:
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test


def read_corpus(corpus: Corpus) -> Reading:
    """Read every document of a recipe's source, in the order of its files.

    raises   FtError naming the file (and byte, line or column) for what cannot be read as asked
    """
    return read_source(corpus.source, corpus.text, corpus.documents)


def read_source(source: str, text: str = "text", unit: str | None = None) -> Reading:
    """Read a source; see recipe.Corpus for the meaning of `text` and `unit` (documents)."""
    documents = []
    empty = 0
    for name, row, raw in _raw_documents(source, text, unit):
        cleaned = _clean(raw, f"{name}, row {row}")
        if cleaned.strip():
            documents.append(Document(name, row, cleaned))
        else:
            empty += 1
    if not documents:
        found = f"{empty} empty documents" if empty else "nothing"
        raise FtError(f"corpus {source}", "at least one document with text", found, _CHECK)
    return Reading(documents, empty)


def split(documents: Iterable[Document], plan: Split) -> Parts:
    """Put each document in a part by a hash of its text and the seed: adding one never moves another.

    Equal texts share a part, so no exact copy of a held-out document is trained on.
    """
    parts: dict[Part, list[Document]] = {"train": [], "validation": [], "test": []}
    for document in documents:
        digest = sha256(f"{plan.seed}:{document.sha256}".encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        part: Part = (
            "test" if place < plan.test else "validation" if place < plan.test + plan.validation else "train"
        )
        parts[part].append(document)
    for part, held in parts.items():
        if not held:
            sizes = ", ".join(f"{len(d)} {p}" for p, d in parts.items())
            raise FtError(
                "corpus.split", f"a document in every part, {part} included", sizes, "Add documents."
            )
    return Parts(**parts)


def _raw_documents(source: str, text: str, unit: str | None) -> Iterator[tuple[str, int, str]]:
    kind, colon, name = source.partition(":")
    if colon and kind == "hf":
        yield from _hub_rows(name, text)
        return
    root, files = _files(shipped.corpus(name) if colon and kind == "package" else Path(source), source)
    for path in files:
        relative = path.relative_to(root).as_posix()
        if ending_of(path) in TABLE_ENDINGS:
            if unit not in (None, "row"):
                raise FtError(f"{path}: corpus.documents", "row, for a table", unit, "Leave documents out.")
            fill = _template(text)
            for row, columns in enumerate(table_rows(path)):
                yield relative, row, fill(columns, f"{path}, row {row}")
        elif unit == "row":
            raise FtError(
                f"{path}: corpus.documents", "file, paragraph or line, for text", unit, "Change it."
            )
        else:
            for row, raw in enumerate(_pieces(decode(path), unit or "file")):
                yield relative, row, raw


def _files(path: Path, source: str) -> tuple[Path, list[Path]]:
    """The corpus root, and the files below it in a fixed order; no folder below it is entered by a link."""
    try:
        is_file = path.is_file()
    except OSError as error:  # such as a name that is too long for the file system
        raise FtError(f"corpus {source}", "a file, folder or glob", error.strerror, _CHECK) from None
    if is_file:
        if ending_of(path) not in TEXT_ENDINGS + TABLE_ENDINGS:
            wanted = " ".join(TEXT_ENDINGS + TABLE_ENDINGS)
            raise FtError(
                path, f"a file ending in {wanted} (or .gz after it)", path.name, "Convert or rename it."
            )
        return path.parent, [path]
    if path.is_dir():
        root, found = path, sorted(path.rglob("*"))
    elif glob.has_magic(source):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = sorted(Path(match) for match in glob.glob(source, recursive=True))
    else:
        raise FtError(f"corpus {source}", "a file, folder or glob", "nothing there", _CHECK)
    files = [
        f
        for f in found
        if f.is_file() and ending_of(f) in TEXT_ENDINGS + TABLE_ENDINGS and not _hidden(f, root)
    ]
    if not files:
        wanted = " ".join(TEXT_ENDINGS + TABLE_ENDINGS)
        raise FtError(f"corpus {source}", f"files ending in {wanted}", "none", _CHECK)
    inside = root.resolve()
    for file in files:
        # a stranger's folder could name any file of this machine
        if not file.resolve().is_relative_to(inside):
            target = f"a link to {file.resolve()}"
            raise FtError(
                file, "a file inside the corpus folder", target, "Copy the file there, or unlink it."
            )
    return root, files


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _clean(raw: str, where: str) -> str:
    text = _line_feeds(raw.removeprefix("\ufeff"))
    if "\0" in text:
        raise FtError(where, "text", "a NUL character", "Is this a binary file?")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FtError(where, "text", "half a surrogate pair", "Mend the \\u escapes of this row.")
    return text


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pieces(text: str, unit: str) -> Iterator[str]:
    if unit == "file":
        yield text
    elif unit == "line":
        yield from io.StringIO(_line_feeds(text))
    else:
        lines = _line_feeds(text).split("\n")
        for blank, group in groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield "\n".join(group)


def _hub_rows(name: str, text: str) -> Iterator[tuple[str, int, str]]:
    """Rows of a Hub dataset, every split of it: the parts are ours to choose, by hash."""
    import datasets

    match = _DATASET.fullmatch(name)
    if not match or match["owner"] == "buckets":  # another kind of storage, to datasets
        raise FtError(f"corpus hf:{name}", "hf:owner/name of the Hub", name or "nothing", _HUB_OR_FOLDER)
    full, _, revision = name.partition("@")
    owner_name, config = f"{match['owner']}/{match['name']}", match["config"]
    where = f"corpus hf:{full}@{revision[:12]}".rstrip("@")
    with hub_or_cache() as silence:
        try:
            # by its bare name datasets would rather read a folder of that name in the working folder
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{owner_name}", config, revision=revision or None
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
            yield split_name, row, fill(columns, f"hf:{name}, {split_name} row {row}")


def _template(text: str) -> Callable[[dict[str, Any], str], str]:
    """A column name, or a template whose {names} are columns, as a function of one row."""
    try:
        parsed = [field[1:] for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise FtError("corpus.text", "a template like {title}", text, f"Mend it: {error}.") from None
    fields = [name for name, _, _ in parsed if name is not None]
    # {title:>10000000} and {title!r} would write what no file holds
    if any(spec or conversion or not (name or "").isidentifier() for name, spec, conversion in parsed):
        raise FtError("corpus.text", "plain column names in braces", text, "Write {column}; {{ for a brace.")
    columns: Sequence[str] = fields or [text]

    def fill(row: dict[str, Any], where: str) -> str:
        values = {name: _cell(row, name, where) for name in columns}
        return text.format_map(values) if fields else values[text]

    return fill


def _cell(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        present = ", ".join(str(key) for key in row)
        raise FtError(f"{where}: corpus.text", f"column {column}", f"columns {present}", "Set corpus.text.")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise FtError(f"{where}: {column}", "text", type(value).__name__, "Store the column as text.")
