"""What transfer bought, and what an adapter costs against full fine-tuning: ft ladder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ft_toolkit.errors import FtError, one_line_errors, told_when_stopped
from ft_toolkit.progress import Screen

if TYPE_CHECKING:
    from rich.table import Table

    from ft_toolkit.judging.protocols import Protocol
    from ft_toolkit.judging.statistics import Difference, Estimate
    from ft_toolkit.judging.token_scores import DocumentScores
    from ft_toolkit.judging.totals import Totals
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.run import Run
    from ft_toolkit.sections import Recipe

SCHEMA = 1  # of what --json prints


@dataclass(frozen=True)
class Rung:
    """One model on the held-out text; None for what it does not have.

    totals   of each held-out document, in one order for all rungs
    """

    name: str  # base, unigram, or the method
    totals: list[Totals]
    against_base: Difference | None = None
    drift: Estimate | None = None
    trainable_parameters: int = 0
    bytes: int | None = None
    run: str | None = None
    training: dict[str, Any] | None = None  # as run.json has it

    @property
    def whole(self) -> Totals:
        from ft_toolkit.judging.totals import corpus_totals

        return corpus_totals(self.totals)

    def as_dict(self) -> dict[str, Any]:
        trained = self.training or {}
        return {
            "name": self.name,
            "run": self.run,
            "nats_per_token": self.whole.nats_per_token,
            "perplexity": min(self.whole.perplexity, sys.float_info.max),
            "against_base": _as_dict(self.against_base),
            "drift": None if self.drift is None else asdict(self.drift),
            "trainable_parameters": self.trainable_parameters,
            "bytes": self.bytes,
            **{key: trained.get(key) for key in ("seconds", "tokens", "steps", "learning_rate")},
        }


@dataclass(frozen=True)
class Ladder:
    """Base, unigram, scratch, the recipe's adapter and full fine-tuning, on the same held-out tokens."""

    recipe: str
    protocol: Protocol
    rungs: list[Rung]
    groups: list[int]  # of each held-out document: the unit of resampling

    def of(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.name == name)

    @property
    def own(self) -> Rung:
        """The recipe's own method."""
        return self.rungs[3]

    def difference(self, one: Rung, other: Rung) -> Difference:
        """One against the other, paired by document; below zero the first is better."""
        return _paired(other.totals, one.totals, self.groups)

    def as_dict(self) -> dict[str, Any]:
        """What --json prints; every perplexity is on the same tokens."""
        scratch, full = self.of("scratch"), self.of("full")
        return {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "protocol": self.protocol.as_dict(),
            "rungs": [rung.as_dict() for rung in self.rungs],
            "transfer": _as_dict(self.difference(self.own, scratch)),
            "cost_against_full": _as_dict(self.difference(self.own, full)),
            "scratch_against_unigram": _as_dict(self.difference(scratch, self.of("unigram"))),
        }


