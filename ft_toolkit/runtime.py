"""The machine: threads, allocator, precision, quiet libraries, versions."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any, Literal

from ft_toolkit.errors import Terminated

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
# new objects until the garbage collector looks: while the libraries are imported there is no garbage, and the
# many looks of Python's own setting are an eighth of the time
_RARELY, _AS_EVER = 100_000, gc.get_threshold()
Process = subprocess.Popen[bytes]
LIBRARIES = (
    "ft-toolkit",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scipy",
)


def prepare_process() -> None:
    """Settings that must stand before torch and transformers are imported; harmless when repeated."""
    # two threads that spin at their barriers beside another busy process run slower than one
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # compiled kernels that oneDNN keeps, half a megabyte each; by itself it keeps 1024
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # else transformers has a bot of the Hub open a pull request at a checkpoint without safetensors
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    gc.set_threshold(_RARELY, 10, 10)
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr never fails on a character that it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    _keep_freed_memory()


def prepare_torch() -> None:
    """One thread a physical core, set once; libraries that would talk over the progress line are silenced."""
    import torch
    import transformers

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads())
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # transformers 5.23 and peft 0.21 warn at each other about a rename that no user can act on
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.|peft\.")
    if not gc.get_freeze_count():
        # the libraries' 400,000 objects live until the end; left out, a full collection saves 0.4 s
        gc.freeze()
    gc.set_threshold(*_AS_EVER)


def run_python(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    asked: str | None = None,
    most_seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; this and start_python are how the toolkit starts another process.

    -P keeps the working folder off the new process's path: a file there that is called random.py is not ours
    to execute. So ft_toolkit has to be installed, or on PYTHONPATH.

    environment   in addition to this process's own
    asked         what stands on its stdin
    raises        TimeoutError where it takes longer than most_seconds; it is ended then
    """
    command = [sys.executable, "-P", *arguments]
    given = dict(os.environ) | dict(environment or {})
    try:
        return subprocess.run(
            command, input=asked, capture_output=True, text=True, env=given, check=False, timeout=most_seconds
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def start_python(*arguments: str) -> Process:
    """A process of Python to talk to over its stdin and stdout; Ctrl-C does not reach it."""
    command = [sys.executable, "-P", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a process said about why it ended."""
    return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def is_launched() -> bool:
    """Whether a launcher started this process beside others: launch.py, torchrun, accelerate launch."""
    return "WORLD_SIZE" in os.environ


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks; imports no torch."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def threads() -> int:
    """Physical cores this process may use; a sibling hyper-thread only adds waiting to a matrix product."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def bfloat16_is_faster(device_type: str) -> bool:
    """Whether this hardware multiplies bfloat16 faster than float32: by its instructions, not by a timing.

    A timing would let the same recipe train in another precision from one day to the next. A processor that
    torch is told to use as an older one (ATEN_CPU_CAPABILITY) is an older one.
    """
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


@cache
def _installed() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"python": platform.python_version()} | _installed()


@contextmanager
def termination_as_exception() -> Iterator[None]:
    """Let SIGTERM unwind the stack like Ctrl-C, so that what was computed is saved."""

    def raise_terminated(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, raise_terminated)
    except ValueError:  # not the main thread: whoever runs us there owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Noted:
    """What was asked of this process while it could not stop at once."""

    reason: Literal["interrupted", "terminated"] | None = None


@contextmanager
def signals_noted() -> Iterator[Noted]:
    """Note a SIGINT or SIGTERM, so that the work under way can end between two of its steps.

    A second signal ends it at once, as an exception: KeyboardInterrupt or Terminated.
    """
    noted = Noted()

    def note(signum: int, frame: FrameType | None) -> None:
        is_first = noted.reason is None
        noted.reason = "interrupted" if signum == signal.SIGINT else "terminated"
        if not is_first:
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    before: dict[signal.Signals, Any] = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not the main thread: whoever runs us there owns the signals
                before[signum] = signal.signal(signum, note)
        yield noted
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def give_back_memory() -> None:
    """Hand what was freed back to the system, which glibc is otherwise asked to keep."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _keep_freed_memory() -> None:
    """Ask glibc to keep what torch frees: by default each step faults the same gradients in again.

    A quarter of the page faults is left (bench/allocator.py); they cost most on a busy machine.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
