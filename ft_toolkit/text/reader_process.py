"""PDF and reStructuredText are read in a process of their own, within limits of time and memory.

pypdf and docutils take minutes, or all memory, for some small files that were made to harm. They cannot be
stopped from outside; a process can. It reads one file after the other, so that a folder pays for its start
once, and ends when no file has come for a while.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import IO, Any

import psutil

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.runtime import Process, start_python
from ft_toolkit.text.packed import Allowance, File, ending_of, named
from ft_toolkit.text.pdf import pdf_text
from ft_toolkit.text.rst import rst_text

READERS = {".pdf": ("a PDF", pdf_text), ".rst": ("reStructuredText", rst_text)}
# processor time, which other programs do not change; ordinary files take 1 to 3 s a megabyte (docs/log.md)
SECONDS, SECONDS_A_MEGABYTE = 3.0, 20.0
MEMORY_BYTES, MEMORY_A_BYTE = 2**30, 100  # docutils takes up to 700 bytes for one of a small file
LARGE_BYTES = 2**28  # a process that keeps more after a file is not asked again
IDLE_SECONDS = 60.0
FIX = "Convert it to .txt, or use --skip-unreadable."


def read_apart(file: File, encoding: str | None = None) -> str:
    """The text of a file of one of READERS.

    raises   Unreadable for a damaged file, and for one that takes too much time or memory; FtError without
             its library
    """
    text = _PROCESS.text(file, encoding)
    file.allowance.take(len(text))
    return text


def seconds_for(size: int) -> float:
    return SECONDS + SECONDS_A_MEGABYTE * size / 1e6


def memory_for(size: int) -> int:
    return MEMORY_BYTES + MEMORY_A_BYTE * size


class _ReaderProcess:
    """Started when the first file comes, and again after each that it could not take."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._lock = Lock()

    def text(self, file: File, encoding: str | None) -> str:
        with self._lock:
            for _ in range(2):  # the process may have ended before this file came
                answer, code = self._answer(file, encoding), 0
                if answer is not None:
                    break
                if code := self.close():
                    break
            if answer is None:
                raise _ended(file, code)
        said, text = answer
        if "fault" in said:
            raise (Unreadable if said["is_unreadable"] else FtError)(*said["fault"])
        return text.decode("utf-8", "surrogatepass")

    def _answer(self, file: File, encoding: str | None) -> tuple[dict[str, Any], bytes] | None:
        """What the process says of a file; None where it ended."""
        if self._process is None:
            self._process = start_python("-m", "ft_toolkit.text.reader_process", str(IDLE_SECONDS))
        process, allowance = self._process, file.allowance
        assert process.stdin is not None and process.stdout is not None
        asked = {
            "name": file.name,
            "place": file.place,
            "encoding": encoding,
            "allowance": [allowance.place, allowance.packed_bytes, allowance.fix],
            "unpacked_bytes": allowance.unpacked_bytes,
            "seconds": seconds_for(len(file.data)),
            "memory_bytes": memory_for(len(file.data)),
        }
        try:
            _send(process.stdin, asked, file.data[:])
            return _received(process.stdout)
        except OSError:  # it ended while it was written to
            return None
        except BaseException:  # Ctrl-C: the next file must not get this one's answer
            process.kill()
            self.close()
            raise

    def close(self) -> int:
        """Let the process end, and return its exit code; minus the signal's number where one ended it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # what it has not read
                if stream is not None:
                    stream.close()
        return process.wait()


_PROCESS = _ReaderProcess()
atexit.register(_PROCESS.close)


def _ended(file: File, code: int) -> Unreadable:
    kind, size = READERS[ending_of(file.name)][0], len(file.data)
    if code == -signal.SIGPROF:
        return Unreadable(file.place, f"{kind} that is read in {seconds_for(size):.0f} s", "more", FIX)
    if code >= 0:  # our bug: its traceback stands on stderr
        raise RuntimeError(f"{file.place}: the process that reads {kind} ended with exit code {code}")
    return Unreadable(file.place, kind, f"that its reader ended by {signal.Signals(-code).name}", FIX)


def _send(stream: IO[bytes], said: dict[str, Any], data: bytes) -> None:
    stream.write(json.dumps(said | {"bytes": len(data)}).encode() + b"\n")
    stream.write(data)
    stream.flush()


def _received(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    said = json.loads(line)
    data = stream.read(said["bytes"])
    return (said, data) if len(data) == said["bytes"] else None


def main(idle_seconds: float) -> None:
    """Answer until the other side is gone, asks no more, or this process has grown large."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # also where the other side ignores it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not answer
    while select.select([sys.stdin.buffer], [], [], idle_seconds)[0]:
        asked = _received(sys.stdin.buffer)
        if asked is None:
            return
        _send(answers, *_read(*asked))
        if psutil.Process().memory_info().rss > LARGE_BYTES:
            return


def _read(asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    kind, read = READERS[ending_of(asked["name"])]
    allowance = Allowance(*asked["allowance"])
    allowance.unpacked_bytes = asked["unpacked_bytes"]
    try:
        with _limited(asked["seconds"], asked["memory_bytes"]), named(asked["place"], kind):
            text = read(File(asked["name"], asked["place"], data, allowance), asked["encoding"])
            return {}, text.encode("utf-8", "surrogatepass")
    except FtError as fault:
        said = [fault.where, fault.expected, fault.found, fault.fix]
        return {"fault": said, "is_unreadable": isinstance(fault, Unreadable)}, b""


@contextmanager
def _limited(seconds: float, memory_bytes: int) -> Iterator[None]:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):  # macOS has no such limit
        taken = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, most))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, at once
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(float(sys.argv[1]))
