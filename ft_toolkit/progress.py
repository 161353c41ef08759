"""Screen output while a stage runs, and the same lines in run.log."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from ft_toolkit.errors import disk_full, is_disk_full
from ft_toolkit.progress_line import Figures, Pace, StageLine, stage_line

LOG_SECONDS = 10.0
LOG_COLUMNS = 110


class Advance(Protocol):
    """Reports `done` more units of a stage, with figures to show beside them."""

    def __call__(self, done: int = 1, figures: str | Figures = "") -> None: ...


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
        with Live(console=self._results, transient=True) as live:
            yield live.update

    def result(self, message: RenderableType, style: str | None = None) -> None:
        """Print a result on stdout, a sentence or a table, and log it likewise."""
        self._print(self._results, message, style)

    def _print(self, console: Console, message: RenderableType, style: str | None) -> None:
        # prose on a terminal is broken between words; notes and pipes keep their lines, and paths stay whole
        is_prose = console is self._results and console.is_terminal and isinstance(message, str | Text)
        console.print(message, style=style, soft_wrap=not is_prose)
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
    def stage(self, name: str, total: int, *, done: int = 0, ends_full: bool = False) -> Iterator[Advance]:
        """Show a line that moves on a terminal, and one every ten seconds elsewhere (and in the log).

        done        of `total`, before it begins
        ends_full   a stage that ends has done all of `total`: part of its work may come from a cache
        """
        pace, last_line = Pace(name, total, done), time.monotonic()
        bar = Progress(StageLine(pace), console=self._console, transient=True, disable=not self._is_live)
        with bar:
            bar.add_task(name, total=None)

            def advance(done: int = 1, figures: str | Figures = "") -> None:
                nonlocal last_line
                pace.advance(done, figures)
                now = time.monotonic()
                if now - last_line >= LOG_SECONDS:
                    last_line = now
                    left = "" if pace.left_seconds is None else f"  {pace.left_seconds:.0f} s left"
                    self._line(f"{name} {pace.done}/{total}  {pace.figures.words}{left}")

            yield advance
            if ends_full:
                pace.done = total
        end = f"{pace.seconds:.1f} s"
        if self._is_live:
            is_ascii = self._console.options.ascii_only
            self._console.print(stage_line(pace, end, self._console.width, is_ascii=is_ascii), style="dim")
        self._line(f"{name} {pace.done}/{total}  {pace.figures.words}  {end}")

    @property
    def _is_live(self) -> bool:
        """Whether a line can be drawn over."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _line(self, line: str) -> None:
        if not self._is_live:
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


def _console(stderr: bool, quiet: bool) -> Console:
    console = Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = LOG_COLUMNS  # without a terminal a table would be squeezed into 80 columns
    elif console.is_dumb_terminal:  # rich takes its width for 80
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console
