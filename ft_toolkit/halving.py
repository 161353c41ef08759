"""Successive halving within a time: try many settings shortly, the better half twice as long, and so on.

Only arithmetic: the same trials with the same figures and times give the same decisions. So a search that was
stopped goes on by asking for the same trials again.

source   Jamieson & Talwalkar 2016, arXiv:1502.07943
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

LEAST_STEPS = 8  # of a shorter training than asked for: below, the warm-up and the first batches decide
SHORTER, LONGER = (8, 4, 2), 2  # the lengths below and above the one asked for
LEAST_FOR_LONGER = 4  # candidates that must fit into the time before it goes into a longer training
S = TypeVar("S")


@dataclass(frozen=True)
class Tried(Generic[S]):
    """One training of some settings.

    nats     a token of the validation part; inf where the training failed
    seconds  of the whole trial; training_seconds are those that grow with the steps
    """

    settings: S
    steps: int
    nats: float
    seconds: float
    training_seconds: float

    @property
    def has_failed(self) -> bool:
        return math.isinf(self.nats)


def lengths(asked_steps: int) -> list[int]:
    """The steps of each rung, ascending: fractions of those asked for, these themselves, and twice as many.

    Each is a whole training with its own warm-up and decay. So the number of epochs is searched as well.
    """
    shorter = [asked_steps // part for part in SHORTER]
    return [*(steps for steps in shorter if steps >= LEAST_STEPS), asked_steps, LONGER * asked_steps]


def halve(
    candidates: Sequence[S],
    asked_steps: int,
    budget_seconds: float,
    try_one: Callable[[S, int], Tried[S]],
) -> list[Tried[S]]:
    """Try candidates, the first ones first, and train the better half of a rung twice as long on the next.

    A candidate enters a rung while the time left also covers the halves on all longer rungs. What a trial
    takes is estimated from the trials so far, so the budget holds to within one trial.

    returns  every trial in its order; a single one where the budget is too short for two
    """
    tried = [try_one(candidates[0], lengths(asked_steps)[0])]
    rungs = _affordable(lengths(asked_steps), asked_steps, budget_seconds, tried)
    entrants = list(candidates)
    for place, steps in enumerate(rungs):
        on_this_rung = tried[:] if place == 0 else []
        for settings in entrants[len(on_this_rung) :]:
            count = len(on_this_rung) + 1
            is_one_of_the_least = count <= (2 if place == 0 else 1)
            later = [] if is_one_of_the_least else rungs[place + 1 :]
            needed = _seconds(steps, tried) + _rest_seconds(count, later, tried)
            if _spent(tried) + needed > budget_seconds:
                break
            on_this_rung.append(try_one(settings, steps))
            tried.append(on_this_rung[-1])
        better = ranked(on_this_rung)[: max(1, len(on_this_rung) // 2)]
        entrants = [one.settings for one in better]
    return tried


def ranked(tried: Iterable[Tried[S]]) -> list[Tried[S]]:
    """Best first, without those that failed."""
    return sorted((one for one in tried if not one.has_failed), key=lambda one: one.nats)


def best(tried: Sequence[Tried[S]], asked_steps: int) -> Tried[S] | None:
    """The best of all trials; of the longest ones alone where the time ended before the length asked for.

    None where every trial failed.
    """
    found = ranked(tried)
    longest = max((one.steps for one in found), default=0)
    if longest < asked_steps:
        found = [one for one in found if one.steps == longest]
    return found[0] if found else None


def _affordable(
    rungs: Sequence[int], asked_steps: int, budget_seconds: float, tried: Sequence[Tried[S]]
) -> list[int]:
    """As many rungs as the budget allows, from the first: two candidates must fit, or none is left."""
    for stop in range(len(rungs), 0, -1):
        least = LEAST_FOR_LONGER if rungs[stop - 1] > asked_steps else 2
        first, *later = rungs[:stop]
        needed = (least - 1) * _seconds(first, tried) + _rest_seconds(least, later, tried)
        if _spent(tried) + needed <= budget_seconds:
            return list(rungs[:stop])
    return []


def _rest_seconds(count: int, later: Sequence[int], tried: Sequence[Tried[S]]) -> float:
    """What the rungs above one of `count` trials take, each with half of the rung below it."""
    total = 0.0
    for steps in later:
        count = max(1, count // 2)
        total += count * _seconds(steps, tried)
    return total


def _seconds(steps: int, tried: Sequence[Tried[S]]) -> float:
    """What a trial of so many steps takes, by those so far: a fixed part, and one for each step."""
    known = [one for one in tried if not one.has_failed] or tried
    fixed = sum(one.seconds - one.training_seconds for one in known) / len(known)
    return fixed + steps * sum(one.training_seconds for one in known) / sum(one.steps for one in known)


def _spent(tried: Sequence[Tried[S]]) -> float:
    return sum(one.seconds for one in tried)
