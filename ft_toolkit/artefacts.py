"""Atomic writes (temporary file, fsync, rename) and hashes of files.

Everything that a later stage reads is written here, so that a process killed at any moment leaves the old
file, the new file or none, never a part of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ft_toolkit.errors import FtError

_READ_BYTES = 2**20
_ROWS_AT_ONCE = 10_000
T = TypeVar("T")
CHECKSUM = "checksum"
RESTORE = "Restore the file or train again."


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write a file to; at the end of the block it is fsynced and takes `path`'s name.

    On an exception the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write files to; at the end of the block it takes the place of `folder`, fsynced.

    A folder cannot replace another in one step: between the two renames there is none, which a reader reports
    as missing. A half-written folder never has the final name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            sync(path)
        sync(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written, in a folder where no other process writes."""
    for path in list(folder.rglob(".*.unfinished")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_oldest(folder: Path, most_bytes: int, spared: Collection[str]) -> None:
    """Remove the files that were used longest ago, until a folder has no more than so many bytes.

    spared   names of files that stay
    """
    files = []
    for path in filter(Path.is_file, folder.glob("*")):
        with suppress(OSError):  # another process removed it
            known = path.stat()
            files.append((known.st_mtime, known.st_size, path))
    size = sum(freed for _, freed, _ in files)
    for _, freed, path in sorted(files):
        if size <= most_bytes:
            break
        if path.name not in spared:
            with suppress(OSError):
                path.unlink()
            size -= freed


def sync(path: Path) -> None:
    """fsync a file's content, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Of a file's bytes; read a megabyte at a time."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def value_sha256(value: object) -> str:
    """Of a plain value (numbers, texts, lists, mappings), whatever the order of its keys."""
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def folder_sha256s(folder: Path, root: Path) -> dict[str, str]:
    """path relative to `root` → sha256, for every file of a folder in which nothing is hidden."""
    return {
        path.relative_to(root).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def damaged_files(root: Path, sha256s: Mapping[str, str]) -> list[str]:
    """Those of the listed files that are missing or hold other bytes."""
    return [
        name
        for name, digest in sha256s.items()
        if not (root / name).is_file() or file_sha256(root / name) != digest
    ]


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a hash of its own values, by which read_json notices a damaged number."""
    plain = {name: inner for name, inner in value.items() if name != CHECKSUM}
    return plain | {CHECKSUM: value_sha256(json.loads(json.dumps(plain)))}


def read_json(path: Path, kinds: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read a JSON object; the checksum of one that has it is checked and left out.

    kinds    the types that some of its keys must have where they stand
    raises   FtError for a file that is missing, damaged, or something else
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FtError(path, "a JSON object", reason_of(error), RESTORE) from None
    if not isinstance(found, dict):
        raise FtError(path, "a JSON object", f"a {type(found).__name__}", RESTORE)
    if CHECKSUM in found and found.pop(CHECKSUM) != value_sha256(found):
        raise FtError(path, "the values that were written", "others: its checksum does not hold", RESTORE)
    for key, kind in (kinds or {}).items():
        if key in found and not isinstance(found[key], kind):
            raise FtError(path, f"{key}: a {kind.__name__}", f"a {type(found[key]).__name__}", RESTORE)
    return found


def read_parquet(
    path: Path,
    convert: Callable[[Any], T],
    recorded_sha256: str | None,
    columns: Sequence[str] | None = None,
) -> T:
    """Read a Parquet file; convert gets its Arrow table.

    columns           those that are read where they are there; None: all
    recorded_sha256   of the file as it was written: Parquet has checksums of its pages, none of its footer,
                      where one bit may rename a column or move a number
    raises            FtError for a file that is missing or damaged
    """
    import pyarrow.parquet

    if not path.exists():
        raise FtError(path, "a finished stage", "no such file", "The run stopped before it; train again.")
    try:
        if recorded_sha256 and file_sha256(path) != recorded_sha256:
            raise ValueError("not the bytes that were written")
        with path.open("rb") as file:  # pyarrow itself would keep a handle open
            there = pyarrow.parquet.read_schema(file).names if columns else None
            return convert(
                pyarrow.parquet.read_table(
                    file,
                    columns=there and [name for name in there if name in (columns or ())],
                    page_checksum_verification=True,
                )
            )
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise FtError(path, "a Parquet table", reason_of(error), RESTORE) from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as Parquet; they are not held together.

    A column that begins with empty cells is one of texts.
    """
    import pyarrow
    import pyarrow.parquet

    rest = iter(rows)
    table = pyarrow.Table.from_pylist(list(islice(rest, _ROWS_AT_ONCE)))
    is_empty, text = pyarrow.types.is_null, pyarrow.string()
    schema = pyarrow.schema([f.with_type(text) if is_empty(f.type) else f for f in table.schema])
    with pyarrow.parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        while len(table):
            writer.write_table(table.cast(schema))
            table = pyarrow.Table.from_pylist(list(islice(rest, _ROWS_AT_ONCE)), schema)


def reason_of(error: Exception) -> str:
    """In a few words why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "nothing there"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    return f"a damaged file ({next(iter(str(error).splitlines()), type(error).__name__).rstrip('.:')})"
