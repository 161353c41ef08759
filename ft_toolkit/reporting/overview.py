"""Several runs side by side: a line each for ft runs, and one page for ft report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ft_toolkit.artefacts import written_whole
from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.statistics import Difference
from ft_toolkit.judging.verdict import interval_words, row_name, signed, signed_percent
from ft_toolkit.reporting.figures import Strip, overlaid, strips
from ft_toolkit.reporting.page import page
from ft_toolkit.reporting.report import metrics_of
from ft_toolkit.reporting.tables import duration, shown_base
from ft_toolkit.run import Run

CURVES = 8  # more lines cannot be told apart
# Changes of nats a token from which a cell of the heat map has a shade: 2, 10, 26 and 50 % of perplexity.
_SHADES = (0.02, 0.10, 0.30, 0.70)


@dataclass(frozen=True)
class Summary:
    """One run in a line; None for what it has not got. The change is that of the held-out text."""

    run: str
    state: str
    date: str | None = None
    base: str | None = None
    method: str | None = None
    documents: int | None = None  # of all parts
    metric: str | None = None
    percent: float | None = None
    low_percent: float | None = None
    high_percent: float | None = None
    headline: str | None = None

    @property
    def change(self) -> str:
        if self.percent is None:
            return "–"
        within = ""
        if self.interval is not None:
            within = f" ({signed(self.interval[0], 1)} … {signed(self.interval[2], 1)})"
        return f"{signed(self.percent, 1)} %{within}"

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """The change with both ends of its interval, in per cent."""
        if self.percent is None or self.low_percent is None or self.high_percent is None:
            return None
        return self.low_percent, self.percent, self.high_percent

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summary(run: Run) -> Summary:
    """What can be said of a run in a line; one that is damaged says so."""
    try:
        run.require_whole()
        if "documents" in run.facts:
            run.read_table("documents.parquet", "id")
        is_judged = (run.folder / "comparison.json").is_file()
        comparison = run.comparison if is_judged else None
        facts, recipe = run.facts, run.recipe
    except FtError as error:
        state = f"damaged: {Path(error.where).name}: expected {error.expected}, found {error.found}"
        return Summary(str(run.folder), state)
    state = _before_judging(facts)
    sizes = facts.get("documents", {})
    found = Summary(
        str(run.folder),
        "judged" if comparison else state,
        str(facts["started_at"])[:10] if "started_at" in facts else None,
        shown_base(recipe.base),
        recipe.adapter.method,
        sum(sizes.get(part, 0) for part in ("train", "validation", "test")) or None,
    )
    return found if comparison is None else _with_change(found, comparison)


def _before_judging(facts: Mapping[str, Any]) -> str:
    """How far a run without a verdict came; a trial of ft tune stays there."""
    trained = facts.get("training", {})
    if "failed" in facts or not trained:
        return str(facts.get("failed", "unfinished"))
    base, best = trained.get("base_validation_nats"), trained.get("best_validation_nats")
    figures = f" (validation {base:.4f} → {best:.4f} nats)" if base and best else ""
    return f"trained, not judged{figures}: ft compare finishes it"


def _with_change(found: Summary, comparison: dict[str, Any]) -> Summary:
    """With what a comparison.json of any release says."""
    changes = (each["difference"] for each in comparison.get("corpora", []) if each["kind"] == "held-out")
    change: dict[str, float | None] = next(changes, {})
    ends = [change.get(name) for name in ("nats_per_token", "low", "high")]
    percent, low, high = (None if end is None else as_percent(end) for end in ends)
    return replace(
        found,
        metric=comparison.get("protocol", {}).get("metric"),
        percent=percent,
        low_percent=low,
        high_percent=high,
        headline=comparison["verdict"]["headline"],
    )


@dataclass(frozen=True)
class Cell:
    """A run's change on one text."""

    words: str
    interval: str
    shade: str  # a CSS class, or nothing


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    name: str
    link: str | None
    summary: Summary
    strip: Strip | None
    seconds: float | None
    time: str
    cells: list[Cell | None]  # in the order of the page's texts


def write_overview(runs: Sequence[Run], out: Path) -> Path:
    """Write one page about several judged runs.

    raises   FtError for a run that was not judged, or is damaged
    """
    compared = [Comparison.from_dict(run.comparison) for run in runs]
    summaries = [summary(run) for run in runs]
    texts: list[str] = []
    for comparison in compared:
        texts += [text for text in map(text_name, _seen(comparison)) if text not in texts]
    drawn = strips([one.interval for one in summaries])
    rows = []
    for run, one, comparison, strip in zip(runs, summaries, compared, drawn, strict=True):
        cells = {text_name(corpus): _cell(corpus.difference) for corpus in _seen(comparison)}
        seconds = run.facts.get("training", {}).get("seconds")
        time = "–" if seconds is None else duration(seconds)
        in_texts = [cells.get(text) for text in texts]
        rows.append(Row(run.folder.name, _link(run, out), one, strip, seconds, time, in_texts))
    lines = [(run.folder.name, *metrics_of(run)) for run in runs]
    values = {"rows": rows, "texts": texts, "curves": overlaid(lines[:CURVES]), "runs": len(runs)}
    values["hidden_curves"] = max(0, len(runs) - CURVES)
    values["metrics"] = sorted({comparison.protocol.metric for comparison in compared})
    with written_whole(out) as unfinished:
        unfinished.write_text(page("overview.html", **values), encoding="utf-8")
    return out


def text_name(corpus: CorpusComparison) -> str:
    """A column of the heat map: general text is the same for all, held-out text is named."""
    return f"unseen {corpus.corpus}" if corpus.kind in ("held-out", "source") else row_name(corpus)


def _seen(comparison: Comparison) -> list[CorpusComparison]:
    return [
        corpus for corpus in comparison.corpora if corpus.kind in ("held-out", "source", "general", "other")
    ]


def _cell(difference: Difference) -> Cell:
    nats = difference.nats_per_token
    shade = sum(abs(nats) >= edge for edge in _SHADES)
    is_told = difference.low is None or difference.excludes_zero
    mark = f"{'b' if nats < 0 else 'w'}{shade}" if shade and is_told else ""
    return Cell(signed_percent(nats), interval_words(difference), mark)


def _link(run: Run, out: Path) -> str | None:
    """To the run's own page, where it has one; ./ so that no folder's name can be a scheme."""
    report = run.folder / "report.html"
    if not report.is_file():
        return None
    return f"./{quote(Path(os.path.relpath(report, out.parent)).as_posix())}"
