"""Large texts in files: their documents in memory-mapped Arrow, and what screening found out about them.

A text of more than KEPT_FROM_CHARACTERS is not held in memory: it is written to one file, and the system
loads of it what is looked at. Where its source can be recognised the file stays in the cache folder and the
next run reads it, as it does what was found. Files are named by a hash of what they were made from, written
whole or not at all, and checked before they are used; a damaged one is made anew.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.artefacts import file_sha256, read_json, with_checksum, written_whole
from ft_toolkit.errors import FtError
from ft_toolkit.session import kept_text
from ft_toolkit.text.documents import Document
from ft_toolkit.text.ngrams import word_hashes

KEPT_FROM_CHARACTERS = 2**23  # less is read again in some three seconds
LEFT_SECONDS = 86_400  # nobody writes on a file for longer
FORMAT = 1  # of these files, and of what reading and screening find in a text
LARGE_ARRAY_BYTES = 2**25
_BATCH_CHARACTERS = 2**22
_COLUMNS = ("corpus", "source", "row", "text", "whole_sha256", "sha256", "text_sha256")
_HASHES = _COLUMNS[-3:]
Arrays = dict[str, NDArray[Any]]
Keys = NDArray[np.uint64]


class _Words:
    """The words' hashes of documents, kept in a file without a name when they are first asked for.

    To find them takes most of the time of screening, which asks for them twice.
    """

    def __init__(self, documents: int) -> None:
        self._file: FileIO | None = None
        self._size = 0
        self._places = np.full((documents, 2), -1, np.int64)  # first and behind the last

    def of(self, number: int, text: Callable[[], str]) -> Keys:
        begin, end = self._places[number].tolist()
        if begin >= 0 and self._file is not None:
            self._file.seek(8 * begin)
            return np.frombuffer(self._file.read(8 * (end - begin)), np.uint64)
        found = word_hashes(text())
        with suppress(OSError):  # a full disk costs time
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=_disk(), buffering=0)  # noqa: SIM115
            self._file.seek(8 * self._size)
            if self._file.write(found.tobytes()) == 8 * len(found):
                self._places[number] = self._size, self._size + len(found)
                self._size += len(found)
        return found


@dataclass(frozen=True)
class Table:
    """A file of documents.

    columns   of Arrow, one for each of _COLUMNS
    words     of each document
    folder    a temporary one that the file is in, removed with the last of its documents
    """

    columns: list[Any]
    words: _Words
    folder: tempfile.TemporaryDirectory[str] | None = None


class KeptDocument(Document):
    """A document in a file: what is asked for is read from there, and not held."""

    __slots__ = ("_number", "_table")
    _number: int
    _table: Table

    def __init__(self, table: Table, number: int, near_group: str | None = None) -> None:
        for name, value in (("_table", table), ("_number", number), ("near_group", near_group)):
            object.__setattr__(self, name, value)

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
    def sha256(self) -> str:
        return str(self._cell(5).hex())

    @property
    def text_sha256(self) -> str:
        return str(self._cell(6).hex())

    @property
    def words(self) -> Keys:
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
            return _written(chain(first, documents), path)
    return first


def kept_documents(path: Path, folder: tempfile.TemporaryDirectory[str] | None = None) -> list[Document]:
    """All documents of a file that `shelved` wrote."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_file(file).read_all()  # nothing is read before it is looked at
    kept = Table(table.columns, _Words(table.num_rows), folder)
    return [KeptDocument(kept, number) for number in range(table.num_rows)]


def _written(documents: Iterable[Document], path: Path | None) -> list[Document]:
    import pyarrow

    folder = None
    if path is None:
        folder = tempfile.TemporaryDirectory(dir=_disk(), ignore_cleanup_errors=True)
        path = Path(folder.name) / "documents.arrow"
    types = [pyarrow.string()] * 2 + [pyarrow.int64(), pyarrow.large_string()] + [pyarrow.binary(32)] * 3
    schema = pyarrow.schema(list(zip(_COLUMNS, types, strict=True)))
    with _room_in(path.parent), written_whole(path) as unfinished:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT, 0o600))  # somebody's text
        with pyarrow.OSFile(str(unfinished), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
            for batch in _batches(documents):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))
    found = kept_documents(path, folder)
    if folder is not None and os.name == "posix":
        folder.cleanup()  # what is mapped stays readable, also where this process is killed
    return found


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


