"""What a person sees while a stage runs, and the same words in run.log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ft_toolkit.errors import disk_full, is_disk_full

LOG_SECONDS = 10.0
LOG_COLUMNS = 110


class Advance(Protocol):
    """Reports `done` more units of a stage, with the figures worth seeing beside the bar."""

    def __call__(self, done: int = 1, figures: str = "") -> None: ...


class Screen:
    """Talks on stderr, so that stdout holds results alone; everything said is kept for run.log."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(
            stderr=True, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        if not self._console.is_terminal:
            self._console.width = LOG_COLUMNS  # where nobody tells a width, a table is not squeezed into 80
        self._log: Path | None = None
        self._said_before_log: list[str] = []

    def log_to(self, path: Path) -> None:
        """From now on also write to this file, beginning with what was said before."""
        self._log = path
        self._keep("".join(self._said_before_log))
        self._said_before_log.clear()  # a second run's log begins with its own words

    def say(self, message: RenderableType, style: str | None = None) -> None:
        """Print a sentence or a table, and log it; brackets and colons stay what they are."""
        self._console.print(message, style=style)
        plain = Console(
            width=LOG_COLUMNS,
            color_system=None,
            highlight=False,
            soft_wrap=isinstance(message, str),
            markup=False,
            emoji=False,
        )
        with plain.capture() as capture:
            plain.print(message)
        self._keep(capture.get())

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Show a bar on a terminal, and a line every ten seconds elsewhere (and in the log)."""
        started = last_line = time.monotonic()
        done_so_far, last_figures = 0, ""
        bar = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(name, total=total, figures="")

            def advance(done: int = 1, figures: str = "") -> None:
                nonlocal done_so_far, last_line, last_figures
                done_so_far, last_figures = done_so_far + done, figures or last_figures
                bar.update(task, advance=done, figures=last_figures)
                now = time.monotonic()
                if now - last_line >= LOG_SECONDS:
                    last_line = now
                    left = (now - started) / max(done_so_far, 1) * (total - done_so_far)
                    self._line(f"{name} {done_so_far}/{total}  {last_figures}  {left:.0f} s left")

            yield advance
        self._line(
            f"{name} {done_so_far}/{total}  {last_figures}  {time.monotonic() - started:.1f} s", always=True
        )

    def _line(self, line: str, *, always: bool = False) -> None:
        if always or not self._console.is_terminal:
            self._console.print(line, style="dim")
        self._keep(line + "\n")

    def _keep(self, text: str) -> None:
        if self._log is None:
            self._said_before_log.append(text)
        else:
            try:
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(text)
            except OSError as error:
                raise disk_full(self._log) if is_disk_full(error) else error from None
