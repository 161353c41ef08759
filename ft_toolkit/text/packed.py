"""Files, compressed ones unpacked, and archives whose members are files of their own.

Sizes are counted while unpacking, so that a small file cannot fill the memory (docs/safety.md). A large file
is mapped: the system loads of it what is read. Unpacked it is in a file that has no name and is gone with it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any

from ft_toolkit.errors import FtError, Unreadable

UNPACKED_BYTES = 2**30  # upper limit for an unpacked file
UNPACKED_RATIO = 50  # and at most this many times its size on disk; prose reaches 5, log files 20
# a small file of one repeated sentence has a far higher ratio, and does no harm
ALWAYS_UNPACKED_BYTES = 2**24
MAPPED_FROM_BYTES = 2**24
_PIECE_BYTES = 2**20
_XZ_MEMORY_BYTES = 2**28  # xz -9 needs 65 MiB; a file may ask for 4 GiB
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz")
Data = bytes | mmap
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass
class Allowance:
    """How many bytes a file may unpack to, in all of its layers together."""

    place: str
    packed_bytes: int
    fix: str = "If you trust it, unpack it first."
    unpacked_bytes: int = field(default=0, init=False)

    @property
    def limit(self) -> int:
        return min(UNPACKED_BYTES, max(ALWAYS_UNPACKED_BYTES, UNPACKED_RATIO * self.packed_bytes))

    def take(self, size: int) -> None:
        """raises   Unreadable when the limit is passed"""
        self.unpacked_bytes += size
        if self.unpacked_bytes > self.limit:
            raise self.exceeded

    @property
    def exceeded(self) -> Unreadable:
        wanted = f"at most {self.limit / 2**20:,.0f} MiB unpacked, {UNPACKED_RATIO} times its size"
        return Unreadable(self.place, wanted, "more", self.fix)


class _Mapped(io.RawIOBase):
    """A mapped file as a stream."""

    def __init__(self, data: Data) -> None:
        self._data, self._place = data, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._place : self._place + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


@dataclass(frozen=True)
class File:
    """One file's content, unpacked; `name` is what documents are called by, `place` what errors name."""

    name: str
    place: str
    data: Data
    allowance: Allowance

    def stream(self) -> IO[bytes]:
        """Its bytes from the begin, for what reads a part after the other."""
        return io.BufferedReader(_Mapped(self.data)) if self.is_mapped else io.BytesIO(self.data)

    @property
    def is_mapped(self) -> bool:
        """Whether it is too large to be held."""
        return not isinstance(self.data, bytes)


def ending_of(name: str | PurePath) -> str:
    """Its file ending in small letters, that of a compressed file apart: `.txt` of notes.TXT.gz."""
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path).suffix.lower()


def is_archive(name: str | PurePath) -> bool:
    return ending_of(name) in ARCHIVE_ENDINGS


def unpacked_file(path: Path, name: str) -> File:
    """A file that is no archive.

    raises   Unreadable for a damaged one, or one that unpacks to far more than its size
    """
    data = _bytes(path)
    allowance = Allowance(str(path), len(data))
    return File(name, str(path), _decompressed(data, path.name, str(path), allowance), allowance)


def members(path: Path, name: str, is_wanted: Callable[[str], bool]) -> Iterator[Callable[[], File]]:
    """An archive's files with a wanted name, in the archive's order, each read when it is called.

    raises   Unreadable for an archive that is damaged, encrypted, or names places outside of itself
    """
    data = _bytes(path)
    allowance = Allowance(str(path), len(data))
    is_zip = ending_of(path) == ".zip"
    found = _zip_members(data, str(path)) if is_zip else _tar_members(data, path, allowance)
    seen: set[str] = set()
    for member, read in found:
        inside = _safe_name(member, str(path))
        if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(inside).parts):
            continue
        place = f"{path}/{inside}"
        if is_archive(inside):
            yield partial(
                _refuse, Unreadable(place, "a file", "an archive in an archive", "Unpack it first.")
            )
        elif is_wanted(inside):
            if inside in seen:
                raise Unreadable(path, "members of different names", f"{inside} twice", "Rename one.")
            seen.add(inside)
            yield partial(_member, read, f"{name}/{inside}", place, allowance)


def zip_file(file: File) -> zipfile.ZipFile:
    """A document that is a zip of XML files; its members are read with `zip_member`."""
    return zipfile.ZipFile(io.BytesIO(file.data))


def zip_member(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo, allowance: Allowance) -> Data:
    """raises   KeyError for a member that is not there, Unreadable for one that is too large"""
    info = archive.getinfo(member) if isinstance(member, str) else member
    if info.compress_type not in _ZIP_METHODS:  # lzma would reserve what the file asks for
        found = f"method {info.compress_type}"
        raise Unreadable(allowance.place, "a zip by deflate or bzip2", found, "Pack it again.")
    with archive.open(info) as stream:
        return _counted(stream, allowance)


def _member(read: Callable[[Allowance], Data], name: str, place: str, allowance: Allowance) -> File:
    try:
        data = read(allowance)
    except Unreadable:
        raise
    except Exception as error:  # zlib, zipfile, tarfile: and RuntimeError for an encrypted member
        raise damaged(place, "a readable member", error) from None
    return File(name, place, _decompressed(data, PurePath(name).name, place, allowance), allowance)


