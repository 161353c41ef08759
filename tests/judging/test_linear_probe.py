"""A linear probe on features whose answer is known by hand, and against scikit-learn's own scores."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.judging.probe import Probe, macro_f1, macro_f1_change, predicted, probe

metrics = pytest.importorskip("sklearn.metrics", reason="the extra probe is not installed")
LABELS = ["bread", "cake", "soup"] * 10
ANSWERS = np.array([0, 1, 2] * 10)
NOISE = np.random.default_rng(0).normal(size=(30, 6))
TELLING = np.eye(3)[ANSWERS] + 0.01 * NOISE[:, :3]


@pytest.fixture(scope="module")
def found() -> Probe:
    return probe(NOISE, TELLING, LABELS, 3)


def test_features_that_separate_perfectly_are_right_in_every_text_and_noise_is_not(found: Probe) -> None:
    assert found.tuned.accuracy == found.tuned.macro_f1 == 1.0 and found.tuned.f1 == (1.0, 1.0, 1.0)
    assert found.base.accuracy < 0.6 and found.commonest_share == pytest.approx(1 / 3)
    assert found.verdict == "benefit" and found.lost == 0 and found.p_value < 1e-3
    assert found.accuracy_change.value == pytest.approx(1 - found.base.accuracy)
    low, high = found.accuracy_change.low, found.accuracy_change.high
    assert low is not None and high is not None and 0 < low < found.accuracy_change.value < high
    back = probe(TELLING, NOISE, LABELS, 3)
    assert back.verdict == "harm" and back.gained == 0 and back.lost == found.gained
    assert back.accuracy_change.value == -found.accuracy_change.value


def test_equal_features_and_shuffled_labels_have_no_benefit() -> None:
    same = probe(TELLING, TELLING, LABELS, 3)
    assert same.verdict == "no benefit" and same.gained == same.lost == 0 and same.p_value == 1.0
    assert same.accuracy_change.value == same.macro_f1_change.value == 0.0
    shuffled = [LABELS[place] for place in np.random.default_rng(1).permutation(30)]
    luck = probe(NOISE, TELLING, shuffled, 3)
    assert luck.verdict == "no benefit" and "no benefit: the interval includes zero" in luck.words
    assert luck.tuned.accuracy < 0.6


def test_macro_f1_is_that_of_scikit_learn_and_its_interval_is_paired() -> None:
    found = np.random.default_rng(2).integers(0, 3, 30)
    ours = macro_f1(ANSWERS, found, np.ones((1, 30)))[0]
    assert ours == pytest.approx(metrics.f1_score(ANSWERS, found, average="macro"))
    twice = np.random.default_rng(3).integers(0, 3, (1, 30)).astype(float)
    repeated = np.repeat(np.arange(30), twice[0].astype(int))
    again = metrics.f1_score(ANSWERS[repeated], found[repeated], average="macro")
    assert macro_f1(ANSWERS, found, twice)[0] == pytest.approx(again)
    change = macro_f1_change(ANSWERS, found, found, seed=0)
    assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0)  # unpaired draws would have a width


def test_no_text_is_answered_by_a_classifier_that_was_fitted_to_it() -> None:
    """Features that name each text and nothing else: whoever had seen it would be right."""
    answers = np.random.default_rng(4).integers(0, 2, 24)
    found, strengths = predicted(np.eye(24), answers, 3, 0)
    assert len(strengths) == 3 and (found >= 0).all()
    assert (found == answers).mean() < 0.7
    np.testing.assert_array_equal(found, predicted(np.eye(24), answers, 3, 0)[0])  # the same folds again


def test_the_scale_of_features_moves_nothing() -> None:
    once, scaled = predicted(TELLING, ANSWERS, 3, 0), predicted(TELLING * 1e-3 + 7, ANSWERS, 3, 0)
    np.testing.assert_array_equal(once[0], scaled[0])
    assert once[1] == scaled[1]


def test_its_json_is_strict_and_holds_every_label(found: Probe) -> None:
    whole: dict[str, Any] = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert whole["labels"] == ["bread", "cake", "soup"] and whole["verdict"] == "benefit"
    assert math.isfinite(whole["tuned"]["accuracy"]) and whole["limits"]


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [
        (["soup"] * 30, 5, "expected at least two labels, found 'soup' alone"),
        (
            ["soup"] * 28 + ["cake"] * 2,
            5,
            "expected at least 5 texts of each label, one a fold, found 2 of 'cake'",
        ),
        (LABELS, 2, "expected at least 3, found 2"),
    ],
)
def test_labels_that_cannot_be_probed_are_one_line(labels: list[str], folds: int, words: str) -> None:
    with pytest.raises(FtError, match=words):
        probe(NOISE, TELLING, labels, folds)
