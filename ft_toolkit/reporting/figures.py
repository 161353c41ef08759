"""Where things stand in a chart: numbers to places in an SVG. The templates draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
WIDTH, HEIGHT = 480, 330  # of a chart, in units of its viewBox
LEFT, RIGHT, TOP, BOTTOM = 76, 468, 12, 282  # of the area inside the axes
CURVE_POINTS = 150  # of a longer training the mean of neighbouring steps is drawn
STRIP_WIDTH = 180  # of the line with an interval in a row of a table
_STRIP_MARGIN = 8
_LARGEST_NATS = 700.0  # of which a float still holds the perplexity


@dataclass(frozen=True)
class Tick:
    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Numbers from low to high, drawn from place `start` to place `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    def ticks(self) -> list[Tick]:
        """Round numbers, some five of them."""
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step)))
        return [
            Tick(self.at(n * step), f"{n * step:,.{decimals}f}".replace("-", "−"))
            for n in range(first, last + 1)
        ]

    def perplexity_ticks(self) -> list[Tick]:
        """Of an axis in nats a token: round perplexities; equal steps of nats are equal ratios."""
        low, high = max(0.0, self.low), min(self.high, _LARGEST_NATS)
        if high - low < 1.4:  # less than a factor of four: few powers of ten, or none, are inside
            values = [
                float(tick.label.replace(",", ""))
                for tick in Axis(math.exp(low), math.exp(high), 0, 1).ticks()
            ]
        else:
            powers = [10.0**power for power in range(math.ceil(high / math.log(10)) + 1)]
            for digits in ((1, 2, 3, 5), (1, 3), (1,)):
                values = [p * digit for p in powers for digit in digits if low <= math.log(p * digit) <= high]
                if len(values) <= 6:
                    break
            values = values[:: math.ceil(len(values) / 6)]
        return [Tick(self.at(math.log(value)), _plain(value)) for value in values]


@dataclass(frozen=True)
class Curve:
    """The losses of a training against its steps."""

    training: str  # the points of a polyline
    validation: list[tuple[float, float, str]]  # x, y, what it says
    validation_line: str
    best: tuple[float, float] | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mean_of: int  # steps in a point of the training loss
    words: str  # the same for those who do not see it


@dataclass(frozen=True)
class Line:
    """One of several lines."""

    number: int  # by which it is drawn apart from the others
    name: str
    points: str
    ends_at: str


@dataclass(frozen=True)
class Overlaid:
    """The validation losses of several trainings."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    is_worse: bool
    words: str