def _refuse(fault: Unreadable) -> File:
    raise fault


def _bytes(path: Path) -> Data:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return mmap(file.fileno(), 0, access=ACCESS_READ) if size > MAPPED_FROM_BYTES else file.read()
    except OSError as error:
        raise damaged(str(path), "a readable file", error) from None


def damaged(place: str, wanted: str, error: BaseException) -> Unreadable:
    """What a library says of a file that it cannot read, on one line."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return Unreadable(place, wanted, said.rstrip("."), "Check the file, or use --skip-unreadable.")


@contextmanager
def named(place: str, kind: str) -> Iterator[None]:
    """Name the file, and what it should be, where a library cannot read it.

    raises   Unreadable; FtError for a library that is not installed
    """
    try:
        yield
    except FtError:
        raise
    except ImportError as error:
        fix = "Run pip install 'ft-toolkit[formats]'."
        raise FtError(place, f"the package {error.name}", "it is not installed", fix) from None
    except MemoryError:
        fix = "Convert it to .txt, or use --skip-unreadable."
        raise Unreadable(place, f"{kind} that fits into memory", "one that does not", fix) from None
    except Exception as error:  # a damaged file raises whatever its bytes lead a library to
        raise damaged(place, kind, error) from None


def _decompressed(data: Data, name: str, place: str, allowance: Allowance) -> Data:
    ending = ".gz" if name.lower().endswith(".tgz") else PurePath(name).suffix.lower()
    if ending not in _COMPRESSED:
        return data
    try:
        return _COMPRESSED[ending](data, allowance)
    except Unreadable:
        raise
    except Exception as error:  # zlib, lzma, Arrow: each has errors of its own, and OSError or ValueError too
        raise damaged(place, "a readable file", error) from None


def _counted(stream: IO[bytes], allowance: Allowance) -> Data:
    """All of a stream, counted piece by piece before it is kept."""
    return _held(iter(lambda: stream.read(_PIECE_BYTES), b""), allowance)


def _held(pieces: Iterator[bytes], allowance: Allowance) -> Data:
    """The pieces together, in memory or in a file."""
    with tempfile.SpooledTemporaryFile(MAPPED_FROM_BYTES) as file:
        for piece in pieces:
            allowance.take(len(piece))
            file.write(piece)
        size = file.tell()
        file.seek(0)
        return mmap(file.fileno(), size, access=ACCESS_READ) if size > MAPPED_FROM_BYTES else file.read()


def _gz(data: Data, allowance: Allowance) -> Data:
    with gzip.open(io.BytesIO(data)) as stream:
        return _counted(stream, allowance)  # type: ignore[arg-type]


def _bz2(data: Data, allowance: Allowance) -> Data:
    with bz2.open(io.BytesIO(data)) as stream:
        return _counted(stream, allowance)


def _zst(data: Data, allowance: Allowance) -> Data:
    import pyarrow  # Python itself has zstd from 3.14 on

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
        return _counted(stream, allowance)


def _xz(data: Data, allowance: Allowance) -> Data:
    return _held(_xz_pieces(data[:]), allowance)


def _xz_pieces(data: bytes) -> Iterator[bytes]:
    """With a limit of memory, which lzma.open has not; a file may hold several streams, and zeros between."""
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)
        piece = stream.decompress(data, _PIECE_BYTES)
        while piece or not stream.eof:
            if not piece and stream.needs_input:
                raise EOFError("the file ends before its end mark")
            yield piece
            piece = b"" if stream.eof else stream.decompress(b"", _PIECE_BYTES)
        data = stream.unused_data.lstrip(b"\0")


_COMPRESSED: dict[str, Callable[[Data, Allowance], Data]] = {
    ".gz": _gz,
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": _zst,
}
Members = Iterator[tuple[str, Callable[[Allowance], Data]]]


def _zip_members(data: Data, place: str) -> Members:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise damaged(place, "a zip archive", error) from None
    for info in infos:
        if not info.is_dir():
            yield info.filename, partial(zip_member, archive, info)


def _tar_members(data: Data, path: Path, allowance: Allowance) -> Members:
    data = _decompressed(data, path.name, str(path), allowance)
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")  # noqa: SIM115
        infos = archive.getmembers()
    except Exception as error:  # a damaged header raises whatever its fields lead to
        raise damaged(str(path), "a tar archive", error) from None
    for info in infos:
        if info.isreg():
            yield info.name, partial(_tar_member, archive, info)
        elif not info.isdir():  # a link, or a device
            found = f"{info.name}, a link or device"
            raise Unreadable(path, "plain files in the archive", found, "Pack the files themselves.")


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, allowance: Allowance) -> Data:
    stream = archive.extractfile(info)
    assert stream is not None  # it is a plain file
    return _counted(stream, allowance)  # a sparse file's zeros are counted as they come


def _safe_name(member: str, place: str) -> str:
    """A member's name with slashes.

    raises   Unreadable for a name that leads out of the archive: such an archive was made to harm
    """
    # tarfile keeps bytes that are no UTF-8 as half surrogates
    name = member.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or not name.isprintable():
        raise Unreadable(place, "members inside the archive", repr(member)[1:-1], "Do not use it.")
    return path.as_posix()
