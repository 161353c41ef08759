"""Gates: exit code 3 for a comparison that ran well and fell short, and nothing for one that did not."""

from __future__ import annotations

import math

import pytest

from ft_toolkit.errors import FtError, GateNotMet
from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.gates import enforce, required_gain
from ft_toolkit.judging.protocols import Protocol
from ft_toolkit.judging.ranking import ranking
from ft_toolkit.judging.statistics import Difference
from ft_toolkit.judging.totals import Totals

CAUSAL = Protocol("document", 64, stride_tokens=32)
MASKED = Protocol("word-l2r", 64, exact=False)


def comparison(
    low: float | None,
    high: float | None,
    *,
    name: str = "run",
    tokenizer: str = "t",
    protocol: Protocol = CAUSAL,
    nats: float = 300.0,
) -> Comparison:
    middle = -0.1 if low is None or high is None else (low + high) / 2
    difference = Difference(middle, low, high, "bootstrap", 40, 40, 20, 20, 0.01, 0.5)
    totals = Totals(nats, 100, 400, 80)
    corpus = CorpusComparison("notes", "other", totals, totals, difference, None, None, 0.0, 1.0, 0.0)
    return Comparison(name, "base", tokenizer, None, True, protocol, [corpus], None)


@pytest.mark.parametrize(
    ("low", "high", "passes"),
    [(-0.2, -0.1, True), (-0.1, 0.1, True), (0.0, 0.2, True), (1e-9, 0.2, False), (None, None, True)],
)
def test_fail_if_worse_needs_the_whole_interval_above_zero(
    low: float | None, high: float | None, passes: bool
) -> None:
    if passes:
        enforce([comparison(low, high)], fail_if_worse=True, gain_percent=None)
    else:
        with pytest.raises(GateNotMet, match="--fail-if-worse") as fault:
            enforce([comparison(low, high)], fail_if_worse=True, gain_percent=None)
        assert fault.value.exit_code == 3


@pytest.mark.parametrize(
    ("high", "passes"),
    [(math.log(0.949), True), (math.log(0.951), False), (0.0, False), (0.3, False), (None, False)],
)
def test_require_gain_looks_at_the_weaker_end_of_the_interval(high: float | None, passes: bool) -> None:
    found = comparison(None if high is None else -1.0, high)
    if passes:
        enforce([found], fail_if_worse=False, gain_percent=5)
    else:
        with pytest.raises(GateNotMet, match="at least 5 % lower perplexity"):
            enforce([found], fail_if_worse=False, gain_percent=5)


@pytest.mark.parametrize(("text", "percent"), [("5%", 5.0), ("5 %", 5.0), ("0.5", 0.5)])
def test_a_gain_is_read_in_per_cent(text: str, percent: float) -> None:
    assert required_gain(text) == percent


@pytest.mark.parametrize("text", ["", "much", "-5%", "0", "100%", "nan"])
def test_a_gain_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(FtError, match="--require-gain"):
        required_gain(text)


def order(*comparisons: Comparison) -> list[str]:
    table = ranking(comparisons, common_text=True)
    assert not isinstance(table, str)
    return list(table.columns[0].cells)  # type: ignore[arg-type]


def test_adapters_of_one_tokenizer_are_ranked_by_perplexity() -> None:
    worse, better = comparison(-0.2, -0.1, name="a", nats=400.0), comparison(-0.2, -0.1, name="b", nats=300.0)
    assert order(worse, better) == ["b", "a"]


def test_causal_bases_of_several_tokenizers_are_ranked_by_bits_per_byte() -> None:
    one, other = comparison(-0.2, -0.1, name="a"), comparison(-0.2, -0.1, name="b", tokenizer="u", nats=299.0)
    table = ranking([one, other], common_text=True)
    assert not isinstance(table, str)
    assert table.title == "by bits per byte"
    assert order(one, other) == ["b", "a"]


def test_masked_bases_of_several_tokenizers_get_no_common_figure() -> None:
    runs = [comparison(-0.2, -0.1, protocol=MASKED, tokenizer=name) for name in "tu"]
    assert ranking(runs, common_text=True) == (
        "no ranking: pseudo-perplexities of different tokenizers have no common figure"
    )


def test_a_perplexity_is_not_ranked_beside_a_pseudo_perplexity() -> None:
    runs = [comparison(-0.2, -0.1), comparison(-0.2, -0.1, protocol=MASKED)]
    assert "different quantities" in str(ranking(runs, common_text=True))


def test_each_runs_own_held_out_text_is_no_common_text() -> None:
    runs = [comparison(-0.2, -0.1, name=name) for name in "ab"]
    assert "--on FILE" in str(ranking(runs, common_text=False))


def test_a_comparison_across_protocols_is_refused() -> None:
    runs = [comparison(-0.2, -0.1), comparison(-0.2, -0.1, protocol=Protocol("rolling", 64))]
    with pytest.raises(FtError, match="one protocol for all runs"):
        ranking(runs, common_text=True)
