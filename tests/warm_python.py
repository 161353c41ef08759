"""Processes of their own that begin with torch imported: forks of a server that imported it once.

A fresh process knows what stands on the disk and nothing else, and so does such a fork; but importing torch,
transformers and peft takes five seconds of processor time each time, and most of the suite's time went there.
tests/judging/test_integrity.py starts the real one too.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from huggingface_hub import constants
from huggingface_hub.hf_api import api

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["ft_toolkit.finetune", "ft_toolkit.rescoring"])
_STREAMS = ("stdin", "stdout", "stderr")
_OF_THE_HUB = (
    "ENDPOINT",
    "HUGGINGFACE_CO_URL_TEMPLATE",
    "HF_HUB_CACHE",
    "HF_XET_CACHE",
    "HF_HUB_DISABLE_XET",
)


class WarmPython:
    """python -m MODULE … or -c CODE …, started in the present folder with the present environment.

    code, output, said   its exit code, stdout and stderr, as far as they are known by now
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, asked: str = ""
    ) -> None:
        self._files = TemporaryDirectory(prefix="warm-")
        self._folder = Path(self._files.name)
        for name, text in zip(_STREAMS, (asked, "", ""), strict=True):
            (self._folder / name).write_text(text)
        given = dict(os.environ) | dict(environment or {})
        # huggingface_hub reads the environment when it is imported; in a fork that has been
        hub = {name: getattr(constants, name) for name in _OF_THE_HUB}
        hub["HF_HUB_OFFLINE"] = given.get("HF_HUB_OFFLINE") == "1"
        self.process: BaseProcess = _SERVER.Process(
            target=_run, args=(arguments, given, hub, Path.cwd(), self._folder), daemon=True
        )
        self.process.start()

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def output(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def said(self) -> str:
        return (self._folder / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def finish(self, most_seconds: float | None = None) -> WarmPython:
        """raises   TimeoutError where it takes longer; it is ended then"""
        self.process.join(most_seconds)
        if self.code is None:
            self.process.kill()
            raise TimeoutError
        return self


def run_python(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    asked: str | None = None,
    most_seconds: float | None = None,
) -> CompletedProcess[str]:
    """What ft_toolkit.runtime.run_python does, warm."""
    done = WarmPython(*arguments, environment=environment, asked=asked or "").finish(most_seconds)
    assert done.code is not None
    return CompletedProcess(["python", *arguments], done.code, done.output, done.said)


def _run(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    hub: dict[str, object],
    folder: Path,
    streams: Path,
) -> None:
    """What the fork does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(_STREAMS):
        os.dup2(os.open(streams / name, os.O_RDWR), number)
    sys.stdin = os.fdopen(0)  # multiprocessing closed its own
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    vars(constants).update(hub)
    api.endpoint = constants.ENDPOINT
    kind, what, *rest = arguments
    if kind == "-c":
        sys.argv = ["-c", *rest]
        exec(what, {"__name__": "__main__"})
    else:
        sys.argv = [what, *rest]
        sys.modules.pop(what, None)  # it is imported, and begins again as the main module
        runpy.run_module(what, run_name="__main__", alter_sys=True)
