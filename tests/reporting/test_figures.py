"""Charts: round ticks, and dots and curves where the numbers are."""

from __future__ import annotations

import math

import pytest

from ft_toolkit.reporting.figures import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    dot_plot,
    evenly,
    learning_curve,
    strips,
)


def test_ticks_are_round_numbers_inside_the_axis() -> None:
    assert [tick.label for tick in Axis(0, 44, 0, 440).ticks()] == ["0", "10", "20", "30", "40"]
    assert [tick.place for tick in Axis(0, 44, 0, 440).ticks()] == [0, 100, 200, 300, 400]
    assert [tick.label for tick in Axis(4.33, 5.5, 0, 1).ticks()] == ["4.5", "5.0", "5.5"]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (60, 400, ["100", "200", "300"]),
        (90, 91, ["90", "90.5", "91"]),
        (2, 20_000, ["10", "100", "1,000", "10,000"]),
        (1, 1e9, ["1", "100", "10,000", "1e6", "1e8"]),
    ],
)
def test_perplexities_have_round_ticks_at_any_range(low: float, high: float, labels: list[str]) -> None:
    axis = Axis(math.log(low) - 1e-9, math.log(high) + 1e-9, 0, 100)
    found = axis.perplexity_ticks()
    assert [tick.label for tick in found] == labels
    for tick in found:
        value = float(tick.label.replace(",", ""))
        assert tick.place == pytest.approx(axis.at(math.log(value)), abs=0.01)


def test_a_document_that_got_better_is_below_the_line_of_no_change() -> None:
    found = dot_plot([(5.0, 4.0, "better"), (4.0, 5.0, "worse"), (4.5, 4.5, "the same")], 3)
    assert found is not None
    better, worse, same = found.dots

    def line(x: float) -> float:  # from the lower left to the upper right corner
        return BOTTOM + (x - LEFT) / (RIGHT - LEFT) * (TOP - BOTTOM)

    assert better.y > line(better.x) and not better.is_worse  # y counts downwards
    assert worse.y < line(worse.x) and worse.is_worse
    assert same.y == pytest.approx(line(same.x), abs=0.01) and not same.is_worse


def test_a_learning_curve_begins_with_the_base_and_leaves_out_what_is_not_finite() -> None:
    metrics = [{"step": step, "loss_nats": 5 - step / 10} for step in range(1, 5)]
    metrics[1]["loss_nats"] = math.nan
    metrics[3]["validation_nats"] = 4.5
    found = learning_curve(metrics, 5.5, 4)
    assert found is not None and len(found.training.split()) == 3
    assert [words for _, _, words in found.validation] == [
        "step 0: 5.500 nats a token",
        "step 4: 4.500 nats a token",
    ]
    assert found.best == found.validation[1][:2]
    assert learning_curve([], 5.5, 0) is None
    long = [{"step": step, "loss_nats": 1.0 + step % 2} for step in range(1, 10_001)]
    thin = learning_curve(long, 5.5, 0)
    assert thin is not None and len(thin.training.split()) <= 150 and thin.mean_of == 67


def test_intervals_share_one_line_with_zero_on_it() -> None:
    better, unclear, none = strips([(-60.0, -57.0, -55.0), (-1.0, 2.0, 5.0), None])
    assert better is not None and unclear is not None and none is None
    assert better.low < better.value < better.high < better.zero == unclear.zero
    assert (better.is_better, better.is_worse) == (True, False)
    assert unclear.low < unclear.zero < unclear.high and not (unclear.is_better or unclear.is_worse)


def test_of_many_the_first_and_the_last_are_shown_and_the_rest_evenly() -> None:
    assert evenly(range(10_001), 5) == [0, 2500, 5000, 7500, 10_000]
    assert evenly([3, 1], 5) == [3, 1]
