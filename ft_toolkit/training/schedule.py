"""Rows, order and learning rate of each step; all follow from recipe and step number alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ft_toolkit.sections import Training
from ft_toolkit.text.rows import Chosen, Row, Rows, outline_of
from ft_toolkit.training.mixture import epoch_rows, is_weighted


def learning_rate(step: int, steps: int, plan: Training, spent: float = 0.0) -> float:
    """Linear warm-up to the peak, then a cosine to zero. Steps count from 0.

    spent   share of the budget's time that is used up: where it exceeds the share of the steps, the rate
            follows it, so that a run cut by its budget also ends at zero
    """
    place = max(float(step), min(spent, 1.0) * steps)
    warmup_steps = round(plan.warmup_fraction * steps)
    if place < warmup_steps:
        return plan.peak * (place + 1) / (warmup_steps + 1)
    progress = (place - warmup_steps) / max(1, steps - warmup_steps)
    return plan.peak * (1 + math.cos(math.pi * progress)) / 2


def planned_steps(rows: Sequence[Row], plan: Training, packed: bool) -> int:
    """How many steps a training takes, if nothing ends it early."""
    if plan.steps:
        return plan.steps
    if is_weighted(rows):  # an epoch may have a row more than another
        return sum(len(batches(rows, plan, packed, epoch)) for epoch in range(plan.epochs))
    return plan.epochs * len(batches(rows, plan, packed, epoch=0))


def step_seed(seed: int, step: int, process_index: int) -> int:
    """The seed of one step's dropout: it follows from the step, so no generator state is kept."""
    return int(np.random.SeedSequence([seed, step, process_index]).generate_state(1, np.uint64)[0] >> 1)


def endless(
    rows: Sequence[Row], plan: Training, packed: bool, done: int = 0
) -> Iterator[tuple[int, list[Row]]]:
    """(epoch from 0, the rows of a step), epoch after epoch; rows are made when their step is asked for.

    done   steps that were taken before, and are left out
    """
    epoch = 0
    while True:
        steps = batches(rows, plan, packed, epoch)
        for batch in steps[done:]:
            yield epoch, list(batch)
        done = max(0, done - len(steps))
        epoch += 1


def batches(rows: Sequence[Row], plan: Training, packed: bool, epoch: int) -> list[Rows]:
    """A step's rows each, in an order drawn from (seed, epoch) alone; an epoch's steps are nearly equal.

    Every step moves the weights about as far (Adam divides by the gradient's size), so a last step of a few
    rows would count as much as a full one: the remainder is spread over all steps.
    """
    if is_weighted(rows):
        rows = epoch_rows(rows, plan.seed, epoch)
    draw = np.random.default_rng([plan.seed, epoch])
    order, lengths = draw.permutation(len(rows)), outline_of(rows).lengths
    if packed:  # rows are full
        size = max(1, plan.batch_tokens // (plan.block_tokens or int(lengths.max())))
        return [Chosen(rows, some) for some in np.array_split(order, math.ceil(len(rows) / size))]
    # rows of one length stay together, for little padding; a row goes where its middle token falls
    order = order[np.argsort(lengths[order], kind="stable")]
    middles = np.cumsum(lengths[order]) - lengths[order] / 2
    steps = math.ceil(lengths.sum() / plan.batch_tokens)
    edges = np.flatnonzero(np.diff(middles * steps // lengths.sum())) + 1
    found = np.split(order, edges)
    return [Chosen(rows, found[i]) for i in draw.permutation(len(found))]
