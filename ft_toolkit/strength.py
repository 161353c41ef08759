"""A run's adapter at several strengths: what each gains, and what it costs; ft compare RUN --strength."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.table import Table

from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import Comparison, compare
from ft_toolkit.judging.drift import score_drift
from ft_toolkit.judging.protocols import How, protocol_of, quick_protocol
from ft_toolkit.judging.run_scores import scores_of
from ft_toolkit.judging.scoring import Scorer, Text, judged_texts, score_both
from ft_toolkit.judging.statistics import Difference
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.judging.unseen import read_general, recovered
from ft_toolkit.judging.verdict import interval_words, kl_words, signed_percent
from ft_toolkit.material import validation_documents
from ft_toolkit.models.strength import at_strength, refuse_fixed_strength
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.run_models import scoring_session, trained_pair
from ft_toolkit.text.splitting import Parts

SCHEMA = 1
_KINDS = ("held-out", "general", "drift")


@dataclass(frozen=True)
class Point:
    """The adapter at one strength against its base.

    validation   on the text that chose the adapter in training; None where the run has none
    """

    strength: float
    validation: Difference | None
    comparison: Comparison


@dataclass(frozen=True)
class Frontier:
    """The strengths in rising order."""

    run: Path
    points: tuple[Point, ...]

    @property
    def chosen(self) -> float | None:
        """The strength of the lowest NLL on validation text, and the weaker one of two equal ones."""
        known = [
            (point.validation.nats_per_token, point.strength) for point in self.points if point.validation
        ]
        return min(known)[1] if known else None

    def as_dict(self) -> dict[str, Any]:
        """Numbers alone, as --json prints them."""
        points = [
            {
                "strength": point.strength,
                "validation": point.validation and asdict(point.validation),
                "comparison": point.comparison.as_dict(),
            }
            for point in self.points
        ]
        return {"schema": SCHEMA, "name": self.run.name, "chosen": self.chosen, "points": points}

    def show(self, screen: Screen) -> None:
        """A table, what was chosen, and how to write it."""
        screen.say("")
        screen.result(self.table())
        for line in self.words():
            screen.result(line)

    def table(self) -> Table:
        """A row a strength; a change of perplexity and its 95 % interval a cell."""
        metric = self.points[0].comparison.protocol.metric
        title = f"{self.run.name}: change of {metric} and drift by strength (95 % CI)"
        table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
        corpora = self.points[0].comparison.corpora
        names = [each.corpus if each.kind == "source" else f"{each.kind} text" for each in corpora]
        for name in ("strength", "validation text", *names, "drift, nats a token"):
            table.add_column(name, justify="right")
        for point in self.points:
            changes = [corpus.difference for corpus in point.comparison.corpora]
            chosen = "*" if point.strength == self.chosen else ""
            validation = signed_percent(point.validation.nats_per_token) if point.validation else "–"
            cells = [f"{signed_percent(each.nats_per_token)} ({interval_words(each)})" for each in changes]
            table.add_row(f"{chosen}{point.strength:g}", validation, *cells, _drift_cell(point.comparison))
        return table

    def words(self) -> list[str]:
        """What was chosen, and the command that writes it."""
        chosen, run = self.chosen, shlex.quote(str(self.run))
        others = [point.strength for point in self.points if point.strength not in (0, 1)]
        written = chosen if chosen in others else others[-1] if others else 0.5
        command = f"ft mix {run}:{written:g} --to {run}-{written:g}"
        if chosen is None:
            said = "no validation text is left, so no strength is chosen"
        elif chosen == 0:
            said = "* best on validation: 0. At none of these strengths is the adapter better than its base"
        elif chosen == 1:
            said = "* best on validation: 1, the adapter as it is"
        else:
            said = f"* best on validation: {chosen:g}"
        lines = [f"{said}. Held-out text took no part in the choice, and neither did general text or drift."]
        purpose = "writes it" if chosen == written else "writes another strength"
        return [*lines, f"{command}  {purpose} as a run of its own and judges it"]


def _drift_cell(comparison: Comparison) -> str:
    if comparison.drift is None:
        return "not measured"
    if not comparison.drift.kl_nats.value:
        return "0"
    nats, interval = kl_words(comparison.drift.kl_nats)
    return f"{nats} ({interval})" if interval else nats


def frontier(
    run: Run, strengths: Sequence[float], how: How, *, screen: Screen, rescore: bool = False
) -> Frontier:
    """Score an adapter at each strength on held-out, general and validation text, and its drift.

    0 is the base itself and costs nothing; at 1 the run's own scores are read where it has them. The base's
    scores are kept from one strength to the next.

    raises   FtError for an adapter that has no strength (DoRA, (IA)³, full), a base that changed or lost
             text; IntegrityFailed for an adapter that is not the one that was trained
    """
    _refuse_whole(run)
    kept = None if rescore or how != How() else scores_of([run], screen.say)
    session = scoring_session(how.device, screen)
    pair = trained_pair(run, session)
    assert isinstance(pair.tuned.model, PeftModel)  # whole models are refused above
    scorer = Scorer(pair, protocol_of(pair.base, run.recipe.judging, how), session)
    parts, subject = recovered(run, screen), scorer.subject(run.folder.name)
    texts = [text for text in judged_texts(pair.base, run.recipe, parts) if text.kind in _KINDS]
    points: list[Point] = []
    corpora = _kept(kept)
    validation: CorpusScores | None = None
    for strength in sorted(strengths, reverse=True):  # 0 last: the base has been scored by then
        screen.say(f"strength {strength:g}")
        with at_strength(pair.tuned.model, strength):
            if strength or not corpora:
                is_kept = strength == 1 and kept is not None
                corpora = _kept(kept) if is_kept else _scored(scorer, run, texts)
            if strength or validation is None:
                validation = _validated(scorer, run, parts)
        if not strength:
            corpora = [_as_base(each) for each in corpora]
            validation = validation and _as_base(validation)
        change = compare(TokenScores(subject, [validation])).corpora[0].difference if validation else None
        points.append(Point(strength, change, compare(TokenScores(subject, corpora))))
    return Frontier(run.folder, tuple(reversed(points)))


def _refuse_whole(run: Run) -> None:
    if run.recipe.adapter.is_whole_model:
        found = f"method {run.recipe.adapter.method}"
        raise FtError(run.folder, "a run with an adapter", found, "Only an adapter has a strength.")
    refuse_fixed_strength(run.adapter_folder)


def _kept(scores: Sequence[TokenScores] | None) -> list[CorpusScores]:
    return [each for each in scores[0].corpora if each.kind in _KINDS] if scores else []


def _scored(scorer: Scorer, run: Run, texts: Sequence[Text]) -> list[CorpusScores]:
    judging = run.recipe.judging
    scores = [score_both(scorer, text) for text in texts]
    return [*scores, *score_drift(scorer, judging, read_general(judging))]


def _validated(scorer: Scorer, run: Run, parts: Parts) -> CorpusScores | None:
    """The validation documents that training reads, a masked model's by covering as there."""
    if not parts.validation:
        return None
    base = scorer.pair.base
    protocol = quick_protocol(base)
    text = Text(run.recipe.text_label, "other", validation_documents(parts))
    return score_both(replace(scorer, protocol=protocol), text)


def _as_base(scores: CorpusScores) -> CorpusScores:
    """What the base itself would score: no difference, and no drift, to the last bit."""
    return replace(scores, documents=[replace(each, adapter=each.base) for each in scores.documents])
