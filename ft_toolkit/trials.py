"""The trials of a search: what each one trains, and the runs that they are."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ft_toolkit import auto
from ft_toolkit.artefacts import read_json, with_checksum, written_whole
from ft_toolkit.auto import Measure
from ft_toolkit.errors import NumbersGoneWrong
from ft_toolkit.finetune import finetune
from ft_toolkit.inputs import asked_for, dataset_inputs, weights_inputs
from ft_toolkit.material import gathered
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_torch
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.stages import changed_keys
from ft_toolkit.text.splitting import document_rows, hash_rows
from ft_toolkit.training.accelerator import make_accelerator

RATE_FACTORS = (1.0, 3.0, 1 / 3)  # the first of each row is the recipe's own
RANK_FACTORS = (1.0, 4.0, 1 / 4)
MORE_REPLAY = 0.05


@dataclass(frozen=True)
class Settings:
    """What one trial changes of the recipe; rank is None for a method that has none."""

    rate_factor: float  # times the recipe's rate; a training of other length has another one: docs/auto.md
    rank: int | None
    targets: str | list[str]
    replay: float


@dataclass(frozen=True)
class Ground:
    """What all trials start from: the recipe, the same with every auto filled in, and what decided them."""

    recipe: Recipe
    filled: Recipe
    measure: Measure
    folder: Path  # of the trials' runs
    device: str
    metric: str = "perplexity"  # or pseudo-perplexity
    has_both_parts: bool = True  # attention and feed-forward matrices, each known as such

    def settings(self) -> list[Settings]:
        """Every combination, those that change least of the recipe first."""
        adapter = self.filled.adapter
        ranks: list[int | None] = [None]
        targets: list[str | list[str]] = [self.recipe.adapter.targets]
        if adapter.has_rank:
            most = max(adapter.known_rank, self.measure.width // 4)
            wanted = (max(1, round(adapter.known_rank * factor)) for factor in RANK_FACTORS)
            ranks = [rank for rank in dict.fromkeys(wanted) if rank <= most]
            if self.has_both_parts:
                targets.append("attention" if targets[0] in ("auto", "all-linear") else "all-linear")
        # never less replay than auto's: it protects what the validation part does not show
        replays = [self.filled.training.replay_share]
        if self.recipe.training.replay == "auto" and adapter.method != "scratch":
            replays.append(replays[0] + MORE_REPLAY)
        axes: list[Sequence[Any]] = [replays, targets, ranks, RATE_FACTORS]
        every = [Settings(rate, rank, where, share) for share, where, rank, rate in product(*axes)]
        first = every[0]
        return sorted(every, key=lambda one: sum(vars(one)[key] != vars(first)[key] for key in vars(one)))

    def recipe_of(self, settings: Settings, steps: int) -> Recipe:
        """The recipe with these settings, every number written out."""
        own, changes = self.filled.adapter, dict[str, Any]()
        if settings.rank is not None:
            alpha = max(1, round(own.known_alpha * settings.rank / own.known_rank))  # the same alpha / rank
            changes = {"rank": settings.rank, "alpha": alpha, "targets": settings.targets}
        adapter = own.model_copy(update=changes)
        by_length = self._automatic_rate(adapter, steps) / self._automatic_rate(own, self.measure.steps)
        factor, own_rate = settings.rate_factor * by_length, self.filled.training.peak
        rate = own_rate if factor == 1 else min(1.0, float(f"{factor * own_rate:.2g}"))
        training = {"learning_rate": rate, "replay": settings.replay, "steps": steps}
        values = self.recipe.model_dump()
        values["adapter"] |= changes
        values["training"] |= training
        ranks = "" if settings.rank is None else f"-rank{settings.rank}-{_targets_words(settings.targets)}"
        share = f"-replay{100 * settings.replay:g}" if settings.replay else ""
        values["name"] = f"lr{rate:g}{ranks}{share}-{steps}steps"
        return Recipe.model_validate(values)

    def _automatic_rate(self, adapter: Adapter, steps: int) -> float:
        return auto.learning_rate(adapter, self.measure.width, steps, self.measure.objective)


def read_ground(recipe: Recipe, runs_folder: Path, device: str, screen: Screen) -> Ground:
    """Read everything once, to know how long the training is and what auto stands for."""
    prepare_torch()
    accelerator = make_accelerator(device)
    training = recipe.training.model_copy(update={"replay": 0.0})  # rows that only a training needs
    it = gathered(recipe.model_copy(update={"training": training}), accelerator.device)
    placed = hash_rows(document_rows(it.parts), "sha256", "split")
    machine = {"device": accelerator.device.type, "precision": accelerator.mixed_precision}
    made_from = weights_inputs(recipe, machine, {}) | dataset_inputs(recipe, placed)
    folder = _folder(runs_folder, recipe.name, made_from, screen)
    family = it.pair.base.family
    metric = "perplexity" if family.objective == "causal" else "pseudo-perplexity"
    has_both_parts = bool(family.attention and family.feed_forward)
    replay = auto.fill(recipe, it.measure).training.replay
    training = it.recipe.training.model_copy(update={"replay": replay})
    filled = it.recipe.model_copy(update={"training": training})
    return Ground(recipe, filled, it.measure, folder, device, metric, has_both_parts)


def _folder(runs_folder: Path, name: str, made_from: Mapping[str, Any], screen: Screen) -> Path:
    """NAME-tune, where the trials there are of the same inputs; else NAME-tune-2 and so on, like runs."""
    number = 1
    while True:
        folder = runs_folder / (f"{name}-tune" if number == 1 else f"{name}-tune-{number}")
        facts = folder / "tune.json"
        if facts.is_file():
            changed = changed_keys(read_json(facts, {"made_from": dict})["made_from"], made_from)
            if not changed:
                return folder
            screen.say(f"{folder} has trials from before {', '.join(changed)} changed; they are not used")
        elif not (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            with written_whole(facts) as unfinished:
                values = with_checksum({"made_from": dict(made_from)})
                unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            return folder
        number += 1


def run_of(recipe: Recipe, ground: Ground) -> Run:
    """The run of a trial: read where it ended before, else trained, from its checkpoint where there is one.

    It is scored as it was trained: the strength to save at is chosen once, for the recipe that is written.
    A training whose numbers went wrong is kept with its reason.
    """
    as_trained = recipe.adapter.model_copy(update={"strength": 1.0})
    recipe = recipe.model_copy(update={"adapter": as_trained})
    run = Run(ground.folder / recipe.name)
    if run.facts.get("asked") == asked_for(recipe, judge=False) and (run.is_ended or "failed" in run.facts):
        return run
    options, started = Options(device=ground.device, judge=False, gate=False), time.monotonic()
    try:
        run = finetune(recipe, ground.folder, options, Screen(quiet=True))
    except NumbersGoneWrong as error:
        if not run.facts:  # before its folder was made: the base itself is at fault
            raise
        run.record(failed=str(error), wall_seconds=round(time.monotonic() - started, 1))
    if recipe.adapter.is_whole_model:  # of every trial they would fill the disk
        shutil.rmtree(run.trained_folder, ignore_errors=True)
    return run


def row_of(run: Run, settings: Settings, metric: str) -> dict[str, Any]:
    """A trial as trials.jsonl keeps it."""
    recipe, trained = run.recipe, run.facts.get("training", {})
    base, nats = trained.get("base_validation_nats"), trained.get("best_validation_nats")
    failed = run.facts.get("failed", None if nats is not None else "no validation")
    training_seconds = trained.get("seconds", 0.0)
    return {
        "run": run.folder.name,
        "learning_rate": recipe.training.learning_rate,
        "rank": settings.rank,
        "targets": None if settings.rank is None else _targets_words(settings.targets),
        "replay": recipe.training.replay,
        "steps": recipe.training.steps,
        "metric": metric,
        "base_validation_nats": base,
        "validation_nats": None if failed else nats,
        "best_step": trained.get("best_step"),
        "seconds": max(run.facts["wall_seconds"], training_seconds),
        "training_seconds": training_seconds,
        "failed": failed,
    }


def _targets_words(targets: str | list[str]) -> str:
    if isinstance(targets, list):
        return "listed"
    return "all-linear" if targets == "auto" else targets


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
