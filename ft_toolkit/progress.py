"""Screen output while a stage runs, and the same lines in run.log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ft_toolkit.errors import disk_full, is_disk_full

LOG_SECONDS = 10.0
LOG_COLUMNS = 110
WIDE_COLUMNS = 100  # a narrower terminal gets a shorter bar


class Advance(Protocol):
    """Reports `done` more units of a stage, with figures to show beside the bar."""

    def __call__(self, done: int = 1, figures: str = "") -> None: ...


class Screen:
    """Results go to stdout, progress and notes to stderr; both are kept for run.log."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console, self._results = _console(True, quiet), _console(False, quiet)
        self._log: Path | None = None
        self._said_before_log: list[str] = []

    def log_to(self, path: Path) -> None:
        """Also write to this file from now on, starting with what was said before."""
        self._log = path
        self._keep("".join(self._said_before_log))
        self._said_before_log.clear()  # a second run's log begins with its own words

    def say(self, message: RenderableType, style: str | None = None) -> None:
        """Print a note on stderr, and log it; brackets and colons stay what they are."""
        self._print(self._console, message, style)

    @contextmanager
    def growing(self) -> Iterator[Callable[[RenderableType], object]]:
        """Show a result while it grows; on a terminal alone, where it is gone at the end."""
        if not self._results.is_terminal:
            yield lambda so_far: None
            return
        with Live(console=self._results, transient=True, vertical_overflow="visible") as live:
            yield live.update

    def result(self, message: RenderableType, style: str | None = None) -> None:
        """Print a result on stdout, a sentence or a table, and log it likewise."""
        self._print(self._results, message, style)

    def _print(self, console: Console, message: RenderableType, style: str | None) -> None:
        console.print(message, style=style)
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
    def stage(self, name: str, total: int, *, ends_full: bool = False) -> Iterator[Advance]:
        """Show a bar on a terminal, and a line every ten seconds elsewhere (and in the log).

        ends_full   a stage that ends has done all of `total`: part of its work may come from a cache
        """
        started = last_line = time.monotonic()
        done_so_far, last_figures = 0, ""
        bar = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24 if self._console.width >= WIDE_COLUMNS else 8),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Figures(),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(name, total=total, figures="")

            def advance(done: int = 1, figures: str = "") -> None:
                nonlocal done_so_far, last_line, last_figures
                done_so_far, last_figures = min(total, done_so_far + done), figures or last_figures
                bar.update(task, completed=done_so_far, figures=last_figures)
                now = time.monotonic()
                if now - last_line >= LOG_SECONDS:
                    last_line = now
                    left = (now - started) / max(done_so_far, 1) * (total - done_so_far)
                    self._line(f"{name} {done_so_far}/{total}  {last_figures}  {left:.0f} s left")

            yield advance
            if ends_full:
                done_so_far = total
                bar.update(task, completed=total)
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


class _Figures(TextColumn):
    """The one column that gives way on a narrow terminal: cut on its line, so that the counts stay whole."""

    def __init__(self) -> None:
        super().__init__("", table_column=Column(no_wrap=False))  # rich shrinks columns that may wrap first

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


def _console(stderr: bool, quiet: bool) -> Console:
    console = Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = LOG_COLUMNS  # without a terminal a table would be squeezed into 80 columns
    return console
