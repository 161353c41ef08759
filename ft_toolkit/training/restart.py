"""A start that diverges is given up once: the same training begins again at a third of the learning rate."""

from __future__ import annotations

import math

import torch

from ft_toolkit.training.state import Learned, TrainingState

RATE_DIVISOR = 3.0
SHARE_OF_STEPS, LEAST_STEPS = 0.05, 3  # so many steps in a row above the base's loss
MARGIN = (
    1.05  # above it by so much: the losses of batches differ, and the base's is that of one or of other text
)


class Restart:
    """Watches the losses of a start, and puts everything back to where the training began.

    A start lasts until a validation is better than the base's: from then on there is something to lose, and
    the best weights are kept whatever follows.
    """

    def __init__(self, learned: Learned, steps: int, *, is_allowed: bool) -> None:
        """learned   as it is before the first step, and before a checkpoint is restored"""
        self.learned, self.is_allowed = learned, is_allowed
        self.patience_steps = max(LEAST_STEPS, math.ceil(SHARE_OF_STEPS * steps))
        self.beginning = (
            {name: p.detach().to("cpu", copy=True) for name, p in learned.parameters.items()}
            if is_allowed
            else {}
        )

    def is_possible(self, state: TrainingState) -> bool:
        """Whether this is still the first start, with nothing gained yet."""
        assert state.base_nats is not None  # measured before the first step
        return self.is_allowed and state.restarted_at is None and not state.best_nats < state.base_nats

    def is_due(self, state: TrainingState, nats: float | None) -> bool:
        """Count a step's loss, None where it was not finite; whether the start has diverged."""
        if not self.is_possible(state):
            self.beginning.clear()
            return False
        assert state.base_nats is not None
        if state.first_nats is None:
            state.first_nats = nats
        limit = MARGIN * max(state.base_nats, state.first_nats or 0.0)
        is_above = nats is None or nats > limit
        state.steps_above_base = state.steps_above_base + 1 if is_above else 0
        return state.steps_above_base >= self.patience_steps

    def begin_again(self, state: TrainingState, seconds: float) -> TrainingState:
        """Weights and optimizers as they were before the first step; what was measured of the base is kept.

        seconds   of training so far: a budget counts them, the new warm-up does not
        """
        with torch.no_grad():
            for name, value in self.beginning.items():
                self.learned.parameters[name].copy_(value)
        for optimizer in self.learned.optimizers:
            optimizer.state.clear()
        self.beginning.clear()
        return TrainingState(
            seconds=seconds,
            seconds_before_steps=seconds,
            base_nats=state.base_nats,
            restarted_at=state.step,
        )
