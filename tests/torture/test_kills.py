"""Killed at any moment, the same command again ends with the very bytes of a run that never stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIVES = Path(__file__).with_name("lives.py")


def tortured(checkpoint: Path, corpus: Path, folder: Path, kills: int, *overrides: str) -> dict[str, object]:
    command = [
        sys.executable,
        str(LIVES),
        str(checkpoint),
        str(corpus),
        str(folder),
        str(kills),
        "7",
        *overrides,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(answer)  # the stages that were hit, for docs/log.md
    return answer


def test_a_run_that_was_killed_some_times_ends_bitwise_as_one_that_was_not(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path
) -> None:
    found = tortured(checkpoints["gpt2"], small_corpus, tmp_path, 5)
    assert (found["different"], found["left"], found["runs"]) == ([], [], 1)


@pytest.mark.torture
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("gpt2", ()),
        ("bert", ()),
        ("gpt2", ('adapter.method="dora"', "training.patience=1", "training.learning_rate=0.2")),
    ],
    ids=["causal", "masked", "early-stopping"],
)
def test_a_run_that_was_killed_fifty_times_ends_bitwise_as_one_that_was_not(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path, family: str, overrides: tuple[str, ...]
) -> None:
    found = tortured(checkpoints[family], small_corpus, tmp_path, 50, *overrides)
    assert (found["different"], found["left"], found["runs"]) == ([], [], 1)
