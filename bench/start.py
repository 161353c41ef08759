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

ROUNDS = 6
ROUND = """
import os, sys, time
begun = time.monotonic()
import accelerate, peft, torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from ft_toolkit import finetune, run, session
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.training import loop
imported = time.monotonic()

def first_step(self, line):
    print(f"imports {imported - begun:.2f} s, then to the end of step {line['step']} "
          f"{time.monotonic() - imported:.2f} s", flush=True)
    os._exit(0)

run.Run.append_metrics = first_step
recipe, runs = sys.argv[1:]
finetune.finetune(read_recipe(recipe).recipe, runs, session.Options(device="cpu"), Screen(quiet=True))
"""


def main() -> None:
    """Print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    recipe = parser.parse_args().recipe
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as runs:
                command = [sys.executable, "-c", ROUND, recipe, runs]
                subprocess.run(command, env=os.environ | {"FT_CACHE": cache}, check=True)


if __name__ == "__main__":
    main()
