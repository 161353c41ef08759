"""What always travels together through a journey: what the command line says, the accelerator, the screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ft_toolkit.progress import Screen

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Options:
    """How a fine-tuning is carried out; what is trained stands in the recipe.

    device    auto, cpu, cuda or mps
    trackers  names that accelerate knows
    judge     False: stop after training with the validation figure, so that configurations can be tried
              without a look at the test part; ft compare judges the run later
    gate      False: spare the fresh process that proves what was saved (some seconds); ft push refuses such
              a run
    energy    True: measure with codecarbon (extra `energy`)
    restart   True: an unfinished run whose inputs changed is made anew from there, not refused
    reuse     True: take over what a finished run of this name made from the same inputs
    folder    go on with the run in this very folder
    """

    device: str = "auto"
    trackers: tuple[str, ...] = ()
    judge: bool = True
    gate: bool = True
    energy: bool = False
    restart: bool = False
    reuse: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class Session:
    """One process's part in a journey."""

    accelerator: Accelerator
    screen: Screen = field(default_factory=Screen)

    @property
    def is_main(self) -> bool:
        """Whether this process writes to the run's folder; the others only take part in the training."""
        return bool(self.accelerator.is_main_process)
