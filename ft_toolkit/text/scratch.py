"""Numbers on the way to a result, in files without a name: of a large text they would fill the memory.

The system writes to the disk what memory has no room for; a file is gone with what it holds.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.errors import FtError
from ft_toolkit.session import kept_text
from ft_toolkit.text.ngrams import Hashes, word_hashes

LARGE_ARRAY_BYTES = 2**25


def disk() -> Path:
    """A folder to write to: the one for temporary files, which may be memory itself, only if need be."""
    folder, _ = kept_text("texts")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    is_ours = folder.is_dir() and os.access(folder, os.W_OK)
    return folder if is_ours else Path(tempfile.gettempdir())


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """raises   FtError with the cure for an error of the disk"""
    try:
        yield
    except OSError as error:
        wanted = "room for a text that is too large to hold in memory"
        fix = "Free some space, or set FT_CACHE (or TMPDIR) to a folder that has it."
        raise FtError(folder, wanted, error.strerror or error, fix) from None


def scratch(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An array for numbers on the way to a result: a large one is in a file that is gone with it.

    Its values are zeros.

    raises   FtError where there is no room for the file
    """
    size_bytes = np.dtype(kind).itemsize * math.prod(shape)
    if size_bytes < LARGE_ARRAY_BYTES:
        return np.zeros(shape, kind)
    with room_in(disk()), tempfile.TemporaryFile(dir=disk()) as file:
        if hasattr(os, "posix_fallocate"):  # else a disk that is full later ends the process
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        return np.memmap(file, kind, "w+", shape=shape)


class Numbers:
    """64-bit numbers that are added one array after the other; many are in a file that is gone with them."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._waiting: list[Hashes] = []
        self._size = 0  # of those that wait

    def add(self, numbers: Hashes) -> None:
        """raises   FtError where there is no room for the file"""
        self._waiting.append(numbers)
        self._size += len(numbers)
        if 8 * self._size > LARGE_ARRAY_BYTES:
            with room_in(disk()):
                self._file = self._file or tempfile.TemporaryFile(dir=disk())  # noqa: SIM115
                for each in self._waiting:
                    self._file.write(each.tobytes())
            self._waiting, self._size = [], 0

    def sorted(self) -> Hashes:
        """All of them; no more can be added."""
        if self._file is None:
            return np.sort(np.concatenate([np.empty(0, np.uint64), *self._waiting]))
        with room_in(disk()), self._file as file:
            for each in self._waiting:
                file.write(each.tobytes())
            file.flush()
            found: Hashes = np.memmap(file, np.uint64, "r+")
        found.sort()  # in the file
        return found


class Words:
    """The words' hashes of documents, kept in a file without a name when they are first asked for.

    To find them takes most of the time of screening, which asks for them twice.
    """

    def __init__(self, documents: int) -> None:
        self._file: FileIO | None = None
        self._size = 0
        self._places = np.full((documents, 2), -1, np.int64)  # first and behind the last

    def of(self, number: int, text: Callable[[], str]) -> Hashes:
        begin, end = self._places[number].tolist()
        if begin >= 0 and self._file is not None:
            self._file.seek(8 * begin)
            return np.frombuffer(self._file.read(8 * (end - begin)), np.uint64)
        found = word_hashes(text())
        with suppress(OSError):  # a full disk costs time
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=disk(), buffering=0)  # noqa: SIM115
            self._file.seek(8 * self._size)
            if self._file.write(found.tobytes()) == 8 * len(found):
                self._places[number] = self._size, self._size + len(found)
                self._size += len(found)
        return found
