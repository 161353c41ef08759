"""Seconds until a fine-tuning has taken its first step: those of the imports, and those after them.

    python bench/start.py [RECIPE]

Each round is a process of its own with the same cache; the first one fills it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

ROUNDS = 6


def one_round(recipe: str, runs: str) -> None:
    """Print both times and end the process."""
    begun = time.monotonic()
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer  # noqa: F401

    from ft_toolkit.finetune import finetune
    from ft_toolkit.progress import Screen
    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.run import Run
    from ft_toolkit.session import Options
    from ft_toolkit.training import loop  # noqa: F401

    imported = time.monotonic()

    def first_step(run: Run, line: Mapping[str, object]) -> None:
        after = time.monotonic() - imported
        print(f"imports {imported - begun:.2f} s, then to the end of step {line['step']} {after:.2f} s")
        sys.stdout.flush()
        os._exit(0)

    Run.append_metrics = first_step  # type: ignore[method-assign]
    finetune(read_recipe(recipe).recipe, runs, Options(device="cpu"), Screen(quiet=True))


def main() -> None:
    """Print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--round", metavar="RUNS", help="one round, with its run in this folder")
    asked = parser.parse_args()
    if asked.round:
        one_round(asked.recipe, asked.round)
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as runs:
                command = [sys.executable, __file__, asked.recipe, "--round", runs]
                subprocess.run(command, env=os.environ | {"FT_CACHE": cache}, check=True)


if __name__ == "__main__":
    main()