@dataclass(frozen=True)
class Dots:
    """A dot a document: base against tuned, and the line on which nothing changed."""

    dots: list[Dot]
    documents: int  # how many there are; the dots may be fewer
    diagonal: tuple[float, float, float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Strip:
    """An interval on a line that several rows share."""

    low: float
    value: float
    high: float
    zero: float
    is_better: bool
    is_worse: bool


def learning_curve(metrics: Sequence[dict[str, Any]], base_nats: float, best_step: int) -> Curve | None:
    """None for a training without a step.

    metrics     lines of metrics.jsonl; a loss that is not finite is left out
    base_nats   validation NLL a token before the first step
    """
    losses = [(line["step"], line["loss_nats"]) for line in metrics if _is_finite(line.get("loss_nats"))]
    checks = [
        (line["step"], line["validation_nats"]) for line in metrics if _is_finite(line.get("validation_nats"))
    ]
    checks = [(0, base_nats), *checks]
    if not losses:
        return None
    values = [nats for _, nats in [*losses, *checks]]
    x = Axis(0, max(step for step, _ in [*losses, *checks]), LEFT, RIGHT)
    y = padded(values, BOTTOM, TOP)
    mean_of = math.ceil(len(losses) / CURVE_POINTS)
    points = [(x.at(step), y.at(nats), f"step {step:,}: {nats:.3f} nats a token") for step, nats in checks]
    best = next(((x.at(step), y.at(nats)) for step, nats in checks if step == best_step), None)
    words = (
        f"Training loss from {losses[0][1]:.2f} to {losses[-1][1]:.2f} nats a token in {losses[-1][0]:,} "
        f"steps. Validation loss {base_nats:.2f} before training, {min(v for _, v in checks):.2f} at best."
    )
    return Curve(
        _points((x.at(step), y.at(nats)) for step, nats in means(losses, mean_of)),
        points,
        _points((place, height) for place, height, _ in points),
        best,
        x.ticks(),
        y.ticks(),
        mean_of,
        words,
    )


def overlaid(runs: Sequence[tuple[str, Sequence[dict[str, Any]], float]]) -> Overlaid | None:
    """Validation losses of several trainings, each less that of its own base; None where there are none.

    runs   name, lines of metrics.jsonl, and validation NLL a token before the first step
    """
    found = {}
    for number, (name, metrics, base_nats) in enumerate(runs):
        checks = [
            (line["step"], line["validation_nats"] - base_nats)
            for line in metrics
            if _is_finite(line.get("validation_nats"))
        ]
        if checks:
            found[number, name] = [(0, 0.0), *checks]
    if not found:
        return None
    every = [point for points in found.values() for point in points]
    x = Axis(0, max(step for step, _ in every), LEFT, RIGHT)
    y = padded([nats for _, nats in every], BOTTOM, TOP)
    lines = [
        Line(
            number,
            name,
            _points((x.at(a), y.at(b)) for a, b in points),
            f"{points[-1][1]:+.2f}".replace("-", "−"),
        )
        for (number, name), points in found.items()
    ]
    return Overlaid(lines, x.ticks(), y.ticks())


def dot_plot(nats: Sequence[tuple[float, float, str]], documents: int) -> Dots | None:
    """None without a document.

    nats        NLL a token under base and tuned model, and what the dot says
    documents   how many there are in all
    """
    if not nats:
        return None
    both = [value for base, tuned, _ in nats for value in (base, tuned)]
    x, y = padded(both, LEFT, RIGHT), padded(both, BOTTOM, TOP)
    dots = [Dot(x.at(base), y.at(tuned), tuned > base, words) for base, tuned, words in nats]
    return Dots(dots, documents, (LEFT, BOTTOM, RIGHT, TOP), x.perplexity_ticks(), y.perplexity_ticks())


def strips(intervals: Sequence[tuple[float, float, float] | None]) -> list[Strip | None]:
    """Intervals (low, value, high) on one line that also has zero; None where there is none.

    below zero is better: these are changes of perplexity
    """
    ends = [end for one in intervals if one is not None for end in one if math.isfinite(end)]
    if not ends:
        return [None for _ in intervals]
    axis = padded([0.0, *ends], _STRIP_MARGIN, STRIP_WIDTH - _STRIP_MARGIN, 0)
    found: list[Strip | None] = []
    for one in intervals:
        if one is None or not all(map(math.isfinite, one)):
            found.append(None)
        else:
            low, value, high = one
            found.append(Strip(axis.at(low), axis.at(value), axis.at(high), axis.at(0), high < 0, low > 0))
    return found


def padded(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Axis:
    """An axis with room for all values, and some around them."""
    low, high = min(values), max(values)
    room = (high - low) * margin if high > low else 0.5
    return Axis(low - room, high + room, start, end)


def means(points: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """The means of so many neighbours each."""
    cuts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in cut) / len(cut), sum(y for _, y in cut) / len(cut)) for cut in cuts]


def evenly(ranked: Sequence[T], most: int) -> list[T]:
    """At most so many of a ranked list, the first and the last among them, evenly spaced."""
    if len(ranked) <= most:
        return list(ranked)
    return [ranked[round(place * (len(ranked) - 1) / (most - 1))] for place in range(most)]


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10 … above."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _plain(value: float) -> str:
    return f"{value:,g}" if value < 1e6 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
