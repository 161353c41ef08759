"""Checkpoints: a training that goes on from one takes the very steps of a training that never stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from two_processes import Bench, bench, texts_of_unequal_length

from ft_toolkit.errors import NumbersGoneWrong, Terminated
from ft_toolkit.models.adapters import trainable
from ft_toolkit.sections import Adapter, Training
from ft_toolkit.training import state
from ft_toolkit.training.accumulation import Accumulation
from ft_toolkit.training.loop import Journal
from ft_toolkit.training.optimizers import make_optimizers
from ft_toolkit.training.outcome import Outcome
from ft_toolkit.training.schedule import step_seed
from ft_toolkit.training.state import Checkpoints, Learned, TrainingState

Checkpoint = dict[str, Path]
Kinds = pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("gpt2", Adapter()),
        ("gpt2", Adapter(dropout=0.2)),
        ("bert", Adapter(dropout=0.1)),
        ("gpt2", Adapter(method="lora+")),
        ("bert", Adapter(method="full")),
        ("gpt2", Adapter(method="scratch")),  # two optimizers, one of them Muon
    ],
    ids=["causal", "dropout", "masked", "lora+", "full", "scratch"],
)
PLAN = Training(steps=8, block_tokens=32, batch_tokens=96, learning_rate=0.01, patience=100)


class Stopped(Exception):
    """A process that was killed has no handler; this one stands in for it where no process is started."""


class Lines:
    """metrics.jsonl in memory."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.kill_at = kill_at

    def record(self, line: dict[str, object]) -> None:
        if line["step"] == self.kill_at:
            raise Stopped
        self.lines.append(line)

    def rewind(self, step: int) -> None:
        del self.lines[step:]


def best_by_loss(ready: Bench) -> Callable[[], float]:
    """A validation figure that follows from the weights alone, and is not ever falling."""

    def validate() -> float:
        total = sum(float(weight.double().abs().sum()) for weight in ready.adapter.values())
        return 5.0 + (total * 1e4) % 1.0

    return validate


def train(
    checkpoint: Path, adapter: Adapter, lines: Lines, folder: Path | None, said: list[str] | None = None
) -> tuple[dict[str, Tensor], Outcome]:
    ready = bench(checkpoint, texts_of_unequal_length(), adapter=adapter)
    say = (said if said is not None else []).append
    kept = Checkpoints(folder, {"recipe": "1"}, say) if folder else None
    outcome = ready.train(PLAN, best_by_loss(ready), Journal(lines.record, lines.rewind, kept))
    return ready.adapter, outcome


def learned(ready: Bench) -> Learned:
    return Learned(trainable(ready.model), make_optimizers(ready.model, ready.base.family, ready.plan))


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(w, others[name]) for name, w in some.items())


@Kinds
def test_a_training_that_was_killed_ends_bitwise_as_one_that_was_not(
    checkpoints: Checkpoint, tmp_path: Path, family: str, adapter: Adapter
) -> None:
    whole = Lines()
    expected, outcome = train(checkpoints[family], adapter, whole, None)
    lines = Lines(kill_at=4)
    with pytest.raises(Stopped):
        train(checkpoints[family], adapter, lines, tmp_path)
    lines.kill_at = 7  # and killed again
    with pytest.raises(Stopped):
        train(checkpoints[family], adapter, lines, tmp_path)
    lines.kill_at = None
    found, again = train(checkpoints[family], adapter, lines, tmp_path)
    assert same(found, expected)
    assert lines.lines == whole.lines
    assert (again.best_step, again.best_validation_nats) == (outcome.best_step, outcome.best_validation_nats)
    assert again.tokens == outcome.tokens


def test_a_finished_training_that_is_asked_for_again_takes_no_step(
    checkpoints: Checkpoint, tmp_path: Path
) -> None:
    lines = Lines()
    expected, _ = train(checkpoints["gpt2"], Adapter(), lines, tmp_path)
    before = list(lines.lines)
    found, outcome = train(checkpoints["gpt2"], Adapter(), lines, tmp_path)
    assert same(found, expected)
    assert lines.lines == before
    assert outcome.stopped_by == "done"


@pytest.mark.parametrize("damage", ["truncated", "emptied", "bit", "removed"])
@pytest.mark.parametrize(
    "name", ["manifest.json", "state.json", "weights.safetensors", "optimizers.safetensors"]
)
def test_a_damaged_checkpoint_is_passed_over_with_its_reason_for_the_one_before(
    checkpoints: Checkpoint, tmp_path: Path, name: str, damage: str
) -> None:
    whole = Lines()
    expected, _ = train(checkpoints["gpt2"], Adapter(), whole, None)
    lines = Lines(kill_at=6)
    with pytest.raises(Stopped):
        train(checkpoints["gpt2"], Adapter(), lines, tmp_path)
    path = tmp_path / "step-00000005" / name
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "bit":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    lines.kill_at = None
    said: list[str] = []
    found, _ = train(checkpoints["gpt2"], Adapter(), lines, tmp_path, said)
    assert said and said[0].startswith("step-00000005 is skipped: ")
    assert same(found, expected)
    assert lines.lines == whole.lines


def test_lines_of_metrics_that_were_lost_come_back_with_the_checkpoint(
    checkpoints: Checkpoint, tmp_path: Path
) -> None:
    metrics, lines = tmp_path / "metrics.jsonl", []
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    kept = Checkpoints(tmp_path / "checkpoints", {"recipe": "1"}, metrics=metrics)

    def record(line: dict[str, object]) -> None:
        if line["step"] == 6:
            raise Stopped
        lines.append(json.dumps(line) + "\n")
        metrics.write_text("".join(lines))

    with pytest.raises(Stopped):
        ready.train(PLAN, best_by_loss(ready), Journal(record, checkpoints=kept))
    metrics.write_text(lines[0] + '{"step": 99')
    kept.restore(learned(bench(checkpoints["gpt2"], texts_of_unequal_length())))
    assert metrics.read_text() == "".join(lines)


