"""The table under a verdict: on a narrow terminal each row's words stand below its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.predictions import Divergence
from ft_toolkit.judging.statistics import CONFIDENCE
from ft_toolkit.judging.verdict import Verdict, interval_words, kl_words, row_name, signed_percent

INDENT, SHORT_NAME = 4, 14  # on a narrow terminal a longer name stands above its figures
FIGURES = 3
CI = f"{CONFIDENCE:.0%} CI".replace("%", " %")
Cells = tuple[str, str, str, str, str]  # name, figures, change, interval, and what is said of documents


@dataclass(frozen=True)
class VerdictTable:
    """A row for each corpus, and one for the drift."""

    metric: str
    rows: list[Cells]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = _table((self.metric, "change", CI, "documents"), self.rows)
        names = [name if len(name) <= SHORT_NAME else "" for name, *_ in self.rows]
        figures = [(name, *row[1:-1]) for name, row in zip(names, self.rows, strict=True)]
        narrow = _table((self.metric, "change", CI), figures)
        fits = [
            console.measure(table, options=options.update(width=10_000)).maximum <= options.max_width
            for table in (whole, narrow)
        ]
        if fits != [False, True]:
            yield whole
            return
        heads, *lines = console.render_lines(narrow, options, pad=False)
        yield from heads
        yield Text()
        for name, (long_name, *_, words), line in zip(names, self.rows, lines, strict=True):
            if not name:
                yield Text(long_name)
            yield from line
            yield Text()
            for part in Text(words).wrap(console, options.max_width - INDENT):
                part.pad_left(INDENT)
                yield part


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A name, then figures to the right; a fourth column holds words."""
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number < FIGURES else "left")
    for row in rows:
        table.add_row(*row)
    return table


def verdict_table(comparison: Comparison, verdict: Verdict) -> VerdictTable:
    """The table under the sentence: a row per corpus, and one for the drift."""
    metric, rows = comparison.protocol.metric, list[Cells]()
    for corpus in comparison.corpora:
        if corpus.kind != "train":
            rows += _rows(corpus, verdict)
    if comparison.drift is not None:
        rows.append(_drift_cells(comparison.drift, metric, verdict))
    for corpus in comparison.of_kind("train"):
        rows += _rows(corpus, verdict)
    return VerdictTable(metric, rows)


def _rows(corpus: CorpusComparison, verdict: Verdict) -> Iterator[Cells]:
    difference, outside = corpus.difference, corpus.outside_repeated_lines
    said = f": {verdict.forgotten}" if corpus.kind == "general" else ""
    yield (
        row_name(corpus),
        f"{corpus.base.perplexity:.1f} → {corpus.adapter.perplexity:.1f}",
        signed_percent(difference.nats_per_token),
        interval_words(difference),
        f"{difference.better} of {difference.documents} better{said}",
    )
    if outside is not None and corpus.kind in ("held-out", "other"):
        yield (
            "  outside repeated lines",
            f"{100 * (1 - corpus.repeated_token_fraction):.0f} % of tokens",
            signed_percent(outside.nats_per_token),
            interval_words(outside),
            f"{outside.better} of {outside.documents} better",
        )


def _drift_cells(drift: Divergence, metric: str, verdict: Verdict) -> Cells:
    """A row that makes no column wider."""
    nats, interval = kl_words(drift.kl_nats)
    what = "samples" if metric == "perplexity" else "documents"  # a masked model draws no text
    said = f"a token from its base ({drift.documents} {what}): {verdict.drifted}"
    return "drift", f"{nats} nats", "", interval or "too few documents", said
