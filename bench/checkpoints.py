"""What checkpoints cost: their share of a training's time.

    python bench/checkpoints.py                                       # quickstart, starter/gpt2
    python bench/checkpoints.py --large training.steps=16             # a random model of GPT-2's 124M shape
    python bench/checkpoints.py --large training.steps=16 adapter.method=full

Trains a recipe without a verdict, and times every checkpoint on the way. One is due at each of the eight
validations and every ten minutes, so that the share falls as a training gets longer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from ft_toolkit.runtime import prepare_process, prepare_torch

prepare_process()
prepare_torch()

from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel  # noqa: E402

from ft_toolkit import shipped  # noqa: E402
from ft_toolkit.finetune import finetune  # noqa: E402
from ft_toolkit.recipe import read_recipe  # noqa: E402
from ft_toolkit.session import Options  # noqa: E402
from ft_toolkit.training.state import Checkpoints, Learned, TrainingState  # noqa: E402


def large_base(folder: Path) -> str:
    """Random weights of GPT-2's 124M shape, with the starter's tokenizer."""
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shipped.starter("gpt2")).save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    seconds: list[float] = []
    size_bytes = 0
    exact = Checkpoints.save

    def save(self: Checkpoints, state: TrainingState, learned: Learned) -> None:
        nonlocal size_bytes
        started = time.monotonic()
        exact(self, state, learned)
        seconds.append(time.monotonic() - started)
        written = (self.folder / f"step-{state.step:08d}").rglob("*")
        size_bytes = sum(path.stat().st_size for path in written)

    with tempfile.TemporaryDirectory() as folder, patch.object(Checkpoints, "save", save):
        base = [f"base={large_base(Path(folder) / 'base')}"] if asked.large else []
        recipe = read_recipe(asked.recipe, [*base, *asked.overrides]).recipe
        run = finetune(recipe, Path(folder) / "runs", Options(judge=False, gate=False))
        training = run.facts["training"]
    whole, each = training["seconds"], sum(seconds) / len(seconds)
    print(
        f"{len(seconds)} checkpoints of {size_bytes / 1e6:.1f} MB, {each:.3f} s each: "
        f"{100 * sum(seconds) / whole:.2f} % of {whole:.1f} s for {training['steps']} steps"
    )


if __name__ == "__main__":
    main()
