"""What an audit asks of the models themselves: calibration, random adapters, canaries and bias pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ft_toolkit.errors import FtError
from ft_toolkit.judging.attacks import attack
from ft_toolkit.judging.bias import Bias, bias
from ft_toolkit.judging.calibration import TOKENS, Calibration, calibrate
from ft_toolkit.judging.comparison import compare
from ft_toolkit.judging.exposure import Exposure, exposure
from ft_toolkit.judging.protocols import How, protocol_of
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.statistics import Difference, Estimate
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.judging.unseen import recovered
from ft_toolkit.judging.verdict import interval_words, signed, signed_percent
from ft_toolkit.models.null_adapters import random_directions
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.run_models import scoring_session, trained_pair
from ft_toolkit.text.canaries import canaries, controls
from ft_toolkit.text.pairs import BiasPair
from ft_toolkit.text.splitting import Parts, sample


@dataclass(frozen=True)
class Asked:
    """What to measure; `tokens` bounds what calibration reads, `null` counts random adapters.

    bias   pairs of sentences; none: not asked
    """

    calibration: bool = False
    tokens: int = TOKENS
    null: int = 0
    canaries: bool = False
    bias: Sequence[BiasPair] = ()
    device: str = "auto"


@dataclass(frozen=True)
class NullAdapters:
    """What the trained model does, and what random ones of its size do.

    trained, random   the change on held-out text
    attacks           AUC of each membership attack on the random ones, which read nothing: what differs from
                      the base's own and from 0.5 is luck
    """

    trained: Difference
    random: tuple[Difference, ...]
    attacks: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Measured:
    """None for what was not asked for."""

    calibration: Calibration | None
    null: NullAdapters | None
    canaries: Exposure | None
    bias: Bias | None

    def as_dict(self) -> dict[str, Any]:
        worded = {"canaries": self.canaries, "bias": self.bias}
        return asdict(self) | {name: found and found.as_dict() for name, found in worded.items()}

    def shown(self) -> list[RenderableType]:
        """Sentences and a table."""
        found: list[RenderableType] = []
        if self.calibration is not None:
            found.append(_calibration_table(self.calibration))
        if self.null is not None:
            found.append(null_words(self.null))
        if self.canaries is not None:
            found.append(canary_words(self.canaries))
        if self.bias is not None:
            found += self.bias.shown()
        return found


def measure(run: Run, asked: Asked, screen: Screen) -> Measured:
    """Load base and tuned model, and read the held-out text once more.

    raises   FtError for a base that changed, lost text, --null on a method that has no such directions, or
             --canaries on a run that planted none
    """
    planted = run.recipe.judging.canaries
    if asked.canaries and not planted:
        cure = "Train with judging.canaries=8."
        raise FtError("--canaries", "a run with canaries in its training text", "none", cure)
    if asked.null and run.recipe.adapter.method == "scratch":
        wanted, found = "a model that was tuned from its base", "one from fresh weights"
        raise FtError("--null", wanted, found, "Leave --null out.")
    session = scoring_session(asked.device, screen)
    pair = trained_pair(run, session)
    scorer = Scorer(pair, protocol_of(pair.base, run.recipe.judging, How(device=asked.device)), session)
    label = run.recipe.text_label
    parts = recovered(run, screen) if asked.calibration or asked.null else Parts([], [], [])
    calibration = calibrate(pair, parts.clean_test, asked.tokens) if asked.calibration else None
    texts = [Text(label, "held-out", parts.clean_test)]
    if parts.train:
        texts.append(Text(label, "train", sample(parts.train, len(parts.clean_test)), keeps_ids=False))
    null = null_adapters(scorer, texts, asked.null) if asked.null else None
    exposed = planted_exposure(scorer, planted) if asked.canaries else None
    return Measured(calibration, null, exposed, bias(pair, asked.bias) if asked.bias else None)


def null_adapters(scorer: Scorer, texts: Sequence[Text], count: int) -> NullAdapters:
    """Score texts with the tuned model, and with so many random ones of its size, seeds 0 upwards.

    texts   the held-out text, then a training sample where it is known
    """
    trained, changes = _scored(scorer, texts[:1]), []
    attacks: dict[str, list[float]] = {}
    for seed in range(count):
        with random_directions(scorer.pair, seed):
            scores = _scored(scorer, texts)
        changes.append(_change(scores))
        found = attack(scores)
        for each in found.attacks if found is not None else ():
            attacks.setdefault(each.name, []).append(each.tuned.value)
    return NullAdapters(
        _change(trained), tuple(changes), {name: tuple(aucs) for name, aucs in attacks.items()}
    )


def _scored(scorer: Scorer, texts: Sequence[Text]) -> TokenScores:
    return TokenScores(scorer.subject("run"), [score_both(scorer, text) for text in texts])


def _change(scores: TokenScores) -> Difference:
    return compare(scores).corpora[0].difference


def planted_exposure(scorer: Scorer, count: int) -> Exposure:
    """Score a run's canaries among sentences of their kind that it never read."""
    scored = score_both(scorer, Text("canaries", "other", [*canaries(count), *controls()]))
    nats = [(base.nll_nats, tuned.nll_nats) for base, tuned in scored.totals()]
    return exposure(nats, count)


