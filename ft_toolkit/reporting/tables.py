"""Rows of the report's tables: a run's numbers with their units, as words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ft_toolkit.errors import FtError
from ft_toolkit.judging.bands import Band, Bands, TokenType
from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.statistics import Difference
from ft_toolkit.judging.verdict import (
    Verdict,
    interval_words,
    kl_words,
    row_name,
    signed_percent,
)
from ft_toolkit.references import parse_base, parse_text
from ft_toolkit.reporting.figures import Strip, strips
from ft_toolkit.run import Run
from ft_toolkit.sections import Corpus

Fact = tuple[str, str]  # what, how much with its unit
SHOWN_DOCUMENTS = 10
_PARTS = ("train", "validation", "test")
_VERSIONS = ("ft-toolkit", "torch", "transformers", "peft", "python")
_ENDS = {"done": "all of them", "patience": "validation no longer improved", "budget": "the time was used up"}
_VISIBLE = str.maketrans(
    {"\n": "↵", "\t": "⇥", " ": "␣"} | {c: chr(0x2400 + c) for c in range(32) if c not in (9, 10)}
)


@dataclass(frozen=True)
class Row:
    """A difference between base and tuned model, with its interval as words and as a drawing."""

    name: str
    figures: str
    change: str
    interval: str
    strip: Strip | None
    words: str
    is_better: bool = False
    is_worse: bool = False


@dataclass(frozen=True)
class DocumentRow:
    """One document; NLL in nats a token."""

    name: str
    tokens: int
    base_nats: float
    tuned_nats: float

    @property
    def is_worse(self) -> bool:
        return self.tuned_nats > self.base_nats

    @property
    def words(self) -> str:
        change = signed_percent(self.tuned_nats - self.base_nats)
        return f"{self.name}: {perplexity(self.base_nats)} → {perplexity(self.tuned_nats)}, {change}"


@dataclass(frozen=True)
class WordRow:
    """A token of the vocabulary that gained or lost; nats of all its occurrences together."""

    text: str
    count: int
    nats: float
    share: float  # of the longest bar


def perplexity(nats_per_token: float) -> str:
    """With as many digits as can be read."""
    value = math.exp(min(nats_per_token, 700.0))
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"


def corpus_rows(comparison: Comparison, verdict: Verdict) -> list[Row]:
    """The verdict's table, a row a text, all intervals on one scale."""
    order = sorted(comparison.corpora, key=lambda corpus: corpus.kind == "train")
    found = [each for corpus in order for each in _differences(corpus, verdict)]
    drawn = strips([_percents(difference) for _, _, difference, _ in found])
    return [
        _row(name, figures, difference, strip, f"{difference.better} of {difference.documents} better{said}")
        for (name, figures, difference, said), strip in zip(found, drawn, strict=True)
    ]


def _differences(corpus: CorpusComparison, verdict: Verdict) -> list[tuple[str, str, Difference, str]]:
    """(name, figures, difference, what is said of it) of a text, and of its part outside repeated lines."""
    said = f": {verdict.forgotten}" if corpus.kind == "general" else ""
    figures = f"{perplexity(corpus.base.nats_per_token)} → {perplexity(corpus.adapter.nats_per_token)}"
    name = f"of it, {corpus.corpus}" if corpus.kind == "source" else row_name(corpus)
    found = [(name, figures, corpus.difference, said)]
    if corpus.outside_repeated_lines is not None and corpus.kind in ("held-out", "other"):
        share = f"{100 * (1 - corpus.repeated_token_fraction):.0f} % of its tokens"
        found.append(("outside repeated lines", share, corpus.outside_repeated_lines, ""))
    return found


def band_rows(division: Sequence[Band], whole: Band) -> list[Row]:
    """The parts of one division."""
    drawn = strips([_percents(band.difference) for band in division])
    rows = []
    for band, strip in zip(division, drawn, strict=True):
        share = f"{band.tokens:,} ({100 * band.tokens / whole.tokens:.0f} %)"
        nats = f"{-band.gain_nats:+,.1f} nats in all".replace("-", "−")
        rows.append(_row(band.name, share, band.difference, strip, nats))
    return rows


def _row(name: str, figures: str, difference: Difference, strip: Strip | None, words: str) -> Row:
    return Row(
        name,
        figures,
        signed_percent(difference.nats_per_token),
        interval_words(difference),
        strip,
        words,
        difference.excludes_zero and difference.nats_per_token < 0,
        difference.excludes_zero and difference.nats_per_token > 0,
    )


def _percents(difference: Difference) -> tuple[float, float, float] | None:
    if difference.low is None or difference.high is None:
        return None
    return (
        as_percent(difference.low),
        as_percent(difference.nats_per_token),
        as_percent(difference.high),
    )


def divisions(found: Bands) -> list[tuple[str, list[Row]]]:
    """Where a text's change comes from: a title and its rows; the one by frequency first."""
    named = (
        (f"how often {found.counted_in} has the token", found.frequency),
        ("kind of token", found.token_kind),
        ("place in the document", found.position),
    )
    return [(title, band_rows(division, found.whole)) for title, division in named if division]


def word_rows(types: Sequence[TokenType], longest: float) -> list[WordRow]:
    """longest   nats of the longest bar of both lists, so that they share one scale"""
    return [
        WordRow(one.text.translate(_VISIBLE), one.count, abs(one.gain_nats), abs(one.gain_nats) / longest)
        for one in types
    ]


