"""The rungs of ft ladder on one text: what transfer bought, and what an adapter costs. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ft_toolkit.judging.protocols import Protocol
from ft_toolkit.judging.statistics import Difference, Estimate, paired_difference
from ft_toolkit.judging.totals import Totals, corpus_totals
from ft_toolkit.judging.verdict import interval_words, kl_words, signed_percent
from ft_toolkit.progress import Screen

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
        return paired(other.totals, one.totals, self.groups)

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


def paired(theirs: Sequence[Totals], ours: Sequence[Totals], groups: Sequence[int]) -> Difference:
    """Ours minus theirs over the documents that have a scored token, with its interval."""
    scored = [each for each in zip(theirs, ours, groups, strict=True) if each[0].tokens]
    return paired_difference(
        np.array([one.nll_nats for one, _, _ in scored]),
        np.array([other.nll_nats for _, other, _ in scored]),
        np.array([one.tokens for one, _, _ in scored]),
        groups=[group for _, _, group in scored],
    )


def _as_dict(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference) | {"percent": difference.percent}


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
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column("")
    heads = ("against base", "95 % CI", "drift, nats", "seconds", "trainable", "on disk")
    for head in (found.protocol.metric, *heads):
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
