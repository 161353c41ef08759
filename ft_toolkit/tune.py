"""Search a recipe's settings within a time, on the validation part alone: ft tune."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ft_toolkit.arguments import Device, Overrides, RecipeName, Runs
from ft_toolkit.errors import FtError, NumbersGoneWrong, Terminated, one_line_errors, told_when_stopped
from ft_toolkit.halving import Tried, best, halve, ranked
from ft_toolkit.progress import Screen

if TYPE_CHECKING:
    from rich.table import Table

    from ft_toolkit.sections import Recipe
    from ft_toolkit.trials import Ground, Settings

WRITTEN_BY = "# Written by ft tune"


@dataclass(frozen=True)
class Asked:
    """A search as it was asked for.

    recipe      a file, or a name of the gallery
    budget      as it was written: 30m
    to          the recipe file that will be written
    """

    recipe: str
    overrides: tuple[str, ...]
    budget: str
    to: Path | None = None

    @property
    def command(self) -> str:
        sets = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["ft", "tune", self.recipe, *sets, "--budget", self.budget])


@one_line_errors()
def main(
    recipe: RecipeName,
    budget: Annotated[str, typer.Option(help="The time for all trials: 90s, 30m, 2h.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    to: Annotated[Path | None, typer.Option(help="The recipe to write; NAME-tuned.yaml by default.")] = None,
    device: Device = "auto",
) -> None:
    """Search rate, rank, targets, replay and epochs on the validation part, and write the best recipe."""
    with told_when_stopped("before the first trial; the same command begins again"):
        tune(Asked(recipe, tuple(overrides or ()), budget, to), runs, device)


def tune(asked: Asked, runs_folder: Path, device: str = "auto", screen: Screen | None = None) -> Path:
    """Try settings within the budget, and write a recipe with the best ones; no trial sees the test part.

    returns  the recipe file
    raises   FtError for a budget in which two trials do not fit; KeyboardInterrupt or Terminated after a
             signal. The trials so far are kept, and the same call goes on with them.
    """
    from ft_toolkit import preflight
    from ft_toolkit.recipe import read_recipe

    screen = screen or Screen()
    recipe = read_recipe(asked.recipe, asked.overrides).recipe
    seconds = _seconds(asked.budget)
    to = _place(asked, recipe)
    preflight.check(recipe, runs_folder)
    from ft_toolkit.trials import read_ground, row_of, run_of, write_lines  # torch comes with them

    ground = read_ground(recipe, runs_folder, device, screen)
    candidates = ground.settings()
    kept: list[dict[str, Any]] = []
    screen.say(
        f"{recipe.name}: up to {len(candidates)} settings in {asked.budget}; trials in {ground.folder}"
    )
    with _told_where(ground.folder, kept), screen.stage("tuning", round(seconds)) as advance:

        def try_one(settings: Settings, steps: int) -> Tried[Settings]:
            row = row_of(run_of(ground.recipe_of(settings, steps), ground), settings, ground.metric)
            kept.append(row)
            write_lines(ground.folder / "trials.jsonl", kept)
            screen.say(f"trial {len(kept)}: {_words(row)}")
            advance(round(row["seconds"]))
            nats = row["validation_nats"]
            found = float("inf") if nats is None else nats
            return Tried(settings, steps, found, row["seconds"], row["training_seconds"])

        tried = halve(candidates, ground.measure.steps, seconds, try_one)
    if len(tried) == 1:
        wanted = f"time for two trials of about {tried[0].seconds:.0f} s"
        fix = f"Say --budget {max(1, round(3 * tried[0].seconds / 60))}m or more; the first trial is kept."
        raise FtError(f"--budget {asked.budget}", wanted, "time for one", fix)
    chosen = best(tried, ground.measure.steps)
    if chosen is None:
        fix = "Lower training.learning_rate."
        raise NumbersGoneWrong(ground.folder, "a trial with finite figures", f"{len(tried)} without", fix)
    reasons = list(_reasons(tried, kept, chosen, ground))
    _write_recipe(to, asked, ground.recipe_of(chosen.settings, _steps(tried, chosen, ground)), reasons)
    screen.result(_table(tried, kept, chosen))
    for reason in reasons:
        screen.result(reason)
    screen.result(f"written: {to}; next: ft finetune {shlex.quote(str(to))}")
    return to


def _seconds(budget: str) -> float:
    """raises   FtError for a time without a unit, or none at all"""
    from ft_toolkit.recipe_values import duration_seconds

    try:
        seconds = duration_seconds(budget)
    except ValueError as error:
        raise FtError("--budget", str(error), budget, "Write --budget 30m.") from None
    if not (isinstance(seconds, float) and seconds > 0):
        raise FtError("--budget", "a time above zero", budget, "Write --budget 30m.")
    return seconds


def _place(asked: Asked, recipe: Recipe) -> Path:
    """Where the recipe will be written: known and free before hours of trials.

    raises   FtError for a file that ft tune did not write, or a name that no run can have
    """
    from pydantic import ValidationError

    from ft_toolkit.recipe import read_recipe
    from ft_toolkit.sections import Recipe

    to = asked.to or Path(f"{recipe.name}-tuned.yaml")
    read_recipe(asked.recipe)  # the new recipe extends this file as it stands, without --set
    if not to.parent.is_dir() or to.is_dir():
        raise FtError(f"--to {to}", "a file in a folder that exists", "another place", "Choose another file.")
    if to.exists() and not to.read_text(encoding="utf-8", errors="replace").startswith(WRITTEN_BY):
        wanted = "a new file, or one that ft tune wrote"
        raise FtError(f"--to {to}", wanted, "another file", "Choose another name with --to.")
    try:
        Recipe.model_validate(recipe.model_dump() | {"name": to.stem})
    except ValidationError:
        wanted = "a name of letters, digits, '.', '_' and '-' that a run can have"
        raise FtError(f"--to {to}", wanted, to.stem, "Choose another name.") from None
    return to


@contextmanager
def _told_where(folder: Path, kept: Sequence[object]) -> Iterator[None]:
    """Say after a Ctrl-C or SIGTERM how to go on; a trial's own words would name that trial alone."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        word = "terminated" if isinstance(stop, Terminated) else "interrupted"
        words = f"{word}; the same command goes on (trials kept in {folder}: {len(kept)})"
        raise type(stop)(words) from None


