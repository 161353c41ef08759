"""Intervals worked out by hand, and what they promise about documents, memory and seeds."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_toolkit.judging import statistics
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.statistics import Difference, Gap, generalisation_gap, paired_difference

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
MEGABYTE = 1e6
# Ten documents: five of 100 and five of 300 tokens. The adapter adds -0.1 nats a token plus E, and E
# sums to zero. So the ratio is R = -200 / 2000 = -0.1, and E are the residuals change - R * tokens.
TEN_TOKENS = np.array([100] * 5 + [300] * 5)
E = np.array([2, -2, 4, -4, 0, 6, -6, 8, -8, 0], dtype=float)  # sum of squares 240
TEN_BASE = 4.0 * TEN_TOKENS
TEN_ADAPTER = TEN_BASE - 0.1 * TEN_TOKENS + E
TEN_ERROR = math.sqrt(10 / 9 * 240) / 2000  # 0.0081650
T_975, T_800 = 2.262157, 0.883404  # Student's t with 9 degrees of freedom, from a printed table


def simulated(documents: int, seed: int, effect_nats: float = -0.05) -> Columns:
    """Documents of log-normal lengths, each with an effect of its own and the noise of its tokens."""
    draw = np.random.default_rng([documents, seed])
    tokens = np.maximum(1, draw.lognormal(5, 0.8, documents).round()).astype(np.int64)
    noise = draw.normal(0, 0.1, documents) * tokens + draw.normal(0, 1, documents) * np.sqrt(tokens)
    base = 4.0 * tokens
    return base, base + effect_nats * tokens + noise, tokens


def test_ten_documents_have_the_interval_that_was_worked_out_by_hand() -> None:
    found = paired_difference(TEN_BASE, TEN_ADAPTER, TEN_TOKENS)
    assert found.method == "t, few documents"
    assert found.nats_per_token == pytest.approx(-0.1, rel=1e-12)
    assert found.low == pytest.approx(-0.1 - T_975 * TEN_ERROR, rel=1e-6)  # -0.118470
    assert found.high == pytest.approx(-0.1 + T_975 * TEN_ERROR, rel=1e-6)  # -0.081530
    assert found.smallest_visible == pytest.approx((T_975 + T_800) * TEN_ERROR, rel=1e-6)
    assert found.excludes_zero


def test_better_and_worse_are_counted_and_equal_documents_are_neither() -> None:
    base = np.array([5.0, 5.0, 5.0, 5.0])
    found = paired_difference(base, np.array([4.0, 5.0, 6.0, 4.5]), np.array([2, 2, 2, 2]))
    assert (found.better, found.worse, found.documents) == (2, 1, 4)


def test_the_difference_weighs_documents_by_their_tokens() -> None:
    # -1 nat over 1 token and 0 over 9: -0.1 a token, not the mean of -1 and 0
    found = paired_difference(np.array([2.0, 9.0]), np.array([1.0, 9.0]), np.array([1, 9]))
    assert found.nats_per_token == -0.1


@pytest.mark.parametrize(
    ("nats", "percent"), [(0.0, 0.0), (math.log(2), 100.0), (math.log(0.5), -50.0), (1e-12, 1e-10)]
)
def test_nats_become_a_change_of_perplexity_in_per_cent(nats: float, percent: float) -> None:
    assert as_percent(nats) == pytest.approx(percent, rel=1e-9)
    assert Difference(nats, None, None, "too few documents", 1, 1, 0, 0, None, None).percent == as_percent(
        nats
    )


@pytest.mark.parametrize("documents", [1, 2, 7, 8, 29, 30, 200])
def test_identical_models_differ_by_exactly_nothing(documents: int) -> None:
    base, _, tokens = simulated(documents, seed=0)
    found = paired_difference(base, base.copy(), tokens)
    assert (found.nats_per_token, found.percent, found.better, found.worse) == (0.0, 0.0, 0, 0)
    if documents >= 8:
        assert (found.low, found.high, found.smallest_visible) == (0.0, 0.0, 0.0)
    assert not found.excludes_zero


@pytest.mark.parametrize(
    ("documents", "method"),
    [
        (1, "too few documents"),
        (7, "too few documents"),
        (8, "t, few documents"),
        (29, "t, few documents"),
        (30, "bootstrap"),
        (31, "bootstrap"),
    ],
)
def test_the_number_of_documents_decides_the_method(documents: int, method: str) -> None:
    found = paired_difference(*simulated(documents, seed=0))
    assert (found.method, found.documents) == (method, documents)
    no_interval = method == "too few documents"
    assert (found.low is None, found.high is None, found.smallest_visible is None) == (no_interval,) * 3
    if not no_interval:
        assert found.low is not None and found.high is not None
        assert found.low < found.nats_per_token < found.high


def test_the_bootstrap_is_seeded_and_does_not_touch_the_common_generator() -> None:
    columns = simulated(40, seed=1)
    np.random.seed(5)
    first = paired_difference(*columns, seed=3)
    drawn = np.random.random()
    np.random.seed(6)
    again, other = paired_difference(*columns, seed=3), paired_difference(*columns, seed=4)
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    np.random.seed(5)
    assert np.random.random() == drawn


@given(st.floats(min_value=-0.5, max_value=0.5), st.integers(min_value=8, max_value=35))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_the_same_shift_everywhere_is_found_exactly(shift: float, documents: int) -> None:
    base, _, tokens = simulated(documents, seed=2)
    found = paired_difference(base, base + shift * tokens, tokens)
    for value in (found.nats_per_token, found.low, found.high):
        assert value == pytest.approx(shift, abs=1e-12)


def test_swapping_the_models_turns_the_sign_and_nothing_else() -> None:
    base, adapter, tokens = simulated(12, seed=3)
    there, back = paired_difference(base, adapter, tokens), paired_difference(adapter, base, tokens)
    assert there.low is not None and there.high is not None
    assert (back.nats_per_token, back.low, back.high) == (-there.nats_per_token, -there.high, -there.low)
    assert (back.better, back.worse) == (there.worse, there.better)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(-0.2, -0.1, True), (0.1, 0.2, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-0.1, 0.0, False)],
)
def test_an_interval_that_touches_zero_does_not_exclude_it(low: float, high: float, excludes: bool) -> None:
    assert Difference(0.0, low, high, "bootstrap", 30, 30, 0, 0, 0.1, 0.5).excludes_zero is excludes
    assert Gap(0.0, 0.0, low, high).excludes_zero is excludes


def test_both_methods_agree_where_they_meet() -> None:
    columns = simulated(30, seed=4)
    resampled = paired_difference(*columns)
    change, tokens = columns[1] - columns[0], columns[2]
    residual = change - resampled.nats_per_token * tokens
    error = math.sqrt(30 / 29 * float((residual**2).sum())) / float(tokens.sum())
    assert resampled.low is not None and resampled.high is not None
    assert (resampled.high - resampled.low) / 2 == pytest.approx(2.045 * error, rel=0.15)


@pytest.mark.parametrize("documents", [12, 60])
def test_the_interval_holds_the_truth_about_95_times_in_100(
    documents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 1000)
    held = 0
    for run in range(200):
        found = paired_difference(*simulated(documents, seed=run, effect_nats=-0.05), seed=run)
        assert found.low is not None and found.high is not None
        held += found.low <= -0.05 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def peak_megabytes(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_hundred_thousand_documents_need_no_more_than_200_megabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the first 200 draws tell: held at once they would be 640 megabytes
    monkeypatch.setattr(statistics, "DRAWS", 200)
    columns = simulated(100_000, seed=0)
    assert peak_megabytes(lambda: paired_difference(*columns)) < 200


@pytest.mark.slow
def test_a_hundred_thousand_documents_with_all_draws_need_no_more_than_200_megabytes() -> None:
    columns = simulated(100_000, seed=0)
    assert peak_megabytes(lambda: paired_difference(*columns)) < 200


def test_a_gain_that_is_the_same_on_both_texts_leaves_no_excess() -> None:
    base, _, tokens = simulated(20, seed=5)
    harder, _, more_tokens = simulated(25, seed=6)
    harder = harder * 1.25
    found = generalisation_gap(
        (harder, harder - 0.2 * more_tokens, more_tokens), (base, base - 0.2 * tokens, tokens)
    )
    assert found.base_nats == pytest.approx(1.0)  # 5 against 4 nats a token: the held-out text is harder
    assert found.adapter_nats == pytest.approx(1.0)
    assert found.excess_nats == pytest.approx(0.0, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_learning_the_training_text_by_heart_is_a_positive_excess() -> None:
    base = 4.0 * TEN_TOKENS
    found = generalisation_gap(
        (base, base - 0.1 * TEN_TOKENS, TEN_TOKENS), (base, base - 0.6 * TEN_TOKENS, TEN_TOKENS)
    )
    assert (found.base_nats, found.adapter_nats) == pytest.approx((0.0, 0.5))
    assert found.excess_nats == pytest.approx(0.5)
    assert found.excludes_zero


def test_the_interval_of_the_gap_is_the_one_worked_out_by_hand() -> None:
    # both sets have the error of the ten documents, so that of the gap is sqrt(2) times it
    held_out = (TEN_BASE, TEN_ADAPTER, TEN_TOKENS)
    train = (TEN_BASE, TEN_ADAPTER - 0.3 * TEN_TOKENS, TEN_TOKENS)
    found = generalisation_gap(held_out, train)
    reach = T_975 * math.sqrt(2) * TEN_ERROR
    assert found.excess_nats == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach), rel=1e-6)
    assert found.smallest_visible == pytest.approx(reach + T_800 * math.sqrt(2) * TEN_ERROR, rel=1e-6)


@pytest.mark.parametrize(
    ("held_out", "train", "has_interval"), [(7, 50, False), (50, 7, False), (8, 8, True)]
)
def test_a_gap_over_too_few_documents_has_no_interval(held_out: int, train: int, has_interval: bool) -> None:
    found = generalisation_gap(simulated(held_out, seed=7), simulated(train, seed=8))
    assert (found.low is not None, found.high is not None) == (has_interval, has_interval)
    if not has_interval:
        assert not found.excludes_zero


def test_the_sign_flip_p_value_is_the_share_of_sign_patterns_as_far_from_zero() -> None:
    change = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0])  # sum 20
    patterns = np.array(list(itertools.product([-1, 1], repeat=8)))
    exact = np.mean(np.abs(patterns @ change) >= 20)
    found = paired_difference(np.zeros(8), change, np.ones(8, dtype=np.int64))
    assert found.p_value == pytest.approx(exact, abs=0.02)  # 5,000 draws: a standard error of 0.007


def test_identical_models_have_a_p_value_of_one() -> None:
    same = np.arange(40.0)
    assert paired_difference(same, same, np.ones(40, dtype=np.int64)).p_value == 1.0


def test_a_p_value_is_never_zero_and_too_few_documents_have_none() -> None:
    ones = np.ones(60, dtype=np.int64)
    assert paired_difference(np.zeros(60), -np.ones(60), ones).p_value == 1 / (statistics.DRAWS + 1)
    assert paired_difference(np.zeros(7), -np.ones(7), ones[:7]).p_value is None


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01; 2 x 0.03; and never less than the one before
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_multiplies_by_the_number_still_open(p_values: list[float], adjusted: list[float]) -> None:
    assert statistics.holm(p_values) == pytest.approx(adjusted)
