"""What changed in the predictions: figures worked out by hand, over documents and their groups."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from ft_toolkit.judging.predictions import Divergence, TrueTokenChange, divergence_of, true_token_change
from ft_toolkit.judging.statistics import percentiles, ratio_of_sums
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Kind, Side

NAN = float("nan")


def side(nats: list[float], top1: list[bool] | None = None) -> Side:
    flags = np.array(top1 if top1 is not None else [False] * len(nats))
    return Side(None, np.ones(len(nats), dtype=np.bool_), np.array(nats), flags)


def scored(kind: Kind, pairs: list[tuple[Side, Side]], groups: list[int] | None = None) -> CorpusScores:
    numbers = groups or list(range(len(pairs)))
    documents = [
        DocumentScores(f"t.md#{n}", group, 10, 2, base, adapter)
        for n, (group, (base, adapter)) in enumerate(zip(numbers, pairs, strict=True))
    ]
    return CorpusScores("texts", kind, documents, 1.0, 0.0)


def test_a_divergence_is_the_sum_over_its_positions_and_not_the_mean_of_documents() -> None:
    zero = side([0.0, 0.0, NAN], [True, True, False])
    pairs = [(zero, side([0.5, 0.1, NAN], [True, False, False])), (side([0.0]), side([0.0], [True]))]
    found = divergence_of(scored("drift", pairs))
    assert (found.documents, found.tokens) == (2, 3)
    assert found.kl_nats.value == pytest.approx(0.2) and found.same_top1.value == pytest.approx(2 / 3)
    assert (found.kl_nats.low, found.kl_nats.method) == (None, "too few documents")


def test_a_document_without_a_position_that_was_compared_counts_for_nothing() -> None:
    pairs = [(side([NAN]), side([NAN])), (side([0.0]), side([0.25], [True]))]
    found = divergence_of(scored("drift", pairs))
    assert (found.documents, found.tokens, found.kl_nats.value) == (1, 1, 0.25)


def test_the_true_tokens_probability_changes_by_what_its_nats_say() -> None:
    log = [-np.log(p) for p in (0.5, 0.2)]
    more = [-np.log(p) for p in (0.75, 0.1)]
    pairs = [(side([log[0], NAN]), side([more[0], NAN]))] * 8 + [(side([log[1]]), side([more[1]]))] * 2
    found = true_token_change(scored("held-out", pairs))
    assert found.mean.value == pytest.approx((8 * 0.25 - 2 * 0.1) / 10)
    assert found.mean.low is not None and found.mean.low < found.mean.value
    values = {name: each.value for name, each in found.percentiles.items()}
    assert values["5"] == pytest.approx(-0.1) and values["25"] == values["99"] == pytest.approx(0.25)
    assert list(values) == ["1", "5", "25", "50", "75", "95", "99"]


def test_pieces_of_one_file_are_resampled_as_one() -> None:
    pairs = [(side([1.0]), side([1.0 - n / 40])) for n in range(16)]
    alone, in_files = (
        true_token_change(scored("held-out", pairs, groups)) for groups in (None, [n // 4 for n in range(16)])
    )
    assert alone.mean.value == pytest.approx(in_files.mean.value, rel=1e-12)  # summed in another order
    assert alone.mean.low is not None
    assert in_files.mean.method == in_files.percentiles["50"].method == "too few documents"


def test_figures_are_read_back_as_they_were() -> None:
    pairs = [(side([0.0, 0.0], [True] * 2), side([0.1 * n, 0.2], [True, False])) for n in range(9)]
    drift, change = divergence_of(scored("drift", pairs)), true_token_change(scored("held-out", pairs))
    assert Divergence.from_dict(json.loads(json.dumps(asdict(drift)))) == drift
    assert TrueTokenChange.from_dict(json.loads(json.dumps(asdict(change)))) == change


def test_a_divergence_is_never_below_zero_nor_a_share_above_one() -> None:
    zero = side([0.0], [True])
    pairs = [(zero, side([0.5], [False]))] + [(zero, side([-1e-9], [True]))] * 8
    found = divergence_of(scored("drift", pairs))
    assert found.kl_nats.low == 0.0 and found.same_top1.high == 1.0  # Student's t would reach beyond
    assert divergence_of(scored("drift", pairs[1:])).kl_nats.value == 0.0


def test_a_percentile_counts_ranks_and_not_rounding() -> None:
    (found,) = percentiles(np.arange(100.0), np.arange(100), [7])
    assert found.value == 6.0  # the seventh value, though 0.07 * 100 is above 7


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 75, 99, 100])
def test_a_percentile_is_the_smallest_value_with_that_share_at_or_below_it(percent: int) -> None:
    values = np.random.default_rng(percent).normal(size=501)
    (found,) = percentiles(values, np.arange(501) // 10, [percent])
    assert found.value == np.quantile(values, percent / 100, method="inverted_cdf")
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


def test_an_interval_of_a_percentile_over_documents_holds_the_truth_where_one_over_tokens_would_not() -> None:
    draw, runs, held, held_by_token = np.random.default_rng(0), 300, 0, 0
    for _ in range(
        runs
    ):  # 60 documents of 40 tokens, half of the variance between documents: the median is 0
        values = (draw.normal(size=(60, 1)) + draw.normal(size=(60, 40))).ravel()
        (found,) = percentiles(values, np.arange(2400) // 40, [50])
        (by_token,) = percentiles(values, np.arange(2400), [50])
        assert found.low is not None and found.high is not None
        assert by_token.low is not None and by_token.high is not None
        held += found.low <= 0 <= found.high
        held_by_token += by_token.low <= 0 <= by_token.high
    assert 0.90 <= held / runs <= 0.98
    assert held_by_token / runs < 0.6


def test_amounts_per_token_have_the_interval_of_paired_differences() -> None:
    tokens = np.array([100] * 5 + [300] * 5)
    found = ratio_of_sums(0.5 * tokens, tokens)
    assert (found.value, found.method) == (0.5, "t, few documents")
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)
    assert ratio_of_sums(np.ones(30), np.full(30, 4)).method == "bootstrap"
