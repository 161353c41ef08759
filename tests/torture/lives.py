"""A fine-tuning that is killed again and again, at random moments, until it comes to its end.

    python tests/torture/lives.py CHECKPOINT CORPUS FOLDER KILLS SEED [KEY=VALUE …]

Trains once undisturbed into FOLDER/whole, then with KILLS kills into FOLDER/killed. Prints one line of JSON:
how often it was killed in which stage, and whether what is left is the same, byte for byte.
"""

# ruff: noqa: E402  # the environment and the process are prepared before torch is imported

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from ft_toolkit.recipe import Recipe
from ft_toolkit.runtime import prepare_process, prepare_torch

prepare_process()
prepare_torch()

from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.session import Options

FILES = (
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "metrics.jsonl",
    "comparison.json",
)
MOST_LIVES = 400


def recipe_of(checkpoint: str, corpus: str, overrides: list[str]) -> Recipe:
    values: dict[str, Any] = {
        "name": "tortured",
        "base": checkpoint,
        "corpus": {"source": corpus},
        "adapter": {"dropout": 0.1},
        "training": {
            "steps": 24,
            "block_tokens": 32,
            "batch_tokens": 128,
            "learning_rate": 0.01,
            "patience": 99,
        },
        "judging": {"general": None},
    }
    for override in overrides:
        section, key, value = override.replace("=", ".", 1).split(".", 2)
        values[section][key] = json.loads(value)
    return Recipe.model_validate(values)


def live(recipe: Recipe, folder: Path) -> int:
    """One life in a process of its own, forked from this one, which has imported everything; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ["FT_CACHE"] = str(folder / "cache")
        finetune(recipe, folder, Options(gate=False), Screen(quiet=True))
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def stage_of(folder: Path) -> str:
    """How far a killed run had come, by what it left."""
    run = folder / "tortured"
    if not (run / "run.json").exists():
        return "opening"
    artefacts = Run(run).facts.get("artefacts", {})
    if "weights" in artefacts:
        return "judging"
    steps = list((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    return "training" if steps else "before the first checkpoint"


def main() -> None:
    checkpoint, corpus, place, kills, seed, *overrides = sys.argv[1:]
    recipe, draw = recipe_of(checkpoint, corpus, overrides), random.Random(int(seed))
    whole, killed = Path(place) / "whole", Path(place) / "killed"
    started = time.monotonic()
    _, status = os.waitpid(live(recipe, whole), 0)
    seconds = time.monotonic() - started
    assert status == 0, "the undisturbed life failed"
    stages: Counter[str] = Counter()
    for _ in range(MOST_LIVES):
        pid = live(recipe, killed)
        if sum(stages.values()) < int(kills):
            time.sleep(draw.uniform(0, 1.1 * seconds))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            stages[stage_of(killed)] += 1
        elif status:
            sys.exit("a life failed; see above")
        # a run may be killed just after it came to its end, before its process did
        if (killed / "tortured" / "run.json").exists() and Run(killed / "tortured").is_ended:
            if sum(stages.values()) >= int(kills):
                break
            os.rename(killed, killed.with_name(f"killed-{sum(stages.values())}"))  # ended too soon: once more
    different = [
        name
        for name in FILES
        if (whole / "tortured" / name).read_bytes() != (killed / "tortured" / name).read_bytes()
    ]
    left = sorted(path.name for path in (killed / "tortured").rglob("*.unfinished"))
    print(
        json.dumps(
            {
                "killed": stages,
                "different": different,
                "left": left,
                "runs": len(list(killed.glob("tortured*"))),
            }
        )
    )


if __name__ == "__main__":
    main()