@contextmanager
def _room_in(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        wanted = "room for a text that is too large to hold in memory"
        fix = "Free some space, or set FT_CACHE (or TMPDIR) to a folder that has it."
        raise FtError(folder, wanted, error.strerror or error, fix) from None


def place_for(key: str | None) -> Path | None:
    """The file of the documents that this is the key of; None where none can be kept."""
    folder, most_bytes = kept_text("texts")
    return None if key is None or not most_bytes or _disk() != folder else folder / f"{key}.arrow"


def keep(path: Path, facts: Mapping[str, Any]) -> None:
    """Say that a file is whole: `facts_of` gives these facts from now on. Old files are removed."""
    with suppress(OSError):
        recorded = with_checksum({"facts": dict(facts), "sha256": file_sha256(path)})
        with written_whole(path.with_suffix(".json")) as unfinished:
            unfinished.write_text(json.dumps(recorded), encoding="utf-8")
            unfinished.chmod(0o600)
        _remove_oldest(path.parent)


def facts_of(path: Path | None) -> dict[str, Any] | None:
    """What `keep` was told of a file that is there as it was written; else None."""
    if path is None or not path.is_file():
        return None
    try:
        recorded = read_json(path.with_suffix(".json"))
        if recorded.get("sha256") != file_sha256(path):
            return None
        os.utime(path)  # used now
    except (OSError, FtError):
        return None
    found: dict[str, Any] = recorded["facts"]
    return found


def kept_arrays(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that were made under this key before; else they are made now and kept."""
    folder, most_bytes = kept_text("texts")
    if not most_bytes:
        return make()
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


def scratch(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An array for numbers on the way to a result: a large one is in a file that is gone with it.

    Its values are zeros. The system writes it to the disk where memory is short.
    """
    size_bytes = np.dtype(kind).itemsize * math.prod(shape)
    if size_bytes < LARGE_ARRAY_BYTES:
        return np.zeros(shape, kind)
    with _room_in(_disk()), tempfile.TemporaryFile(dir=_disk()) as file:
        if hasattr(os, "posix_fallocate"):  # else a disk that is full later ends the process
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        return np.memmap(file, kind, "w+", shape=shape)


class Numbers:
    """64-bit numbers that are added one array after the other; many are in a file that is gone with them."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._waiting: list[Keys] = []
        self._size = 0  # of those that wait

    def add(self, numbers: Keys) -> None:
        """raises   FtError where there is no room for the file"""
        self._waiting.append(numbers)
        self._size += len(numbers)
        if 8 * self._size > LARGE_ARRAY_BYTES:
            with _room_in(_disk()):
                self._file = self._file or tempfile.TemporaryFile(dir=_disk())  # noqa: SIM115
                for each in self._waiting:
                    self._file.write(each.tobytes())
            self._waiting, self._size = [], 0

    def sorted(self) -> Keys:
        """All of them; no more can be added."""
        if self._file is None:
            return np.sort(np.concatenate([np.empty(0, np.uint64), *self._waiting]))
        with _room_in(_disk()), self._file as file:
            for each in self._waiting:
                file.write(each.tobytes())
            file.flush()
            found: Keys = np.memmap(file, np.uint64, "r+")
        found.sort()  # in the file
        return found


def is_kept(documents: Sequence[Document]) -> bool:
    """Whether they are of a large text: what is found about it is worth keeping, too."""
    return bool(documents) and isinstance(documents[0], KeptDocument)


def _folder() -> Path:
    return kept_text("texts")[0]


def _disk() -> Path:
    """A folder to write to: the one for temporary files, which may be memory itself, only if need be."""
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
    is_ours = _folder().is_dir() and os.access(_folder(), os.W_OK)
    return _folder() if is_ours else Path(tempfile.gettempdir())


def _remove_oldest(folder: Path) -> None:
    """Until the others are no more than FT_KEPT_GB; the newest stays. Also what killed processes left."""
    _, most_bytes = kept_text("texts")
    for path in folder.iterdir():
        is_old = time.time() - path.stat().st_mtime > LEFT_SECONDS
        if is_old and (path.is_dir() or path.name.endswith(".unfinished")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    newest, *others = sorted(folder.glob("*.[an]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = newest.stat().st_size
    for path in others:
        total += path.stat().st_size
        if total > most_bytes:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