def _steps(tried: Sequence[Tried[Settings]], chosen: Tried[Settings], ground: Ground) -> int:
    """Of the new recipe: those of the best trial; the recipe's own where no trial was as long."""
    return max(chosen.steps, ground.measure.steps) if _is_short(tried, ground) else chosen.steps


def _is_short(tried: Sequence[Tried[Settings]], ground: Ground) -> bool:
    return max(one.steps for one in ranked(tried)) < ground.measure.steps


def _reasons(
    tried: Sequence[Tried[Settings]],
    kept: Sequence[Mapping[str, Any]],
    chosen: Tried[Settings],
    ground: Ground,
) -> Iterator[str]:
    """Why these settings, and how far the figures can be trusted; a sentence or two each."""
    row = kept[tried.index(chosen)]
    yield f"The best of {len(tried)} trials on the validation part: {_words(row)}."
    own = [one for one in ranked(tried) if one.settings == tried[0].settings]
    if chosen.settings == tried[0].settings:
        yield "These are the recipe's own settings."
    elif own:
        steps = min(max(one.steps for one in own), chosen.steps)
        ours, theirs = (
            next(kept[n] for n, one in enumerate(tried) if one.steps == steps and one.settings == settings)
            for settings in (tried[0].settings, chosen.settings)
        )
        these = "" if steps == chosen.steps else f", and these settings {_change(theirs)}"
        yield f"After {steps} steps the recipe's own settings had {_change(ours)}{these}."
    if _is_short(tried, ground):
        yield (
            f"The time ended before a training of the recipe's {ground.measure.steps} steps: its rate "
            "follows from the shorter ones. A longer --budget goes on from here."
        )
    yield (
        f"A figure chosen among {len(tried)} is optimistic. No trial saw the test part: ft finetune judges "
        "the new recipe there once, and shows what was forgotten, which validation text does not."
    )


