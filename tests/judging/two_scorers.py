"""A run that test_share.py lets two processes train and judge, and one whose second process is lost."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from accelerate import Accelerator

from ft_toolkit import finetune as journey
from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.runtime import is_first_process
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

TRAINING = {"steps": 2, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01, "replay": 0}


def recipe(name: str, base: Path, corpus: Path) -> Recipe:
    values = {"name": name, "base": str(base), "corpus": {"source": str(corpus)}, "training": TRAINING}
    general = min(shipped.corpus("italian-cooking").glob("*.md"))
    return Recipe.model_validate(values | {"judging": {"general": str(general)}})


def main(runs: Path, corpus: Path, *bases: Path) -> None:
    """A run for each base; then `lost`, whose second process is killed when judging begins."""
    Accelerator.end_training = lambda self: None  # type: ignore[method-assign]  # several trainings a process
    for base in (*bases, bases[0]):  # the first one again: its base's scores are kept by now
        journey.finetune(recipe(base.name, base, corpus), runs, Options(gate=False))
    if not is_first_process():
        journey.judge_run = lambda *whatever: os.kill(os.getpid(), signal.SIGKILL)
    try:
        journey.finetune(recipe("lost", bases[0], corpus), runs, Options(gate=False))
    except FtError as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
