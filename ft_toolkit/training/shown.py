"""What the progress line says of a training: its last losses, the best so far, its speed."""

from __future__ import annotations

import math
from collections import deque

import psutil

from ft_toolkit.progress_line import CURVE_CELLS, Figures, count
from ft_toolkit.training.state import TrainingState


class Shown:
    """Keeps the last losses.

    budget_seconds   of training.budget; None: it ends with its steps
    """

    def __init__(self, budget_seconds: float | None) -> None:
        self.budget_seconds = math.inf if budget_seconds is None else budget_seconds
        self.losses: deque[float] = deque(maxlen=CURVE_CELLS)

    def figures(self, loss: object, state: TrainingState, seconds: float) -> Figures:
        """After a step.

        loss      nats a token; None where the step was skipped
        seconds   since the training began, in all its lives
        """
        rate = state.tokens / max(seconds - state.seconds_before_steps, 1e-9)
        gigabytes = f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
        words, short = ["step skipped: its loss is not finite"], ["skipped"]
        if isinstance(loss, float):
            self.losses.append(loss)
            words, short = [f"loss {loss:.3f}"], [f"loss {loss:.2f}"]
        if math.isfinite(state.best_nats):
            words.append(f"validation {state.best_nats:.3f}")
            short.append(f"best {state.best_nats:.2f}")
        words += [f"{rate:.0f} tokens/s", gigabytes]
        short += [f"{count(rate)} tok/s", gigabytes]
        return Figures("  ".join(words), short, tuple(self.losses), self.budget_seconds - seconds)