def test_a_valid_checkpoint_is_not_written_again(checkpoints: Checkpoint, tmp_path: Path) -> None:
    # a process that is killed while it replaces a folder leaves neither the old one nor the new one
    ready, kept = (
        bench(checkpoints["gpt2"], texts_of_unequal_length()),
        Checkpoints(tmp_path, {"recipe": "1"}),
    )
    now = TrainingState(step=3, tokens=7)
    kept.save(now, learned(ready))
    before = (tmp_path / "step-00000003").stat().st_ino
    kept.save(now, learned(ready))
    assert (tmp_path / "step-00000003").stat().st_ino == before
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    kept.save(now, learned(ready))
    assert kept.newest_step() == 3


def test_a_checkpoint_of_another_recipe_is_not_used(checkpoints: Checkpoint, tmp_path: Path) -> None:
    lines = Lines(kill_at=6)
    with pytest.raises(Stopped):
        train(checkpoints["gpt2"], Adapter(), lines, tmp_path)
    said: list[str] = []
    other = Checkpoints(tmp_path, {"recipe": "2"}, said.append)
    assert other.newest_step() == 0
    assert Checkpoints(tmp_path, {"recipe": "1"}).newest_step() == 5


def test_two_checkpoints_are_kept_and_no_pickle(checkpoints: Checkpoint, tmp_path: Path) -> None:
    train(checkpoints["gpt2"], Adapter(), Lines(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000007", "step-00000008"]
    files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {".safetensors", ".json"}


def test_a_full_disk_costs_a_line_and_not_the_training(
    checkpoints: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SPARE_BYTES", 1e18)  # more than any disk has
    said: list[str] = []
    _, outcome = train(checkpoints["gpt2"], Adapter(), Lines(), tmp_path, said)
    assert outcome.stopped_by == "done"
    assert said[0].startswith("no checkpoint at step 1: 0 MB needed, ")
    assert not list(tmp_path.glob("step-*"))


@pytest.fixture
def signals_at() -> Iterator[Callable[[int, int], Callable[[dict[str, object]], None]]]:
    def at(step: int, signum: int) -> Callable[[dict[str, object]], None]:
        def record(line: dict[str, object]) -> None:
            if line["step"] == step:
                os.kill(os.getpid(), signum)

        return record

    yield at


@pytest.mark.parametrize(
    ("signum", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_ends_training_with_a_checkpoint_from_which_it_goes_on_bitwise(
    checkpoints: Checkpoint,
    tmp_path: Path,
    signum: int,
    reason: str,
    signals_at: Callable[[int, int], Callable[[dict[str, object]], None]],
) -> None:
    expected, _ = train(checkpoints["gpt2"], Adapter(), Lines(), None)
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    kept = Checkpoints(tmp_path, {"recipe": "1"})
    outcome = ready.train(PLAN, best_by_loss(ready), Journal(signals_at(3, signum), checkpoints=kept))
    assert (outcome.stopped_by, outcome.steps) == (reason, 3)
    found, _ = train(checkpoints["gpt2"], Adapter(), Lines(), tmp_path)
    assert same(found, expected)


@pytest.mark.parametrize(
    ("signum", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_second_signal_ends_at_once_and_loses_no_valid_checkpoint(
    checkpoints: Checkpoint, tmp_path: Path, signum: int, raised: type[BaseException]
) -> None:
    expected, _ = train(checkpoints["gpt2"], Adapter(), Lines(), None)
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    kept = Checkpoints(tmp_path, {"recipe": "1"})

    def twice(line: dict[str, object]) -> None:
        if line["step"] == 3:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)

    with pytest.raises(raised):
        ready.train(PLAN, best_by_loss(ready), Journal(twice, checkpoints=kept))
    assert kept.newest_step() == 2
    found, _ = train(checkpoints["gpt2"], Adapter(), Lines(), tmp_path)
    assert same(found, expected)


def poisoned(ready: Bench, monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The loss of these steps is NaN."""
    exact = Accumulation.gradients
    seeds = {step_seed(PLAN.seed, step, 0) for step in steps}

    def gradients(self: Accumulation, batch: Any, count: int, seed: int, is_stopped: Any) -> float | None:
        nats = exact(self, batch, count, seed, is_stopped)
        return float("nan") if seed in seeds else nats

    monkeypatch.setattr(Accumulation, "gradients", gradients)


def test_a_step_without_a_finite_loss_is_skipped_and_counted(
    checkpoints: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    poisoned(ready, monkeypatch, {3, 4, 6})
    lines = Lines()
    outcome = ready.train(PLAN, best_by_loss(ready), Journal(lines.record))
    assert (outcome.stopped_by, outcome.skipped_steps) == ("done", 3)
    assert [line["step"] for line in lines.lines if line.get("skipped")] == [3, 4, 6]
    assert all(torch.isfinite(weight).all() for weight in ready.adapter.values())
    json.dumps(lines.lines, allow_nan=False)


def test_three_such_steps_in_a_row_stop_the_training_and_name_the_documents(
    checkpoints: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    poisoned(ready, monkeypatch, {4, 5, 6})
    kept = Checkpoints(tmp_path, {"recipe": "1"})
    with pytest.raises(NumbersGoneWrong) as caught:
        ready.train(PLAN, best_by_loss(ready), Journal(checkpoints=kept))
    assert caught.value.exit_code == 5
    assert "training steps 4 to 6" in str(caught.value)
    assert ".txt#0" in str(caught.value)
    assert kept.newest_step() == 5
