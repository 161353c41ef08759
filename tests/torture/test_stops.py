"""Stopped at any moment, the same command again ends with the very bytes of a run that never stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIVES = Path(__file__).with_name("lives.py")
CHARACTERS = 400  # of a document: a life takes a second or two
DISK_KILOBYTES = 2048


@pytest.fixture(scope="module")
def short_corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real documents, cut short."""
    folder = tmp_path_factory.mktemp("short") / "medicine"
    folder.mkdir()
    for path in sorted(small_corpus.iterdir())[:20]:
        (folder / path.name).write_text(path.read_text()[:CHARACTERS])
    return folder


def torture(checkpoint: Path, corpus: Path, place: Path, **asked: Any) -> dict[str, Any]:
    """What lives.py is asked for: a recipe that trains in a second; `asked` may change its sections."""
    values = {
        "base": str(checkpoint),
        "corpus": {"source": str(corpus)},
        "adapter": {"dropout": 0.1} | asked.pop("adapter", {}),
        "training": {
            "steps": 16,
            "block_tokens": 32,
            "batch_tokens": 128,
            "learning_rate": 0.01,
            "patience": 99,
        }
        | asked.pop("training", {}),
        "judging": {"general": None},
    }
    return {"values": values, "place": str(place)} | asked


def found_by(tortures: list[dict[str, Any]], disk: Path | None = None) -> list[dict[str, Any]]:
    """Run them, on a small disk of their own where one is asked for."""
    command = [sys.executable, str(LIVES)]
    if disk is not None:
        command = [*in_a_namespace(), f'{mounted(disk)} && exec "$@"', "sh", *command]
    done = subprocess.run(command, input=json.dumps(tortures), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)  # the phases that were hit, for docs/log.md
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_a_namespace() -> list[str]:
    """The mount is seen by this process and its children alone, and goes with them."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *own, "--mount", "sh", "-c"]


def mounted(disk: Path) -> str:
    return f"mount -t tmpfs -o size={DISK_KILOBYTES}k tmpfs '{disk}'"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small disk can be mounted."""
    folder = tmp_path_factory.mktemp("small") / "disk"
    folder.mkdir()
    if (
        not shutil.which("unshare")
        or subprocess.run([*in_a_namespace(), mounted(folder)], capture_output=True).returncode
    ):
        pytest.skip("needs root or user namespaces to mount a small disk")
    return folder


def is_unscathed(found: dict[str, Any]) -> bool:
    return not found["different"] and not found["faults"] and found["ended"] > 0


def test_a_run_that_was_killed_some_times_ends_bitwise_as_one_that_was_not(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path: Path
) -> None:
    (found,) = found_by([torture(checkpoints["gpt2"], short_corpus, tmp_path / "kills", stops=6)])
    assert is_unscathed(found), found


WHOLE_TORTURE = {
    "causal": ("gpt2", {"real": True}),
    "masked": ("bert", {"real": True}),
    "early-stopping": (
        "gpt2",
        {"adapter": {"method": "dora"}, "training": {"patience": 1, "learning_rate": 0.2}},
    ),
    "two-processes": ("gpt2", {"processes": 2}),
    "signals": ("gpt2", {"by": "signals"}),
}


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", WHOLE_TORTURE)
def test_a_run_that_was_stopped_fifty_times_ends_bitwise_as_one_that_was_not(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path: Path, kind: str
) -> None:
    family, asked = WHOLE_TORTURE[kind]
    (found,) = found_by([torture(checkpoints[family], short_corpus, tmp_path / kind, stops=50, **asked)])
    assert is_unscathed(found), found
    assert len(found["stopped"]) > 8, "too few phases were hit"


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_a_disk_that_is_full_again_and_again_costs_a_line_and_nothing_that_is_valid(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path: Path, disk: Path
) -> None:
    asked = torture(
        checkpoints["gpt2"], short_corpus, tmp_path / "full", stops=30, by="full-disk", disk=str(disk)
    )
    (found,) = found_by([asked], disk)
    assert is_unscathed(found), found
