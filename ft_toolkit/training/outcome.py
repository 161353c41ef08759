"""How a training went, as run.json keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

StopReason = Literal["done", "patience", "budget", "interrupted", "terminated"]


@dataclass(frozen=True)
class Outcome:
    """How training went. The model holds the adapter of `best_step` when it is over."""

    steps: int
    planned_steps: int
    best_step: int
    base_validation_nats: float  # a token, before the first step, where the adapter still changes nothing
    best_validation_nats: float | None  # as it is saved; None: stopped before the first validation
    tokens: int  # read in training, all epochs
    seconds: float  # of training, summed over resumed processes
    precision: str
    stopped_by: StopReason
    skipped_steps: int = 0  # with a loss or gradient that was not finite
    learning_rate: float | None = None  # the peak that was used; None in runs of an older ft-toolkit
    restarted_at: int | None = None  # the step at which a start that diverged was given up (restart.py)
    strength: float = 1.0  # at which the adapter is saved (strength.py)
    gain_kept: float | None = None  # share of the validation gain at that strength; None: there is no gain

    @property
    def is_unfinished(self) -> bool:
        """Whether a signal ended it, so that the same command goes on with it."""
        return self.stopped_by in ("interrupted", "terminated")

    def as_dict(self) -> dict[str, object]:
        return asdict(self)
