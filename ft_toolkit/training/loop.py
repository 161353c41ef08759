"""The training loop: trains the tuned side of a pair on rows of token ids.

A step's loss is the sum over its targets divided by their number, across micro-batches and processes. Every
process knows all rows, so this number is known before the first forward pass and nothing is gathered.

All randomness of a step follows from (seed, step): a training that was killed and resumed from its last
checkpoint takes exactly the steps of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import Optimizer

from ft_toolkit.errors import NumbersGoneWrong, told_when_stopped
from ft_toolkit.models.adapters import set_dropout, trainable
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.runtime import Noted, signals_noted
from ft_toolkit.sections import Training
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import mask
from ft_toolkit.text.rows import Row
from ft_toolkit.training.accumulation import Accumulation
from ft_toolkit.training.optimizers import set_learning_rate
from ft_toolkit.training.outcome import Outcome, StopReason
from ft_toolkit.training.restart import RATE_DIVISOR, Restart
from ft_toolkit.training.schedule import endless, learning_rate, planned_steps, step_seed
from ft_toolkit.training.shown import Shown
from ft_toolkit.training.state import Checkpoints, Learned, TrainingState

VALIDATIONS = 8  # over the planned steps
CHECKPOINT_SECONDS = 600.0  # at most between two checkpoints; every validation writes one too
GRADIENT_NORM = 1.0
SKIPPED_IN_A_ROW = 3  # steps without a finite loss and gradient, before training gives up


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and how.

    model     the tuned side of a pair: its tokenizer made the rows, and its trainable weights are trained
    rows      training rows (text/packing.py); masked ones are masked afresh each epoch
    optimizers  from optimizers.make_optimizers, for this model
    validate  nats a token of the validation part, in float32, called VALIDATIONS times
    validate_untrained  the same before the first step, where it may be known; None: validate
    may_restart  a start that diverges begins again at a lower rate: where nobody asked for this very rate
    """

    model: LanguageModel
    rows: Sequence[Row]
    plan: Training
    optimizers: list[Optimizer]
    validate: Callable[[], float]
    may_restart: bool = False
    validate_untrained: Callable[[], float] | None = None


@dataclass(frozen=True)
class Journal:
    """Where a training writes while it runs.

    record       receives one line a step
    rewind       drops the lines after a step, since training resumes from there
    checkpoints  None: the training cannot be resumed
    """

    record: Callable[[dict[str, object]], None] = lambda line: None
    rewind: Callable[[int], None] = lambda step: None
    checkpoints: Checkpoints | None = None


def train(job: TrainingJob, session: Session, journal: Journal | None = None) -> Outcome:
    """Train the adapter in place from its newest checkpoint, and keep the weights that validated best.

    A signal ends it at the next micro-batch with a checkpoint; a second one ends it at once.

    raises   NumbersGoneWrong after SKIPPED_IN_A_ROW steps without a finite loss and gradient
    """
    training = _Training(job, session, journal or Journal())
    try:
        training.begin()
        stopped_by = training.run()
    finally:
        set_dropout(job.model.model, active=False)
        session.accelerator.free_memory()
    return training.end(stopped_by)


