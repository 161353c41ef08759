"""A finished run that nothing has changed under: its verdict is shown again, without torch."""

from __future__ import annotations

from pathlib import Path

from ft_toolkit.compare import compare_from
from ft_toolkit.inputs import asked_for, comparison_inputs, dataset_inputs, weights_inputs
from ft_toolkit.judging.showing import show
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.stages import Stages, artefact, latest_ended
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import hash_documents
from ft_toolkit.text.splitting import document_rows, hash_rows, read_parts


def is_shown(recipe: Recipe, runs_folder: Path, *, judge: bool = True) -> bool:
    """Show the verdict of the newest run of this name, if all that it was made from is as it was.

    returns   False where something has to be made; finetune then says which and why
    """
    run = current_run(recipe, runs_folder, judge=judge)
    if run is None:
        return False
    screen = Screen()
    screen.say(f"{run.folder}: recipe, corpus, base and versions are as they were; nothing is made again")
    show_again(run, screen)
    return True


def current_run(recipe: Recipe, runs_folder: Path, *, judge: bool = True) -> Run | None:
    """The newest run of this name, if it is finished and all that it was made from is as it was."""
    run = latest_ended(runs_folder, recipe.name)
    if run is None or run.facts.get("asked") != asked_for(recipe, judge=judge) or not run.is_finished:
        return None
    stages, kept = Stages(run), artefact(run, "weights")
    _, parts = read_parts(*recipe.corpora, keep_text=recipe.judging.keep_text)
    placed = hash_rows(document_rows(parts), "sha256", "split")
    machine = {key: kept.made_from[key] for key in ("device", "precision")} if kept else {}
    general = recipe.judging.general
    texts = hash_documents(read_source(general).documents if general else [])
    above = stages.made_of("dataset", "weights")
    is_current = (
        stages.is_current("dataset", dataset_inputs(recipe, placed))
        and stages.is_current("weights", weights_inputs(recipe, machine, stages.made_of("dataset")))
        and (artefact(run, "integrity") is None or stages.is_current("integrity", stages.made_of("weights")))
        and stages.is_current("comparison", comparison_inputs(recipe, texts, above))
    )
    return run if is_current else None


def show_again(run: Run, screen: Screen) -> None:
    """The verdict of a judged run, from the scores that it kept."""
    show(compare_from(run), run.trained_folder, screen)
