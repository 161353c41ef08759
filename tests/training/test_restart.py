"""A start that diverges begins once more, at a third of the rate, and leaves no trace but a record of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from two_processes import Bench, bench, texts_of_unequal_length

from ft_toolkit.errors import NumbersGoneWrong
from ft_toolkit.sections import Adapter, Training
from ft_toolkit.training.loop import Journal
from ft_toolkit.training.outcome import Outcome
from ft_toolkit.training.restart import Restart
from ft_toolkit.training.state import Checkpoints, Learned, TrainingState

Checkpoint = dict[str, Path]
WILD = 0.9  # for weights that are all trained: the loss doubles at once
PLAN = Training(steps=9, block_tokens=32, batch_tokens=96, learning_rate=WILD, patience=100)
BASE_NATS = 9.8


class Stopped(Exception):
    """Stands in for a kill."""


class Lines:
    """metrics.jsonl in memory; killed before the given writes, counted from 1 over all of them."""

    def __init__(self, kills: tuple[int, ...] = ()) -> None:
        self.lines: list[dict[str, Any]] = []
        self.kills, self.writes, self.first_steps = kills, 0, 0

    def record(self, line: dict[str, object]) -> None:
        self.writes += 1
        self.first_steps += line["step"] == 1
        if self.writes in self.kills:
            raise Stopped
        self.lines.append(line)

    def rewind(self, step: int) -> None:
        del self.lines[step:]


def worse_than_base(ready: Bench) -> Callable[[], float]:
    """A validation figure that follows from the weights alone, and is best before the first step."""
    beginning = _total(ready)

    def validate() -> float:
        found = _total(ready)
        return BASE_NATS if found == beginning else 10.0 + (found * 1e4) % 1.0

    return validate


def _total(ready: Bench) -> float:
    return sum(float(weight.double().abs().sum()) for weight in ready.adapter.values())


def train(
    checkpoint: Path, rate: float, lines: Lines, folder: Path | None = None, *, may_restart: bool = True
) -> tuple[dict[str, Tensor], Outcome]:
    ready = bench(checkpoint, texts_of_unequal_length(), adapter=Adapter(method="full"))
    plan = PLAN.model_copy(update={"learning_rate": rate})
    kept = Checkpoints(folder, {"recipe": "1"}) if folder else None
    journal = Journal(lines.record, lines.rewind, kept)
    outcome = ready.train(plan, worse_than_base(ready), journal, may_restart=may_restart)
    return ready.adapter, outcome


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(w, others[name]) for name, w in some.items())


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_start_that_diverges_ends_bitwise_as_a_training_at_a_third_of_the_rate(
    checkpoints: Checkpoint, family: str
) -> None:
    calm, lines = Lines(), Lines()
    expected, direct = train(checkpoints[family], WILD / 3, calm, may_restart=False)
    found, outcome = train(checkpoints[family], WILD, lines)
    assert outcome.restarted_at is not None and outcome.restarted_at < PLAN.steps  # type: ignore[operator]
    assert (outcome.learning_rate, direct.learning_rate) == (WILD / 3, WILD / 3)
    assert same(found, expected)
    assert lines.lines == calm.lines
    assert (outcome.tokens, outcome.best_step) == (direct.tokens, direct.best_step)


def test_a_restarted_training_that_is_killed_anywhere_ends_bitwise_as_one_that_was_not(
    checkpoints: Checkpoint, tmp_path: Path
) -> None:
    whole = Lines()
    expected, outcome = train(checkpoints["gpt2"], WILD, whole)
    assert outcome.restarted_at == 4  # the first step is the base's; three in a row are above it
    # the writes are those of steps 1 to 3, and after the restart of 1 to 9
    for number, kills in enumerate([(4,), (2, 6, 11)]):
        lines = Lines(kills)
        for _ in kills:
            with pytest.raises(Stopped):
                train(checkpoints["gpt2"], WILD, lines, tmp_path / str(number))
        found, again = train(checkpoints["gpt2"], WILD, lines, tmp_path / str(number))
        assert same(found, expected)
        assert lines.lines == whole.lines
        assert (again.restarted_at, again.learning_rate) == (outcome.restarted_at, outcome.learning_rate)


def test_it_restarts_once_and_never_where_the_rate_was_asked_for(checkpoints: Checkpoint) -> None:
    lines = Lines()
    _, outcome = train(checkpoints["gpt2"], 3 * WILD, lines)  # a third of it diverges as well
    assert lines.first_steps == 2 and outcome.steps == PLAN.steps
    asked_for = Lines()
    _, outcome = train(checkpoints["gpt2"], WILD, asked_for, may_restart=False)
    assert (outcome.restarted_at, outcome.learning_rate, asked_for.first_steps) == (None, WILD, 1)


def test_losses_that_are_no_numbers_restart_before_they_end_the_run(checkpoints: Checkpoint) -> None:
    lines = Lines()
    with pytest.raises(NumbersGoneWrong):  # of the second start, as of a single one
        train(checkpoints["gpt2"], 1e30, lines)
    assert lines.first_steps == 2


# --- what counts as diverging, on losses made by hand ----------------------------------------------


def due_at(losses: list[float | None], steps: int = 40, best_nats: float | None = None) -> int | None:
    """The step at which a start with these losses is given up; its base reads 5 nats."""
    restart = Restart(Learned({"w": nn.Parameter(torch.zeros(1))}, []), steps, is_allowed=True)
    state = TrainingState(base_nats=5.0)
    for step, loss in enumerate(losses, start=1):
        state.step = step
        if best_nats is not None and step == 2:
            state.best_nats = best_nats
        if restart.is_due(state, loss):
            return step
    return None


def test_a_start_is_given_up_after_a_twentieth_of_the_steps_in_a_row_above_the_bases_loss() -> None:
    assert due_at([5.0] + [6.0] * 9) == 4  # of 40 steps a twentieth is 2, and 3 are the least
    assert due_at([5.0] + [6.0] * 9, steps=100) == 6
    assert due_at([5.0, 6.0, 6.0, 4.9, 6.0, 6.0, 4.9]) is None  # never so many in a row
    assert due_at([5.0, None, 6.0, None]) == 4  # no number is above every number


def test_a_loss_a_little_above_the_bases_is_another_batch_and_no_divergence() -> None:
    assert due_at([5.0, 5.2, 5.2, 5.2, 5.2, 5.2]) is None
    assert due_at([5.6, 5.7, 5.7, 5.7, 5.7, 5.7]) is None  # training text that is harder than validation text
    assert due_at([4.0, 5.2, 5.2, 5.2, 5.2, 5.2]) is None  # an easy first batch


def test_a_start_that_has_gained_is_never_given_up() -> None:
    assert due_at([5.0] + [9.0] * 9, best_nats=4.9) is None
    assert due_at([5.0] + [9.0] * 9, best_nats=5.1) == 4
