"""The state of a training between two steps, and its checkpoints on disk.

A checkpoint is a folder of safetensors and JSON, without pickles, so that loading it runs no code. Its
manifest is written last and lists every file with its hash; a checkpoint without a valid manifest is skipped,
with the reason, for the one before it. No random generator's state is saved, because none outlives a step:
order and masks are drawn from (seed, epoch), and dropout is seeded at each step from (seed, step).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ft_toolkit.artefacts import damaged_files, folder_sha256s, folder_written_whole, written_whole
from ft_toolkit.errors import is_disk_full

SCHEMA = 1
KEPT = 2  # the newest, and one to fall back on
METRICS = "metrics.jsonl"  # of the steps up to a checkpoint, in its folder
SPARE_BYTES = 64e6  # left free for the rest of the run
_FAULTS = (OSError, ValueError, KeyError, TypeError, SafetensorError)


@dataclass
class TrainingState:
    """The state of a training apart from weights and optimizers; figures in nats are per token."""

    step: int = 0  # optimizer steps done; the cursor too, since a step's rows follow from its number
    tokens: int = 0  # read so far, all epochs
    seconds: float = 0.0  # of training so far, over every process that took part in it
    seconds_before_steps: float = (
        0.0  # of those, what the first validation took: no share of a budget's warm-up
    )
    base_nats: float | None = None  # of the validation part, before the first step
    best_nats: float = math.inf
    best_step: int = 0
    without_gain: int = 0  # validations since the best one
    skipped_steps: int = 0  # steps whose loss or gradient was no finite number
    skipped_in_a_row: int = 0
    first_nats: float | None = None  # the first step's loss, which is still the base's
    steps_above_base: int = 0  # in a row (restart.py)
    restarted_at: int | None = None  # the step at which a first start was given up
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of best_step; empty before the first

    def figures(self) -> dict[str, Any]:
        """Everything but the weights, as JSON can hold it."""
        plain = {name: value for name, value in self.__dict__.items() if name != "best"}
        return plain | {"best_nats": None if math.isinf(self.best_nats) else self.best_nats}


@dataclass(frozen=True)
class Learned:
    """What a step changes: the trained parameters by name, and their optimizers."""

    parameters: Mapping[str, nn.Parameter]
    optimizers: Sequence[Optimizer]


class Checkpoints:
    """The checkpoints of one run: `folder`/step-00000040 and so on."""

    def __init__(
        self,
        folder: Path,
        made_from: Mapping[str, Any],
        say: Callable[[str], object] = lambda words: None,
        metrics: Path | None = None,
    ) -> None:
        """made_from   everything the training depends on; a checkpoint made from anything else is skipped
        metrics     the file with a line a step: kept with each checkpoint, and put back with it
        """
        self.folder = folder
        self.made_from = json.loads(json.dumps(made_from))  # as a manifest gives it back
        self.say, self.metrics = say, metrics

    def save(self, state: TrainingState, learned: Learned) -> None:
        """Write a checkpoint, remove all but the newest KEPT. A full disk is reported; training goes on.

        A valid one of this step is left as it is: a process killed while it replaces it would lose both.
        """
        folder = self.folder / f"step-{state.step:08d}"
        if self._is_valid(folder):
            return
        files = {
            "weights": {name: p.detach() for name, p in learned.parameters.items()},
            "best": state.best,
            "optimizers": dict(_optimizer_tensors(learned.optimizers)),
        }
        size = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size + SPARE_BYTES:
            self.say(
                f"no checkpoint at step {state.step}: {size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
            )
            return
        try:
            with folder_written_whole(folder) as unfinished:
                for name, tensors in files.items():
                    # safetensors refuses tensors that share memory, as tied weights do
                    save_file(
                        {k: t.cpu().clone() for k, t in tensors.items()}, unfinished / f"{name}.safetensors"
                    )
                _write_json(unfinished / "state.json", state.figures())
                if self.metrics is not None and self.metrics.is_file():
                    shutil.copyfile(self.metrics, unfinished / METRICS)
                manifest = {
                    "schema": SCHEMA,
                    "made_from": self.made_from,
                    "files": folder_sha256s(unfinished, unfinished),
                }
                _write_json(
                    unfinished / "manifest.json", manifest
                )  # last: a checkpoint without it is incomplete
        except (OSError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
            self.say(f"no checkpoint at step {state.step}: the disk is full")
            return
        for old in self._newest_first()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, learned: Learned) -> TrainingState | None:
        """Load the newest valid checkpoint into parameters and optimizers; None where there is none.

        Skipped checkpoints are reported with their reason.
        """
        for folder in self._newest_first():
            try:
                state, weights, moments = self._read(folder, learned)
            except _FAULTS as error:
                self.say(f"{folder.name} is skipped: {error}")
                continue
            with torch.no_grad():
                for name, parameter in learned.parameters.items():
                    parameter.copy_(weights[name])
            for optimizer, moved in zip(learned.optimizers, moments, strict=True):
                optimizer.load_state_dict(
                    {"state": moved, "param_groups": optimizer.state_dict()["param_groups"]}
                )
            if self.metrics is not None and (folder / METRICS).is_file():
                with written_whole(self.metrics) as unfinished:
                    shutil.copyfile(folder / METRICS, unfinished)
            return state
        return None

    def newest_step(self) -> int:
        """Of the newest valid checkpoint; 0 where there is none."""
        valid = (folder for folder in self._newest_first() if self._is_valid(folder))
        return int(next(valid, Path("step-0")).name.removeprefix("step-"))

    def remove(self) -> None:
        """Remove all checkpoints, once the weights are saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True) if self.folder.is_dir() else []

    def _is_valid(self, folder: Path) -> bool:
        try:
            self._manifest(folder)
        except _FAULTS:
            return False
        return True

    def _manifest(self, folder: Path) -> None:
        """raises   ValueError with the reason why this checkpoint cannot be used"""
        if not (folder / "manifest.json").is_file():
            raise ValueError("it has no manifest")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']}, not {SCHEMA}")
        changed = [k for k, digest in self.made_from.items() if manifest["made_from"].get(k) != digest]
        if changed:
            raise ValueError(f"it was made with another {', '.join(changed)}")
        if damaged := damaged_files(folder, manifest["files"]):
            raise ValueError(f"{', '.join(damaged)}: damaged or missing")

    def _read(
        self, folder: Path, learned: Learned
    ) -> tuple[TrainingState, dict[str, Tensor], list[dict[int, dict[str, Tensor]]]]:
        self._manifest(folder)
        weights = load_file(folder / "weights.safetensors")
        if weights.keys() != learned.parameters.keys():
            raise ValueError("its weights have other names")
        figures = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        best_nats = math.inf if figures["best_nats"] is None else figures.pop("best_nats")
        figures.pop("best_nats", None)
        devices = {name: p.device for name, p in learned.parameters.items()}
        best = {k: t.to(devices[k]) for k, t in load_file(folder / "best.safetensors").items()}
        moments: list[dict[int, dict[str, Tensor]]] = [{} for _ in learned.optimizers]
        for key, tensor in load_file(folder / "optimizers.safetensors").items():
            optimizer, parameter, name = key.split("/")
            moments[int(optimizer)].setdefault(int(parameter), {})[name] = tensor
        return TrainingState(**figures, best_nats=best_nats, best=best), weights, moments


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """(optimizer/parameter/moment, tensor): AdamW keeps two moments and a step, Muon one buffer."""
    for number, optimizer in enumerate(optimizers):
        for parameter, moments in optimizer.state_dict()["state"].items():
            for name, tensor in moments.items():
                yield f"{number}/{parameter}/{name}", torch.as_tensor(tensor)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