class _Training:
    """A training in progress: the job prepared for this machine, and the state between two steps."""

    def __init__(self, job: TrainingJob, session: Session, journal: Journal) -> None:
        self.job, self.session, self.journal = job, session, journal
        self.accelerator, self.plan, self.family = session.accelerator, job.plan, job.model.family
        self.learned = Learned(trainable(job.model.model), job.optimizers)
        scorer = TokenScorer(job.model.model, self.family)
        prepared, *self.optimizers = self.accelerator.prepare(SummedLoss(scorer), *job.optimizers)
        self.accumulation = Accumulation(prepared, job.model, session)
        self.steps = planned_steps(job.rows, self.plan, self.family.packs)
        self.restart = Restart(self.learned, self.steps, is_allowed=job.may_restart)
        self.validate_every = max(1, math.ceil(self.steps / VALIDATIONS))
        special_ids = job.model.tokenizer.all_special_ids
        words = np.arange(job.model.config.vocab_size, dtype=np.int32)
        self.plain_ids = np.setdiff1d(words, special_ids)
        self.state = TrainingState()
        self.seconds_before, self.started = 0.0, time.monotonic()
        self.last_checkpoint = time.monotonic()
        self.shown = Shown(self.plan.budget)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def begin(self) -> None:
        """From the newest checkpoint, or from the start."""
        checkpoints = self.journal.checkpoints
        found = checkpoints.restore(self.learned) if checkpoints else None
        if found is not None:
            self.state, self.seconds_before = found, found.seconds
            self.session.screen.say(f"training goes on after step {found.step} of {self.steps}")
        self._set_rate()
        self.journal.rewind(self.state.step)
        if self.state.base_nats is None:
            with told_when_stopped("before the first step; nothing was trained"):
                self.state.base_nats = (self.job.validate_untrained or self.job.validate)()
            self.state.seconds_before_steps = self.seconds
        set_dropout(self.job.model.model, active=True)

    def run(self) -> StopReason:
        """Take steps until the training ends or is stopped."""
        if self.state.step >= self.steps or self.state.without_gain >= self.plan.patience:
            return "done" if self.state.step >= self.steps else "patience"
        screen, taken = self.session.screen, self.state.step
        with signals_noted() as noted, screen.stage("training", self.steps, done=taken) as advance:
            while (reason := self._steps(noted, advance)) is None:
                advance(-self.state.step)
                self._begin_again()
            return reason

    def _steps(self, noted: Noted, advance: Callable[..., object]) -> StopReason | None:
        """Step after step until something ends the training; None where its start has diverged."""
        state = self.state
        for step, (epoch, batch) in self._ahead():
            line = self._step(step, epoch, batch, lambda: noted.reason is not None)
            if line is None:  # stopped between two micro-batches: this step did not happen
                self._checkpoint()
                return noted.reason or "interrupted"
            over_budget = self._spent() >= 1
            if step % self.validate_every == 0 or step == self.steps or over_budget:
                line["validation_nats"] = self._validate()
            loss = line["loss_nats"]
            if self.restart.is_due(state, loss if isinstance(loss, float) else None):
                return None
            self.journal.record(line)
            if "validation_nats" in line or self._checkpoint_is_due():
                self._checkpoint()
            self._show(line, advance)
            if step == self.steps:
                return "done"
            if over_budget or state.without_gain >= self.plan.patience:
                return "budget" if over_budget else "patience"
            if self._any(noted.reason is not None):
                self._checkpoint()
                return noted.reason or "interrupted"
        raise AssertionError("the rows never end")

    def _begin_again(self) -> None:
        """Once more from the first step, at a lower rate; the lines and checkpoints so far are forgotten."""
        if self.journal.checkpoints is not None and self.session.is_main:
            self.journal.checkpoints.remove()
        self.state = self.restart.begin_again(self.state, self.seconds)
        self._set_rate()
        self.journal.rewind(0)
        self._checkpoint()
        words = f"up to step {self.state.restarted_at} the loss was above the base's; training starts again"
        self.session.screen.say(f"{words}, at a third of the learning rate: {self.plan.peak:.2g}")

    def _set_rate(self) -> None:
        """The recipe's rate, or the lower one after a start that diverged."""
        divisor = 1.0 if self.state.restarted_at is None else RATE_DIVISOR
        self.plan = self.job.plan.model_copy(update={"learning_rate": self.job.plan.peak / divisor})

    def end(self, stopped_by: StopReason) -> Outcome:
        """Put the best adapter into the model."""
        state, parameters = self.state, self.learned.parameters
        with torch.no_grad():
            for name, value in state.best.items():
                parameters[name].copy_(value)
        assert state.base_nats is not None  # begin() measured it
        return Outcome(
            steps=state.step,
            planned_steps=self.steps,
            best_step=state.best_step or state.step,
            base_validation_nats=state.base_nats,
            best_validation_nats=state.best_nats if state.best else None,
            tokens=state.tokens,
            seconds=self.seconds,
            precision=self.accelerator.mixed_precision.replace("no", "float32"),
            stopped_by=stopped_by,
            skipped_steps=state.skipped_steps,
            learning_rate=self.plan.peak,
            restarted_at=state.restarted_at,
        )

    def _ahead(self) -> Iterator[tuple[int, tuple[int, list[Row]]]]:
        """(step from 1, (epoch from 0, its rows)) for every step that is still to be taken."""
        done = self.state.step
        yield from enumerate(endless(self.job.rows, self.plan, self.family.packs, done), start=done + 1)

    def _step(
        self, step: int, epoch: int, batch: list[Row], is_stopped: Callable[[], bool]
    ) -> dict[str, object] | None:
        """One optimizer step; returns its line, or None when it was stopped before the optimizer moved."""
        # the first step always trains, however small the budget
        spent = self._spent(self.state.seconds_before_steps) if step > 1 else 0.0
        rate = learning_rate(step - 1, self.steps, self.plan, spent)
        set_learning_rate(self.optimizers, rate)
        if self.family.objective == "masked":
            batch = [row if row.is_masked else self._masked(row, epoch) for row in batch]
        count = sum(int((row.targets != NO_TARGET).sum()) for row in batch)
        seed = step_seed(self.plan.seed, step, self.accelerator.process_index)
        nats = self.accumulation.gradients(batch, count, seed, is_stopped) if count else 0.0
        if nats is None:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            return None
        parameters = list(self.learned.parameters.values())
        norm = self.accelerator.clip_grad_norm_(parameters, GRADIENT_NORM) if count else 0.0
        is_finite = math.isfinite(nats) and (norm is None or math.isfinite(float(norm)))
        for optimizer in self.optimizers:
            if is_finite and count:
                optimizer.step()
            optimizer.zero_grad()
        state = self.state
        state.step = step
        state.tokens += sum(len(row.input_ids) for row in batch)
        state.skipped_steps += not is_finite
        state.skipped_in_a_row = 0 if is_finite else state.skipped_in_a_row + 1
        if state.skipped_in_a_row >= SKIPPED_IN_A_ROW and not self.restart.is_possible(state):
            self._give_up(step, batch)
        line: dict[str, object] = {
            "step": step,
            "epoch": epoch,
            "loss_nats": nats / max(count, 1) if is_finite else None,
            "learning_rate": rate,
            "gradient_norm": float(norm) if norm is not None and is_finite else None,
            "targets": count,
            "tokens": state.tokens,
        }
        return line if is_finite else line | {"skipped": True}

    def _masked(self, row: Row, epoch: int) -> Row:
        mask_id = self.job.model.special.mask or 0
        return mask(row, self.plan.seed, epoch, mask_id, self.plain_ids, self.plan.mask_fraction)

    def _validate(self) -> float:
        """Score the validation part with dropout off, and keep the weights if they are the best so far."""
        state = self.state
        set_dropout(self.job.model.model, active=False)
        found = self.job.validate()
        set_dropout(self.job.model.model, active=True)
        state.without_gain += 1
        if found < state.best_nats:
            state.best_nats, state.best_step, state.without_gain = found, state.step, 0
            state.best = {name: p.detach().clone() for name, p in self.learned.parameters.items()}
        return found

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS

    def _checkpoint(self) -> None:
        if self.journal.checkpoints is not None and self.session.is_main:
            self.state.seconds = self.seconds
            self.journal.checkpoints.save(self.state, self.learned)
        self.last_checkpoint = time.monotonic()

    def _spent(self, since_seconds: float = 0.0) -> float:
        """The share of the budget's time behind `since_seconds` that is used up, by the clock ahead of all.

        All processes use the same number: different rates would make their adapters differ, and a process
        that stops alone would leave the others waiting.
        """
        if self.plan.budget is None:
            return 0.0
        share = (self.seconds - since_seconds) / max(self.plan.budget - since_seconds, 1e-9)
        if self.accelerator.num_processes > 1:
            shares = torch.tensor([share], device=self.accelerator.device)
            share = float(self.accelerator.gather(shares).max())
        return share

    def _any(self, flag: bool) -> bool:
        """Whether any process says so; one that stopped alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(flags > 0)

    def _show(self, line: dict[str, object], advance: Callable[..., object]) -> None:
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        self.accelerator.log(numbers, step=self.state.step)
        advance(1, self.shown.figures(line["loss_nats"], self.state, self.seconds))

    def _give_up(self, step: int, batch: Sequence[Row]) -> None:
        names = ", ".join(list(dict.fromkeys(name for row in batch for name in row.documents))[:3])
        where = f"training steps {step - SKIPPED_IN_A_ROW + 1} to {step}"
        found = f"none, at last on {names}"
        fix = "Lower training.learning_rate, or look at these documents."
        raise NumbersGoneWrong(where, "finite losses and gradients", found, fix)
