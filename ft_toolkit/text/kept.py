"""Large texts in files: their documents in memory-mapped Arrow, and what screening found out about them.

A text of more than KEPT_FROM_CHARACTERS is not held in memory: it is written to one file, and the system
loads of it what is looked at. Where its source can be recognised the file stays in the cache folder and the
next run reads it, as it does what was found. Files are named by a hash of what they were made from, written
whole or not at all, and checked before they are used; a damaged one is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.artefacts import (
    file_sha256,
    read_json,
    remove_oldest,
    value_sha256,
    with_checksum,
    written_whole,
)
from ft_toolkit.errors import FtError
from ft_toolkit.session import kept_text
from ft_toolkit.text.documents import Document, Placed, hash_documents
from ft_toolkit.text.ngrams import Hashes
from ft_toolkit.text.scratch import Words, disk, room_in

KEPT_FROM_CHARACTERS = 2**23  # less is read again in some three seconds
LEFT_SECONDS = 86_400  # nobody writes on a file for longer
FORMAT = 1  # of these files, and of what reading and screening find in a text
_BATCH_CHARACTERS = 2**22
_COLUMNS = ("corpus", "source", "row", "text", "whole_sha256", "sha256", "text_sha256")
_HASHES = _COLUMNS[-3:]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Table:
    """A file of documents.

    columns   of Arrow, one for each of _COLUMNS
    words     of each document
    """

    columns: list[Any]
    words: Words


class KeptDocument(Placed):
    """A document in a file: what is asked for is read from there, and not held."""

    __slots__ = ("_near_group", "_number", "_table")

    def __init__(self, table: Table, number: int, near_group: str | None = None) -> None:
        self._table, self._number, self._near_group = table, number, near_group

    def _cell(self, column: int) -> Any:
        return self._table.columns[column][self._number].as_py()

    @property
    def corpus(self) -> str:
        return str(self._cell(0))

    @property
    def source(self) -> str:
        return str(self._cell(1))

    @property
    def row(self) -> int:
        return int(self._cell(2))

    @property
    def text(self) -> str:
        return str(self._cell(3))

    @property
    def whole_sha256(self) -> str | None:
        found = self._cell(4)
        return None if found is None else str(found.hex())

    @property
    def near_group(self) -> str | None:
        return self._near_group

    @property
    def sha256(self) -> str:
        return str(self._cell(5).hex())

    @property
    def text_sha256(self) -> str:
        return str(self._cell(6).hex())

    @property
    def words(self) -> Hashes:
        return self._table.words.of(self._number, lambda: self.text)

    def in_group(self, near_group: str) -> Document:
        return KeptDocument(self._table, self._number, near_group)

    def __repr__(self) -> str:
        return f"KeptDocument({self.id})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeptDocument) or self._table is not other._table:
            return False
        return (self._number, self.near_group) == (other._number, other.near_group)

    def __hash__(self) -> int:
        return hash((id(self._table), self._number))


def shelved(documents: Iterator[Document], path: Path | None) -> list[Document]:
    """The documents as they are, or those of a large text as ones in a file.

    path     of the file, if it is to stay; None: it is gone when its documents are
    raises   FtError where there is no room for it
    """
    first, characters = [], 0
    for document in documents:
        first.append(document)
        characters += len(document.text)
        if characters > KEPT_FROM_CHARACTERS:
            everything = chain(first, documents)
            if path is not None:
                return _written(everything, path)
            # what is mapped stays readable without its file
            with tempfile.TemporaryDirectory(dir=disk()) as folder:
                return _written(everything, Path(folder) / "documents.arrow")
    return first


def kept_documents(path: Path) -> list[Document]:
    """All documents of a file that `shelved` wrote."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_file(file).read_all()  # nothing is read before it is looked at
    kept = Table(table.columns, Words(table.num_rows))
    return [KeptDocument(kept, number) for number in range(table.num_rows)]


def _written(documents: Iterable[Document], path: Path) -> list[Document]:
    import pyarrow

    types = [pyarrow.string()] * 2 + [pyarrow.int64(), pyarrow.large_string()] + [pyarrow.binary(32)] * 3
    schema = pyarrow.schema(list(zip(_COLUMNS, types, strict=True)))
    with room_in(path.parent), written_whole(path) as unfinished:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT, 0o600))  # somebody's text
        with pyarrow.OSFile(str(unfinished), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
            for batch in _batches(documents):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))
    return kept_documents(path)


def _batches(documents: Iterable[Document]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    characters = 0
    for document in documents:
        row = {name: getattr(document, name) for name in _COLUMNS}
        batch.append(row | {name: row[name] and bytes.fromhex(row[name]) for name in _HASHES})
        characters += len(row["text"])
        if characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def place_for(key: str | None) -> Path | None:
    """The file of the documents that this is the key of; None where none can be kept."""
    folder, most_bytes = kept_text("texts")
    return None if key is None or not most_bytes or disk() != folder else folder / f"{key}.arrow"


def keep(path: Path, facts: Mapping[str, Any]) -> None:
    """Say that a file is whole: `facts_of` gives these facts from now on. Old files are removed."""
    with suppress(OSError):
        recorded = with_checksum({"facts": dict(facts), "sha256": file_sha256(path)})
        with written_whole(path.with_suffix(".json")) as unfinished:
            unfinished.write_text(json.dumps(recorded), encoding="utf-8")
            unfinished.chmod(0o600)
        _clear_up(path.parent)


def facts_of(path: Path | None) -> dict[str, Any] | None:
    """What `keep` was told of a file that is there as it was written; else None."""
    if path is None or not path.is_file():
        return None
    try:
        recorded = read_json(path.with_suffix(".json"))
        if recorded.get("sha256") != file_sha256(path):
            return None
        for used in (path, path.with_suffix(".json")):
            os.utime(used)
    except (OSError, FtError):
        return None
    found: dict[str, Any] = recorded["facts"]
    return found


def kept_arrays(
    what: str, texts: Sequence[Sequence[Document]], settings: object, make: Callable[[], Arrays]
) -> Arrays:
    """What is found out about some texts: of a large one it is kept, and read the next time.

    texts      the first is the one that may be large
    settings   plain values that the result depends on, too
    """
    folder, most_bytes = kept_text("texts")
    if not is_kept(texts[0]) or not most_bytes:
        return make()
    key = value_sha256([FORMAT, what, [hash_documents(each) for each in texts], settings])
    path = folder / f"{key}.npz"
    if facts_of(path) is not None:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    made = make()
    with suppress(OSError):  # nobody misses what is not kept
        with written_whole(path) as unfinished, unfinished.open("wb") as file:
            unfinished.chmod(0o600)
            np.savez(file, **made)  # type: ignore[arg-type]
        keep(path, {})
    return made


def is_kept(documents: Sequence[Document]) -> bool:
    """Whether they are of a large text: what is found about it is worth keeping, too."""
    return bool(documents) and isinstance(documents[0], KeptDocument)


def _clear_up(folder: Path) -> None:
    """Until the files are no more than FT_KEPT_GB; the newest stays. Also what killed processes left."""
    for path in folder.iterdir():
        is_old = time.time() - path.stat().st_mtime > LEFT_SECONDS
        if is_old and (path.is_dir() or path.name.endswith(".unfinished")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    newest = max(folder.glob("*.[an]*"), key=lambda path: path.stat().st_mtime)
    remove_oldest(folder, kept_text("texts")[1], {newest.name})
