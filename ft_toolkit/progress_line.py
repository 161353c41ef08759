"""The line of a stage under way: as much of it as a terminal's width holds, and never more."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import ProgressColumn, Task
from rich.text import Text

WIDE_COLUMNS = 100  # from here on a bar beside a curve, and two blanks between figures
CURVE_CELLS = 24  # the most of a sparkline
LEAST_CELLS = 3
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
UNKNOWN = "-:--"


@dataclass(frozen=True)
class Figures:
    """What is known of a stage under way.

    words          in full, for plain lines and the log
    short          for a terminal's line, the most important first; what does not fit is left out
    curve          drawn as a sparkline, the newest value last
    left_seconds   at most so much time is left, whatever the pace says
    """

    words: str
    short: Sequence[str]
    curve: Sequence[float] = ()
    left_seconds: float = math.inf


class Pace:
    """How far a stage is, and how long the rest takes at the pace so far."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done, self.begun = name, total, done, done
        self.started = self.begun_at = time.monotonic()
        self.figures = Figures("", ())

    def advance(self, done: int, figures: str | Figures) -> None:
        """Count `done` units more; fewer than none: the stage begins again."""
        self.done = min(self.total, self.done + done)
        if done < 0:
            self.begun, self.begun_at = self.done, time.monotonic()
        if figures:
            self.figures = Figures(figures, (figures,)) if isinstance(figures, str) else figures

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def left_seconds(self) -> float | None:
        """None before the first unit."""
        if self.done <= self.begun:
            return None
        each = (time.monotonic() - self.begun_at) / (self.done - self.begun)
        return min(each * (self.total - self.done), max(0.0, self.figures.left_seconds))


class StageLine(ProgressColumn):
    """The only column of a stage's progress, as wide as the terminal."""

    max_refresh = None

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace = pace

    def render(self, task: Task) -> _Fitted:
        left = self.pace.left_seconds
        return _Fitted(self.pace, UNKNOWN if left is None else clock(left))


@dataclass(frozen=True)
class _Fitted:
    pace: Pace
    end: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield stage_line(self.pace, self.end, options.max_width, is_ascii=options.ascii_only)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(options.max_width, options.max_width)


def stage_line(pace: Pace, end: str, columns: int, *, is_ascii: bool = False) -> Text:
    """Name, count, bar or sparkline, figures and what stands at the end, in at most so many columns."""
    is_wide, curve = columns >= WIDE_COLUMNS, pace.figures.curve
    gap = "  " if is_wide else " "
    line = Text(f"{pace.name} {pace.done}/{pace.total}", no_wrap=True, overflow="ellipsis")
    room = columns - len(line) - len(gap) - len(end)
    bar = 24 if is_wide else 0 if curve else 8
    if bar and room > bar + len(gap):
        line.append(gap).append_text(_bar(pace, bar, is_ascii=is_ascii))
        room -= bar + len(gap)
    kept = LEAST_CELLS + len(gap) if curve else 0
    figures = Text(no_wrap=True)
    for number, words in enumerate(pace.figures.short):
        if len(words) + len(gap) <= room - kept:
            figures.append(gap + words)
        elif not number and not curve and room > 2 * LEAST_CELLS:
            figures.append(f"{gap}{words[: room - len(gap) - 1]}…")
        else:
            break
        room = columns - len(line) - len(figures) - len(gap) - len(end)
    cells = min(CURVE_CELLS, room - len(gap))
    if curve and cells >= LEAST_CELLS:
        line.append(gap).append(sparkline(curve, cells, is_ascii=is_ascii), style="progress.percentage")
    line.append_text(figures).append(gap).append(end, style="progress.remaining")
    line.truncate(columns, overflow="ellipsis")
    return line


def _bar(pace: Pace, cells: int, *, is_ascii: bool) -> Text:
    full = round(cells * pace.done / pace.total) if pace.total else cells
    done, rest = "#." if is_ascii else "━·"
    return Text(done * full, style="bar.complete").append(rest * (cells - full), style="dim")


def sparkline(values: Sequence[float], cells: int, *, is_ascii: bool = False) -> str:
    """The last values as a row of blocks, the lowest one the least of them."""
    last = list(islice(values, max(0, len(values) - cells), None))
    blocks = ASCII_BLOCKS if is_ascii else BLOCKS
    low, high = min(last), max(last)
    if not high > low:
        return blocks[0] * len(last)
    scale = (len(blocks) - 1) / (high - low)
    return "".join(blocks[round((value - low) * scale)] for value in last)


def clock(seconds: float) -> str:
    """9 s as 0:09, an hour as 1:00:00."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(value: float) -> str:
    """950, 1.2k, 12k, 1.2M: at most two decimals' worth of digits."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{1 if value < 10 * size else 0}f}{letter}"
    return f"{value:.0f}"
