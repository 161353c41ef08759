"""What transfer bought, and what an adapter costs against full fine-tuning: ft ladder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ft_toolkit.arguments import AsJson, Device, Overrides, RecipeName, Runs
from ft_toolkit.errors import FtError, one_line_errors, told_when_stopped
from ft_toolkit.progress import Screen

if TYPE_CHECKING:
    from ft_toolkit.judging.protocols import Protocol
    from ft_toolkit.judging.rungs import Ladder, Rung
    from ft_toolkit.judging.statistics import Difference
    from ft_toolkit.judging.token_scores import DocumentScores
    from ft_toolkit.judging.totals import Totals
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.run import Run
    from ft_toolkit.sections import Recipe


@one_line_errors()
def main(
    recipe: RecipeName,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare a recipe's adapter with word counts, training from scratch and full fine-tuning."""
    from ft_toolkit import preflight
    from ft_toolkit.recipe import read_recipe

    asked = read_recipe(recipe, overrides or []).recipe
    _check(asked)
    preflight.check(asked, runs)
    screen = Screen(quiet=as_json)
    with told_when_stopped("before training; the same command goes on"):
        found = ladder(asked, runs, device, screen)
    from ft_toolkit.judging.rungs import show

    if as_json:
        json.dump(found.as_dict(), sys.stdout, indent=2)
        print()
    show(found, screen)


def ladder(recipe: Recipe, runs_folder: Path, device: str = "auto", screen: Screen | None = None) -> Ladder:
    """Train what is not there yet: the recipe, and two runs on the same tokens from scratch and in full.

    The recipe's own run is that of ft finetune. All read the base's tokens, so that their perplexities may be
    compared.

    raises   FtError for a recipe without an adapter, or with a training.budget
    """
    from ft_toolkit.models.checkpoints import load_base

    _check(recipe)
    screen = screen or Screen()
    own = _run(recipe, runs_folder, device, screen)
    steps = own.facts["training"]["planned_steps"]
    runs = [
        _run(_beside(recipe, "scratch", steps), runs_folder, device, screen),
        own,
        _run(_beside(recipe, "full", steps), runs_folder, device, screen),
    ]
    base = load_base(recipe.base)
    return _ladder(recipe, runs, base, screen)


def _check(recipe: Recipe) -> None:
    """raises   FtError for a recipe that has no ladder"""
    from ft_toolkit.recipe_values import NAME_LETTERS

    if recipe.adapter.is_whole_model:
        fix = "Say --set adapter.method=lora."
        raise FtError("adapter.method", "an adapter, beside scratch and full", recipe.adapter.method, fix)
    if recipe.training.budget is not None:
        wanted = "none, since all methods read the same tokens"
        raise FtError("training.budget", wanted, recipe.training.budget, "Say --set training.budget=null.")
    letters = NAME_LETTERS - len("-ladder-scratch")
    if len(recipe.name) > letters:
        found = f"{len(recipe.name)} letters"
        raise FtError("name", f"at most {letters} letters", found, "Say --set name=NAME.")


def _beside(recipe: Recipe, method: str, steps: int) -> Recipe:
    """The same base and training tokens for another method, at its own automatic learning rate."""
    from ft_toolkit.sections import Recipe

    values = recipe.model_dump() | {"name": f"{recipe.name}-ladder-{method}", "adapter": {"method": method}}
    values["training"] |= {"steps": steps, "learning_rate": "auto"}
    if method == "scratch":  # which has nothing to forget
        values["training"]["replay"] = "auto"
    return Recipe.model_validate(values)


def _run(recipe: Recipe, runs_folder: Path, device: str, screen: Screen) -> Run:
    """The finished run of a recipe: as it is there, or trained and judged now."""
    from ft_toolkit.finetune import finetune
    from ft_toolkit.reuse import current_run
    from ft_toolkit.session import Options

    run = current_run(recipe, runs_folder)
    if run is not None:
        screen.say(f"{run.folder}: as it was; it serves again")
        return run
    return finetune(recipe, runs_folder, Options(device=device, reuse=True), screen)


def _ladder(recipe: Recipe, runs: list[Run], base: LanguageModel, screen: Screen) -> Ladder:
    """The rungs of three judged runs, with the base and a unigram model of the training text."""
    from ft_toolkit.inputs import base_bytes
    from ft_toolkit.judging.run_scores import read
    from ft_toolkit.judging.rungs import Ladder, Rung, paired

    scores = [read(run) for run in runs]
    held_out = [next(each for each in one.corpora if each.kind == "held-out") for one in scores]
    order = [document.id for document in held_out[1].documents]
    for run, corpus in zip(runs, held_out, strict=True):
        if [document.id for document in corpus.documents] != order:
            raise FtError(run.folder, "the same held-out documents in all runs", "others", "Train again.")
    documents, groups = held_out[1].documents, [document.group for document in held_out[1].documents]
    protocol = scores[1].subject.protocol
    of_base = held_out[1].base
    unigram = unigram_totals(runs[1], base, protocol, documents, screen)
    trained = [
        _rung(run, corpus.adapter, base, paired(of_base, corpus.adapter, groups))
        for run, corpus in zip(runs, held_out, strict=True)
    ]
    rungs = [
        Rung("base", of_base, bytes=base_bytes(recipe.base)),
        Rung("unigram", unigram, paired(of_base, unigram, groups)),
        *trained,
    ]
    return Ladder(recipe.name, protocol, rungs, groups)


def unigram_totals(
    run: Run, base: LanguageModel, protocol: Protocol, documents: list[DocumentScores], screen: Screen
) -> list[Totals]:
    """Each held-out document under the training text's word frequencies, at the positions that are scored.

    documents   those of the run's verdict
    """
    import math

    import numpy as np

    from ft_toolkit.judging.frequency import training_counts, unigram_nats
    from ft_toolkit.judging.protocols import prepare
    from ft_toolkit.judging.totals import token_totals
    from ft_toolkit.judging.unseen import recovered

    parts = recovered(run, screen)
    counts = training_counts(base, parts.train, math.inf)
    assert counts is not None  # a part of at least eight documents
    encoded = prepare(parts.clean_test, base.tokenizer, protocol)
    found = []
    for document, read in zip(documents, encoded, strict=True):
        nats = np.where(np.isnan(document.base.nats), np.nan, unigram_nats(counts, read.ids))
        found.append(token_totals(nats, document.bytes, document.words))
    return found


def _rung(run: Run, totals: list[Totals], base: LanguageModel, against_base: Difference) -> Rung:
    from ft_toolkit.inputs import weights_bytes
    from ft_toolkit.judging.rungs import Rung
    from ft_toolkit.judging.statistics import Estimate

    method, folder = run.recipe.adapter.method, run.trained_folder
    drift = run.comparison["drift"]
    if run.recipe.adapter.is_whole_model:
        parameters = sum(parameter.numel() for parameter in base.model.parameters())
    else:
        parameters = _saved_parameters(folder) // (2 if method == "pissa" else 1)  # saved at twice the rank
    return Rung(
        method,
        totals,
        against_base,
        Estimate(**drift["kl_nats"]) if drift else None,
        parameters,
        weights_bytes(folder),
        str(run.folder),
        run.facts["training"],
    )


def _saved_parameters(folder: Path) -> int:
    import math

    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