def _words(row: Mapping[str, Any]) -> str:
    """A trial in a few words."""
    replay = f", replay {100 * row['replay']:g} %" if row["replay"] else ""
    rank = "" if row["rank"] is None else f", rank {row['rank']} on {row['targets']}"
    settings = f"learning rate {row['learning_rate']:g}{rank}{replay}, {row['steps']} steps"
    return f"{settings}: {row['failed'] or _change(row)}"


def _change(row: Mapping[str, Any]) -> str:
    from ft_toolkit.judging.verdict import signed_percent

    base, nats = row["base_validation_nats"], row["validation_nats"]
    return f"{base:.4f} → {nats:.4f} nats a token, {row['metric']} {signed_percent(nats - base)}"


def _table(
    tried: Sequence[Tried[Settings]], kept: Sequence[Mapping[str, Any]], chosen: Tried[Settings]
) -> Table:
    """Every trial, best first; those that failed last."""
    from rich.table import Table

    from ft_toolkit.judging.verdict import signed_percent

    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = (
        "learning rate",
        "rank",
        "targets",
        "replay",
        "steps",
        "validation nats",
        "perplexity",
        "seconds",
    )
    for head in heads:
        table.add_column(head, justify="left" if head == "targets" else "right")
    table.add_column("")
    for number in sorted(range(len(tried)), key=lambda n: tried[n].nats):
        one, row = tried[number], kept[number]
        notes = ["the recipe's own"] if one.settings == tried[0].settings else []
        notes += ["chosen"] if one is chosen else []
        figures = ("", "")
        if not one.has_failed:
            change = row["validation_nats"] - row["base_validation_nats"]
            figures = (f"{row['validation_nats']:.4f}", signed_percent(change))
        table.add_row(
            f"{row['learning_rate']:g}",
            "" if row["rank"] is None else str(row["rank"]),
            "" if row["rank"] is None else row["targets"],
            f"{100 * row['replay']:g} %",
            str(row["steps"]),
            *figures,
            f"{row['seconds']:.0f}",
            "numbers gone wrong" if one.has_failed else ", ".join(notes),
        )
    return table


def _write_recipe(to: Path, asked: Asked, tuned: Recipe, reasons: Sequence[str]) -> None:
    """A recipe that extends the one asked for, with what differs from it and the reasons."""
    import yaml

    from ft_toolkit.artefacts import written_whole
    from ft_toolkit.recipe import find_recipe, gallery, read_recipe

    parent = find_recipe(asked.recipe)
    name = os.path.relpath(parent.resolve(), to.parent.resolve())
    if parent in gallery() and not Path(asked.recipe).is_file() and not (to.parent / parent.stem).exists():
        name = parent.stem  # wherever ft_toolkit is installed
    own = read_recipe(asked.recipe).recipe.model_dump()
    values = {"extends": name} | _difference(own, tuned.model_dump() | {"name": own["name"]})
    told = [" ".join(words.split()) for words in (f"{WRITTEN_BY}: {asked.command}", *reasons)]
    lines = [told[0], *(f"# {line}" for words in told[1:] for line in textwrap.wrap(words, 106))]
    comment = "".join(f"{line}\n" for line in lines)
    with written_whole(to) as unfinished:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        unfinished.write_text(comment + text, encoding="utf-8")


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The keys whose values differ, section by section."""
    found: dict[str, Any] = {}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before[key], dict):
            if inner := _difference(before[key], value):
                found[key] = inner
        elif value != before[key]:
            found[key] = value
    return found
