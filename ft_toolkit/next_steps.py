"""The next command to type, after every end of a fine-tuning: done, stopped, or failed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ft_toolkit.errors import FtError, NumbersGoneWrong, Terminated
from ft_toolkit.run import Run


def tell_next(run: Run) -> None:
    """Say what to do with a run that came to its end; only where this process kept its folder."""
    if (run.folder / "run.json").is_file():  # under accelerate launch the main process has it
        for line in after(run):
            print(line, file=sys.stderr)


def after(run: Run) -> list[str]:
    """A line for each command that a run which came to its end leads to."""
    place, lines = _quoted(run.folder), []
    if not (run.folder / "comparison.json").is_file():
        lines.append(f"next: ft compare {place}   judges it on the test part")
    elif _is_better(run):
        lines.append(f"next: ft try {place}   or   ft push {place} --to owner/name")
    else:
        lines.append(f"next: ft tune {_recipe(run)} --budget 30m   searches better settings")
    if (run.facts.get("training") or {}).get("stopped_by") == "budget":
        lines.append(f"with more time: ft finetune {_recipe(run)} --set training.budget=null")
    return lines


@contextmanager
def unfinished_noted(run: Run) -> Iterator[None]:
    """Add to whatever ends a run early the command that goes on with it, unless it already names one."""
    try:
        yield
    except (FtError, OSError, KeyboardInterrupt, Terminated) as stop:
        if not any(f"ft {verb} " in str(stop) for verb in ("resume", "compare")):
            with suppress(FtError):  # a damaged run has no next command, and hides no error
                stop.add_note(f"next: {_going_on(run, stop)}")
        raise


def _going_on(run: Run, stop: BaseException) -> str:
    if isinstance(stop, NumbersGoneWrong) and "training.learning_rate" in stop.fix:
        lower = run.recipe.training.peak / 3
        return f"ft finetune {_recipe(run)} --set training.learning_rate={lower:.2g}"
    return f"ft resume {_quoted(run.folder)}"


def _is_better(run: Run) -> bool:
    """Whether the whole interval of what it was trained for is below zero."""
    high = run.comparison["corpora"][0]["difference"]["high"]
    return high is not None and high < 0


def _recipe(run: Run) -> str:
    return _quoted(run.folder / "recipe.yaml")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