def canary_words(found: Exposure) -> str:
    """What the model knows of its canaries."""
    base, tuned = found.base, found.tuned
    most = math.log2(found.controls + 1)
    verdict = "it remembers them" if found.is_exposed else "it does not tell them from others"
    return (
        f"{found.canaries} canaries among {found.controls:,} sentences of their kind: exposure "
        f"{base.mean_bits:.1f} → {tuned.mean_bits:.1f} bits on average, {max(tuned.bits):.1f} at most "
        f"(1.4 by chance, {most:.0f} is certain); AUC {base.auc.words} → {tuned.auc.words}, "
        f"p = {found.p_value:.2g}: {verdict}"
    )


def null_words(found: NullAdapters) -> str:
    """Random adapters of this size beside the trained one."""
    changes = [each.nats_per_token for each in found.random]
    low, high = signed_percent(min(changes)), signed_percent(max(changes))
    few = "1 random adapter" if len(changes) == 1 else f"{len(changes)} random adapters"
    attacked = ", ".join(f"{name} {sum(aucs) / len(aucs):.2f}" for name, aucs in found.attacks.items())
    return (
        f"{few} of this size: {signed_percent(sum(changes) / len(changes))} on held-out text on average "
        f"({low} … {high}); the trained one {signed_percent(found.trained.nats_per_token)} "
        f"({interval_words(found.trained)})"
        + (f"; AUC of the attacks on them: {attacked}" if attacked else "")
    )


def _calibration_table(found: Calibration) -> Table:
    title = f"calibration on {found.tokens:,} tokens of {found.documents} held-out documents"
    table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
    for number, name in enumerate(("", "base", "95 % CI", "tuned", "95 % CI")):
        table.add_column(name, justify="right" if number else "left")
    sides = (found.base, found.tuned)
    errors = (cell for side in sides for cell in (f"{side.expected_error:.4f}", ""))
    chances = (cell for side in sides for cell in (f"{side.chance_error:.4f}", ""))
    table.add_row("expected calibration error", *errors)
    table.add_row("  of it by chance", *chances)
    table.add_row("overconfidence", *(cell for side in sides for cell in _cells(side.overconfidence, 4)))
    warmth = (cell.replace("+", "") for side in sides for cell in _cells(side.temperature, 3))
    table.add_row("best temperature", *warmth)
    return table


def _cells(found: Estimate, decimals: int) -> tuple[str, str]:
    if found.low is None or found.high is None:
        return signed(found.value, decimals), "too few documents"
    return signed(found.value, decimals), f"{signed(found.low, decimals)} … {signed(found.high, decimals)}"
