"""ft tune's arithmetic: what is tried, how long, and what the budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from ft_toolkit.halving import Tried, best, halve, lengths

ASKED = 80  # steps of the whole training; its rungs are 10, 20, 40, 80 and 160
FIXED, A_STEP = 2.0, 0.1  # seconds


def training(step_seconds: float = A_STEP) -> Callable[[int, int], Tried[int]]:
    """Settings are numbers, and the lower one is better; longer trainings are a little better."""

    def try_one(settings: int, steps: int) -> Tried[int]:
        seconds = step_seconds * steps
        return Tried(settings, steps, settings - steps / 1e4, FIXED + seconds, seconds)

    return try_one


def counts(tried: list[Tried[int]]) -> list[int]:
    return [sum(one.steps == steps for one in tried) for steps in sorted({one.steps for one in tried})]


def test_a_rung_is_twice_as_long_as_the_one_below_and_none_is_shorter_than_eight_steps() -> None:
    assert lengths(ASKED) == [10, 20, 40, 80, 160]
    assert lengths(40) == [10, 20, 40, 80]  # 5 would be too short
    assert lengths(3) == [3, 6]


def test_with_time_enough_every_candidate_is_tried_and_the_better_half_goes_on() -> None:
    tried = halve([5, 3, 8, 1, 9, 2, 7, 4], ASKED, 1e6, training())
    assert [(one.settings, one.steps) for one in tried] == [
        *((n, 10) for n in (5, 3, 8, 1, 9, 2, 7, 4)),
        *((n, 20) for n in (1, 2, 3, 4)),
        *((n, 40) for n in (1, 2)),
        (1, 80),
        (1, 160),
    ]
    assert best(tried, ASKED) == tried[-1]


@pytest.mark.parametrize("budget", [10, 20, 30, 40, 60, 80, 120, 200, 400])
@pytest.mark.parametrize("step_seconds", [0.01, A_STEP, 0.4])
def test_the_budget_holds_and_the_length_asked_for_is_reached_where_two_candidates_fit(
    budget: float, step_seconds: float
) -> None:
    tried = halve(list(range(36)), ASKED, budget, training(step_seconds))
    spent = sum(one.seconds for one in tried)
    two_of_them = 5 * FIXED + (2 * 10 + 20 + 40 + 80) * step_seconds
    assert spent <= max(budget, tried[0].seconds)
    assert (max(one.steps for one in tried) >= ASKED) == (two_of_them <= budget)
    first, *later = counts(tried)
    assert all(upper <= max(1, lower // 2) for lower, upper in pairwise([first, *later]))
    if 2 * (FIXED + 10 * step_seconds) <= budget:
        assert first >= 2


def test_trials_that_become_slower_than_the_first_overrun_the_budget_by_less_than_one_trial() -> None:
    quick, slow = training(), training(5 * A_STEP)
    for budget in range(15, 300, 5):
        tried = halve(list(range(36)), ASKED, budget, lambda n, steps: (slow if n else quick)(n, steps))
        assert sum(one.seconds for one in tried[:-1]) <= budget


def test_a_budget_for_one_trial_gives_one() -> None:
    assert [one.settings for one in halve([7, 1], ASKED, 5.9, training())] == [7]
    assert [one.settings for one in halve([7, 1], ASKED, 6.0, training())] == [7, 1]


def test_a_search_that_is_repeated_asks_for_the_same_trials_and_a_larger_budget_for_more() -> None:
    once, again, more = (halve(list(range(36)), ASKED, b, training()) for b in (60, 60, 120))
    assert once == again
    assert {(one.settings, one.steps) for one in once} < {(one.settings, one.steps) for one in more}


def test_a_trial_that_failed_does_not_go_on() -> None:
    def fails(settings: int, steps: int) -> Tried[int]:
        found = training()(settings, steps)
        is_lost = settings == 0 or (settings, steps) == (1, 40)
        return Tried(settings, steps, math.inf, 1.0, 0.0) if is_lost else found

    tried = halve([0, 1, 2, 3], ASKED, 1e6, fails)
    assert [one.settings for one in tried if one.steps == 20] == [1, 2]
    assert [one.settings for one in tried if one.steps > 20] == [1]  # alone on its rung, and lost there
    assert best(tried, 20) == Tried(1, 20, 1 - 20 / 1e4, 4.0, 2.0)
    assert best(halve([0, 0], ASKED, 1e6, fails), ASKED) is None


def test_a_shorter_training_may_be_the_best_once_the_length_asked_for_was_tried() -> None:
    def overfits(settings: int, steps: int) -> Tried[int]:
        return Tried(settings, steps, abs(steps - 40), 1.0, 1.0)

    found = best(halve([0, 1], ASKED, 1e6, overfits), ASKED)
    assert found is not None and found.steps == 40
    cut = halve([0, 1], ASKED, 2.0, overfits)
    assert best(cut, ASKED) == cut[0]  # 10 steps
    assert best([*cut, overfits(0, 20)], ASKED) == overfits(0, 20)  # the longest, where none was long enough
