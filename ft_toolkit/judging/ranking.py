"""Ranks several adapters where they have a common figure; says why where they have none."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import Comparison
from ft_toolkit.judging.verdict import interval_words, kl_words, signed_percent


def ranking(comparisons: Sequence[Comparison], *, common_text: bool) -> Table | str:
    """A row per adapter and a column per corpus, best first; or the reason why there is no ranking.

    One tokenizer: perplexity. Several, all causal: bits per byte. Several masked ones: nothing in common.

    raises   FtError when the protocols differ: their figures are different quantities
    """
    protocols = {comparison.protocol.words(): comparison for comparison in comparisons}
    metrics = {comparison.protocol.metric for comparison in comparisons}
    one_tokenizer = len({comparison.tokenizer_sha256 for comparison in comparisons}) == 1
    if len(metrics) > 1:
        return "no ranking: a perplexity and a pseudo-perplexity are different quantities"
    if len({comparison.protocol.name for comparison in comparisons}) > 1 or (
        one_tokenizer and len(protocols) > 1
    ):
        found = " and ".join(protocols)
        raise FtError("comparison", "one protocol for all runs", found, "Choose one with --protocol.")
    if not common_text:
        return "no ranking: each run was scored on its own held-out text; --on FILE gives them a common one"
    if not one_tokenizer and metrics == {"pseudo-perplexity"}:
        return "no ranking: pseudo-perplexities of different tokenizers have no common figure"
    figure = comparisons[0].protocol.metric if one_tokenizer else "bits per byte"
    table = Table(box=None, pad_edge=False, header_style="dim", title=f"by {figure}", title_justify="left")
    table.add_column("")
    for corpus in comparisons[0].corpora:
        table.add_column(corpus.corpus, justify="right")
        table.add_column("against its base", justify="right")
    has_drift = any(comparison.drift for comparison in comparisons)
    if has_drift:
        table.add_column("drift, nats a token", justify="right")

    def value(comparison: Comparison, column: int) -> float:
        totals = comparison.corpora[column].adapter
        return totals.perplexity if one_tokenizer else totals.bits_per_byte

    for comparison in sorted(comparisons, key=lambda each: value(each, 0)):
        cells = [comparison.name]
        for column, corpus in enumerate(comparison.corpora):
            decimals = 1 if one_tokenizer else 3
            change = (
                f"{signed_percent(corpus.difference.nats_per_token)} ({interval_words(corpus.difference)})"
            )
            cells += [f"{value(comparison, column):.{decimals}f}", change]
        if has_drift:
            nats, interval = kl_words(comparison.drift.kl_nats) if comparison.drift else ("not measured", "")
            cells.append(f"{nats} ({interval})" if interval else nats)
        table.add_row(*cells)
    return table