def drift_words(comparison: Comparison, verdict: Verdict) -> str:
    """How far the predictions moved, with its number."""
    drift = comparison.drift
    if drift is None:
        return verdict.drifted
    nats, interval = kl_words(drift.kl_nats)
    within = f" (95 % CI {interval})" if interval else ""
    what = "samples" if comparison.protocol.metric == "perplexity" else "documents"
    same = 100 * drift.same_top1.value
    return (
        f"{verdict.drifted}: {nats} nats a token from its base{within}, "
        f"measured on {drift.documents} {what}; the likeliest word is the same at {same:.0f} % of the tokens"
    )


# --- facts of the run -----------------------------------------------------------------------------------


def corpus_facts(run: Run) -> list[Fact]:
    """What it was trained and judged on."""
    recipe, counts = run.recipe, run.facts.get("documents", {})
    parts = [f"{counts[part]:,} {part}" for part in _PARTS if part in counts]
    left_out = [
        f"{count:,} {what.replace('_', '-')}"
        for what, count in counts.items()
        if count and what not in _PARTS
    ]
    found = [("source", _source_words(corpus)) for corpus in recipe.corpora]
    if parts:
        found.append(("documents", ", ".join(parts)))
    if left_out:
        found.append(("left out", ", ".join(left_out)))
    overlap = run.facts.get("overlap", {}).get("test")
    if overlap:
        shared = f"{overlap['with_8gram']:,} share an 8-gram, {overlap['with_13gram']:,} a 13-gram"
        said = f"of {overlap['documents']:,} test documents {shared}, {overlap['tainted']:,} mostly"
        found.append(("overlap with training text", said))
    for name in ("license", "language"):
        values = dict.fromkeys(getattr(corpus, name) for corpus in recipe.corpora)
        if said := ", ".join(value for value in values if value):
            found.append(("licence" if name == "license" else name, said))
    kept = "the held-out documents' text is in the run folder" if recipe.judging.keep_text else "not kept"
    return [*found, ("text", kept)]


def _source_words(corpus: Corpus) -> str:
    named = f" ({corpus.name})" if corpus.name else ""
    weight = f", weight {corpus.weight:g}" if corpus.weight is not None else ""
    return f"{parse_text(corpus.source).shown}{named}{weight}"


def cost_facts(run: Run) -> list[Fact]:
    """What it took; only what was measured."""
    facts, trained = run.facts, run.facts.get("training", {})
    found = []
    if trained:
        speed = (
            f", {trained['tokens'] / trained['seconds']:,.0f} tokens a second" if trained["seconds"] else ""
        )
        read = f"{trained['tokens']:,} tokens in {trained['steps']:,} steps{speed}"
        found += [("training", duration(trained["seconds"])), ("read", read)]
    if "wall_seconds" in facts:
        found.append(("from start to verdict", duration(facts["wall_seconds"])))
    if "energy_kwh" in facts:
        found.append(("energy", f"{1000 * facts['energy_kwh']:.3g} Wh, by {facts['energy_method']}"))
    if trained:
        found.append(("device", f"{facts.get('device', 'unknown')}, training in {trained['precision']}"))
    size = sum(path.stat().st_size for path in run.trained_folder.glob("*.safetensors"))
    if size:
        found.append((f"size of {run.trained_folder.name}/", f"{size / 1e6:.1f} MB"))
    return found


def making_facts(run: Run) -> list[Fact]:
    """How it was made: what the recipe says, and the versions."""
    recipe, trained = run.recipe, run.facts.get("training", {})
    adapter = recipe.adapter
    how = (
        ""
        if adapter.is_whole_model or adapter.method == "ia3"
        else f", rank {adapter.rank}, alpha {adapter.alpha}"
    )
    rate = trained.get("learning_rate") or recipe.training.learning_rate
    found = [
        ("base", shown_base(recipe.base)),
        ("method", f"{adapter.method}{how}"),
        ("training rows", f"{recipe.training.block_tokens} tokens"),
        ("tokens a step", f"{recipe.training.batch_tokens:,}"),
        ("peak learning rate", f"{rate:g}" if isinstance(rate, float) else str(rate)),
        ("seed", str(recipe.training.seed)),
    ]
    if "started_at" in run.facts:
        found.append(("begun", f"{run.facts['started_at'][:16].replace('T', ' ')} UTC"))
    if trained:
        ended = _ENDS.get(trained["stopped_by"], trained["stopped_by"])
        steps = f"{trained['steps']:,} of {trained['planned_steps']:,} ({ended})"
        found += [("steps", steps), ("best step", f"{trained['best_step']:,}, by validation loss")]
        if trained.get("strength", 1) != 1:
            found.append(("saved at strength", f"{trained['strength']:g}"))
    if "mixed" in run.facts:
        parts = (f"{part['weight']:g} × {part['run']}" for part in run.facts["mixed"])
        found.append(("mixed from", " + ".join(parts)))
    versions: Mapping[str, str] = run.facts.get("versions", {})
    if versions:
        shown = (f"{name} {versions[name]}" for name in _VERSIONS if name in versions)
        found.append(("versions", ", ".join(shown)))
    if "integrity" in run.facts:
        passed = run.facts["integrity"].get("passed")
        found.append(("saved equals trained", "yes, checked by a new process" if passed else "no"))
    return found


def command(run: Run) -> str:
    """What repeats this run; without this machine's folders."""
    place = PurePath(*run.folder.parts[-2:])
    if "mixed" in run.facts:
        parts = (
            f"{place.with_name(part['run']).as_posix()}:{part['weight']:g}" for part in run.facts["mixed"]
        )
        return f"ft mix {' '.join(parts)} --to {place.as_posix()}-again"
    return f"ft finetune {(place / 'recipe.yaml').as_posix()}"


def shown_base(name: str) -> str:
    """The base's name without this machine's folders, also where it is no longer there."""
    try:
        return parse_base(name).shown
    except FtError:
        return PurePath(name).name


def duration(seconds: float) -> str:
    """Two units at most."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
