"""The phases of a run as it goes through them, and deaths at a chosen moment of one."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from random import Random
from typing import Any
from unittest.mock import patch

# In the order in which a run first enters them. Of nested ones the innermost counts.
PHASES = {
    "reading corpus and base": "ft_toolkit.finetune.gathered",
    "opening the folder": "ft_toolkit.run.Run.create",
    "run.json": "ft_toolkit.run.Run.record",
    "dataset": "ft_toolkit.finetune._stage_dataset",
    "restoring": "ft_toolkit.training.loop._Training.begin",
    "a step": "ft_toolkit.training.loop._Training._step",
    "validation": "ft_toolkit.training.loop._Training._validate",
    "checkpoint": "ft_toolkit.training.state.Checkpoints.save",
    "saving the weights": "ft_toolkit.finetune.save_adapter",
    "integrity gate": "ft_toolkit.finetune._proven",
    "scoring": "ft_toolkit.rescoring.score_parts",
    "writing scores and verdict": "ft_toolkit.rescoring.write",
    "ending": "ft_toolkit.finetune._ended",
}
NAMES = ("between", *PHASES)
# What Python itself does to files; Rust (safetensors) and C++ (Arrow) are only met by the clock.
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Death:
    """When a life ends: some seconds after the nth entry of a phase, or at a file operation of the phase."""

    phase: str
    entry: int
    seconds: float
    operation: int | None  # None: by the clock
    signals: tuple[int, ...]


class Moments:
    """How often an undisturbed run was in each phase, for how long, and with how many file operations."""

    def __init__(self) -> None:
        self.entries: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def draw(self, random: Random, signals: tuple[int, ...]) -> Death:
        """Any phase; in it any moment or any file operation."""
        phase = random.choice([name for name in PHASES if self.entries[name]])
        entries, operations = self.entries[phase], self.operations[phase]
        at_operation = operations > 0 and random.random() < 0.5
        return Death(
            phase,
            random.randrange(entries),
            random.uniform(0, 1.1 * self.seconds[phase] / entries),
            random.randrange(operations) if at_operation else None,
            signals,
        )


class Watched:
    """A life seen from outside: the phase it is in, or was in when it died; shared between processes."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)
        self.moments = Moments()  # of this process alone

    @property
    def phase(self) -> str:
        return NAMES[self._shared[0]]

    @contextmanager
    def followed(self, death: Death | None, notify: Callable[[], object]) -> Iterator[None]:
        """Within the block the phase is known, and death comes as it was appointed.

        notify   called where a death by the clock begins to count
        """
        patches = [patch(place, self._marked(name, place, death, notify)) for name, place in PHASES.items()]
        sys.addaudithook(lambda event, arguments: self._operation(event, death))
        for each in patches:
            each.start()
        self._since = time.monotonic()
        yield  # the process ends with its life: nothing is put back

    def _marked(
        self, name: str, place: str, death: Death | None, notify: Callable[[], object]
    ) -> Callable[..., Any]:
        exact = _found(place)

        @wraps(exact)
        def marked(*arguments: Any, **more: Any) -> Any:
            before = self._shared[0]
            self._move(NAMES.index(name))
            is_due = death and death.phase == name and self.moments.entries[name] == death.entry
            self.moments.entries[name] += 1
            if is_due and death and death.operation is None:
                notify()
            found = exact(*arguments, **more)
            self._move(before)  # not in `finally`: what fails is remembered as the phase in which it failed
            return found

        return marked

    def _move(self, number: int) -> None:
        now = time.monotonic()
        self.moments.seconds[self.phase] += now - self._since
        self._since = now
        self._shared[0] = number

    def _operation(self, event: str, death: Death | None) -> None:
        if event not in FILE_OPERATIONS:
            return
        phase = self.phase
        self.moments.operations[phase] += 1
        if death and phase == death.phase and self.moments.operations[phase] - 1 == death.operation:
            for number in death.signals:
                os.kill(os.getpid(), number)


def _found(place: str) -> Callable[..., Any]:
    """A function by its dotted name, as patch finds it."""
    owner, _, name = place.rpartition(".")
    try:
        return getattr(import_module(owner), name)
    except ModuleNotFoundError:
        above, _, inner = owner.rpartition(".")
        return getattr(getattr(import_module(above), inner), name)