@one_line_errors()
def main(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name from ft recipes.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="training.epochs=5")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="The folder that holds the run folders.")] = Path(
        "runs"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")] = False,
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
    return _ladder(recipe, runs, base)


def _check(recipe: Recipe) -> None:
    """raises   FtError for a recipe that has no ladder"""
    from ft_toolkit.sections import NAME_LETTERS

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
        values["training"]["replay"] = 0.0
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


def _ladder(recipe: Recipe, runs: list[Run], base: LanguageModel) -> Ladder:
    """The rungs of three judged runs, with the base and a unigram model of the training text."""
    from ft_toolkit.inputs import base_bytes
    from ft_toolkit.judging.run_scores import read

    scores = [read(run) for run in runs]
    held_out = [next(each for each in one.corpora if each.kind == "held-out") for one in scores]
    order = [document.id for document in held_out[1].documents]
    for run, corpus in zip(runs, held_out, strict=True):
        if [document.id for document in corpus.documents] != order:
            raise FtError(run.folder, "the same held-out documents in all runs", "others", "Train again.")
    documents, groups = held_out[1].documents, [document.group for document in held_out[1].documents]
    protocol = scores[1].subject.protocol
    of_base = held_out[1].base
    unigram = _unigram(recipe, base, protocol, documents)
    trained = [
        _rung(run, corpus.adapter, base, _paired(of_base, corpus.adapter, groups))
        for run, corpus in zip(runs, held_out, strict=True)
    ]
    rungs = [
        Rung("base", of_base, bytes=base_bytes(recipe.base)),
        Rung("unigram", unigram, _paired(of_base, unigram, groups)),
        *trained,
    ]
    return Ladder(recipe.name, protocol, rungs, groups)


def _unigram(
    recipe: Recipe, base: LanguageModel, protocol: Protocol, documents: list[DocumentScores]
) -> list[Totals]:
    """Each held-out document under the training text's word frequencies, at the positions that are scored."""
    import math

    import numpy as np

    from ft_toolkit.judging.frequency import training_counts, unigram_nats
    from ft_toolkit.judging.protocols import prepare
    from ft_toolkit.judging.totals import token_totals
    from ft_toolkit.text.corpus import read_corpus
    from ft_toolkit.text.splitting import split

    reading = read_corpus(recipe.corpus)
    parts = split(reading.documents, recipe.corpus.split, reading.copies)
    counts = training_counts(base, parts.train, math.inf)
    assert counts is not None  # a part of at least eight documents
    encoded = prepare(parts.test, base.tokenizer, protocol)
    found = []
    for document, read in zip(documents, encoded, strict=True):
        nats = np.where(np.isnan(document.base.nats), np.nan, unigram_nats(counts, read.ids))
        found.append(token_totals(nats, document.bytes, document.words))
    return found


def _rung(run: Run, totals: list[Totals], base: LanguageModel, against_base: Difference) -> Rung:
    from ft_toolkit.compare import compare_from
    from ft_toolkit.inputs import weights_bytes

    method, folder = run.recipe.adapter.method, run.trained_folder
    drift = compare_from(run).drift
    if run.recipe.adapter.is_whole_model:
        parameters = sum(parameter.numel() for parameter in base.model.parameters())
    else:
        parameters = _saved_parameters(folder) // (2 if method == "pissa" else 1)  # saved at twice the rank
    return Rung(
        method,
        totals,
        against_base,
        drift.kl_nats if drift else None,
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


def _paired(theirs: list[Totals], ours: list[Totals], groups: list[int]) -> Difference:
    """Ours minus theirs over the documents that have a scored token, with its interval."""
    import numpy as np

    from ft_toolkit.judging.statistics import paired_difference

    scored = [each for each in zip(theirs, ours, groups, strict=True) if each[0].tokens]
    return paired_difference(
        np.array([one.nll_nats for one, _, _ in scored]),
        np.array([other.nll_nats for _, other, _ in scored]),
        np.array([one.tokens for one, _, _ in scored]),
        groups=[group for _, _, group in scored],
    )


def _as_dict(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference) | {"percent": difference.percent}


# --- what it looks like -----------------------------------------------------------------------------


def show(found: Ladder, screen: Screen) -> None:
    """The table, and what it says."""
    screen.say("")
    title = f"{found.recipe}: held-out text, {found.protocol.metric} by {found.protocol.words()}"
    screen.result(title, style="bold")
    screen.result(table(found))
    for line in words(found):
        screen.result(line)


def table(found: Ladder) -> Table:
    """A row for each rung."""
    from rich.table import Table

    from ft_toolkit.judging.verdict import interval_words, kl_words, signed_percent

    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column("")
    for head in (
        found.protocol.metric,
        "against base",
        "95 % CI",
        "drift",
        "seconds",
        "trainable",
        "on disk",
    ):
        drawn.add_column(head, justify="right")
    for rung in found.rungs:
        change, interval = "", ""
        if rung.against_base is not None:
            change = signed_percent(rung.against_base.nats_per_token)
            interval = interval_words(rung.against_base)
        drawn.add_row(
            rung.name,
            f"{rung.whole.perplexity:,.1f}",
            change,
            interval,
            "" if rung.drift is None else kl_words(rung.drift)[0],
            "" if rung.training is None else f"{rung.training['seconds']:.0f}",
            f"{rung.trainable_parameters:,}" if rung.training is not None else "",
            "" if rung.bytes is None else f"{rung.bytes / 1e6:.1f} MB",
        )
    return drawn


def words(found: Ladder) -> Iterator[str]:
    """What transfer bought, what the adapter costs, and what the figures rest on; a line each."""
    from ft_toolkit.judging.verdict import interval_words, signed_percent

    own, scratch, full = found.own, found.of("scratch"), found.of("full")
    share = 100 * own.trainable_parameters / full.trainable_parameters
    for name, other, better, worse in (
        (f"transfer: {own.name} against scratch", scratch, "the base's weights help", "they do harm"),
        (f"cost: {own.name} against full", full, f"{own.name} is better", "full is better"),
    ):
        difference = found.difference(own, other)
        said = better if difference.nats_per_token < 0 else worse
        told = said if difference.excludes_zero else "cannot tell"
        yield f"{name}  {signed_percent(difference.nats_per_token)} ({interval_words(difference)}): {told}"
    yield f"{own.name} trains {share:.1f} % of the parameters that full fine-tuning trains."
    context = found.difference(scratch, found.of("unigram"))
    if not (context.excludes_zero and context.nats_per_token < 0):
        yield "scratch is not shown to be better than word counts: so few tokens taught it no context."
    rates = ", ".join(f"{r.name} {(r.training or {})['learning_rate']:g}" for r in (scratch, own, full))
    yield f"Peak learning rates: {rates}; scratch and full have their automatic ones. One training seed each."
    for rung in (scratch, own, full):
        trained = rung.training or {}
        if trained["steps"] < trained["planned_steps"]:
            place = f"after {trained['steps']} of {trained['planned_steps']} steps"
            yield f"{rung.name} stopped {place}: its validation no longer improved (training.patience)."
