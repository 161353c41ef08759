"""All numbers of a comparison, for ft compare --details."""

from __future__ import annotations

from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.predictions import Divergence, TrueTokenChange
from ft_toolkit.judging.statistics import Estimate
from ft_toolkit.judging.verdict import kl_words, row_name, signed, unit


def detail_lines(comparison: Comparison) -> list[str]:
    """All other numbers of a comparison, some lines per corpus."""
    metric = comparison.protocol.metric
    lines = []
    for corpus in comparison.corpora:
        base, difference = corpus.base, corpus.difference
        words = "written without spaces" if base.words is None else f"{base.words:,} words"
        groups = f" in {difference.groups} groups" if unit(difference) == "groups" else ""
        lines += [
            f"{row_name(corpus)}: {difference.documents} documents{groups}, {base.tokens:,} tokens scored, "
            f"{base.bytes:,} bytes, {words}",
            f"  {', '.join(_figures(corpus, metric))}",
            f"  {', '.join(_tested(corpus))}",
        ]
        if corpus.true_token is not None:
            lines += _true_token_lines(corpus.true_token)
        if corpus.divergence is not None:
            lines.append(f"  beginnings of {_divergence_words(corpus.divergence)}")
    if comparison.drift is not None:
        lines.append(f"drift from its base, on {comparison.drift.corpus}:")
        lines.append(f"  {_divergence_words(comparison.drift)}")
    return lines


def _figures(corpus: CorpusComparison, metric: str) -> list[str]:
    base, adapter = corpus.base, corpus.adapter
    figures = [f"{metric} {base.perplexity:,.2f} → {adapter.perplexity:,.2f}"]
    if metric == "perplexity":
        if base.word_perplexity is not None and adapter.word_perplexity is not None:
            figures.append(f"word perplexity {base.word_perplexity:,.1f} → {adapter.word_perplexity:,.1f}")
        figures.append(f"bits per byte {base.bits_per_byte:.4f} → {adapter.bits_per_byte:.4f}")
    return figures


def _tested(corpus: CorpusComparison) -> list[str]:
    difference = corpus.difference
    tested = [f"{signed(difference.nats_per_token, 4)} nats a token"]
    if difference.low is not None and difference.high is not None:
        interval = f"{signed(difference.low, 4)} … {signed(difference.high, 4)}"
        tested.append(f"95 % CI {interval} ({difference.method})")
    if difference.p_value is not None:
        tested.append(f"p {difference.p_value:.2g}")
    if corpus.holm_p_value is not None:
        tested.append(f"Holm-corrected {corpus.holm_p_value:.2g}")
    tested.append(f"{difference.better} better, {difference.worse} worse")
    if difference.smallest_visible is not None:
        tested.append(f"{difference.smallest_visible:.4f} would have shown")
    return tested


def _true_token_lines(change: TrueTokenChange) -> list[str]:
    """In points of a hundred: what the true token's probability gained or lost."""
    percentiles = ", ".join(f"{name} % {_points(each)}" for name, each in change.percentiles.items())
    return [
        f"  probability of the true token, in points: mean {_points(change.mean)}",
        f"  percentiles {percentiles}",
    ]


def _points(estimate: Estimate) -> str:
    shown = signed(100 * estimate.value, 2)
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} ({signed(100 * estimate.low, 2)} … {signed(100 * estimate.high, 2)})"


def _divergence_words(found: Divergence) -> str:
    nats, interval = kl_words(found.kl_nats)
    same = found.same_top1
    share = f"{100 * same.value:.1f} %"
    if same.low is not None and same.high is not None:
        share += f" ({100 * same.low:.1f} … {100 * same.high:.1f} %)"
    return (
        f"{found.documents} documents, {found.tokens:,} tokens: KL {nats} nats a token"
        f"{f' ({interval})' if interval else ''}, same likeliest word {share}"
    )
