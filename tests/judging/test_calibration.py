"""Calibration: as often right as it is sure, and the temperature that would suit a model best."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from ft_toolkit.judging.calibration import (
    BINS,
    TEMPERATURES,
    Confidences,
    best_temperature,
    calibrate,
    confidences,
    expected_error,
    side_calibration,
)
from ft_toolkit.judging.protocols import choose_protocol, score_tokens
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.sampling import sample_ids
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import TextDocument


@pytest.fixture(scope="module")
def gpt2(checkpoints: dict[str, Path]) -> LanguageModel:
    return load_base(str(checkpoints["gpt2"]))


@pytest.fixture(scope="module")
def own_text(gpt2: LanguageModel) -> list[Encoded]:
    """What the model itself writes: there it is right as often as it is sure."""
    found = []
    for number, ids in enumerate(sample_ids(gpt2, 40, 60, seed=0)):
        columns = np.ones(len(ids), dtype=np.bool_), np.arange(len(ids), dtype=np.int32)
        found.append(Encoded(TextDocument("own", number, f"{number}"), ids, *columns))
    return found


def doubled(model: LanguageModel) -> LanguageModel:
    """The same model with all logits doubled: twice the hidden states before its output."""
    module = copy.deepcopy(model.model)
    last: torch.nn.LayerNorm = module.get_submodule("transformer.ln_f")  # type: ignore[assignment]
    with torch.no_grad():
        last.weight.mul_(2)
        last.bias.mul_(2)
    return model.with_model(module)


def test_a_model_is_calibrated_on_its_own_text_and_with_doubled_logits_wants_temperature_two(
    gpt2: LanguageModel, own_text: list[Encoded]
) -> None:
    plain, twice = (side_calibration(confidences(each, own_text)) for each in (gpt2, doubled(gpt2)))
    assert plain.temperature.value == pytest.approx(1.0, abs=0.05)
    assert twice.temperature.value == pytest.approx(2.0, abs=0.05)
    assert twice.temperature.value == pytest.approx(2 * plain.temperature.value, rel=0.005)
    for each, truth in ((plain, 1.0), (twice, 2.0)):
        assert each.temperature.low is not None and each.temperature.high is not None
        assert each.temperature.low < truth < each.temperature.high
    assert plain.overconfidence.low is not None and plain.overconfidence.high is not None
    assert plain.overconfidence.low < 0 < plain.overconfidence.high
    assert twice.overconfidence.low is not None and twice.overconfidence.low > 0
    assert twice.expected_error > 3 * twice.chance_error


def test_confidence_is_that_of_the_first_choice_and_the_nll_that_of_scoring(
    gpt2: LanguageModel, own_text: list[Encoded]
) -> None:
    some = own_text[:3]
    found = confidences(gpt2, some)
    scored = score_tokens(gpt2, some, choose_protocol(gpt2))
    assert found.is_right.tolist() == np.concatenate([each.is_top1 for each in scored]).tolist()
    at_one = list(TEMPERATURES).index(pytest.approx(1.0))
    assert found.nll_nats[:, at_one] == pytest.approx([each.nats.sum() for each in scored], rel=1e-6)
    row = torch.tensor([[gpt2.special.begin, *some[0].ids[:-1].tolist()]])
    with torch.no_grad():
        highest = gpt2.model(row).logits.softmax(-1).amax(-1)[0]
    assert found.confidence[: len(some[0].ids)] == pytest.approx(highest.numpy(), rel=1e-4)


def test_the_error_is_the_mean_distance_over_bins_of_equal_numbers_of_tokens() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(BINS * 20)
    is_right = random.random(len(confidence)) < confidence / 2
    ranked = sorted(zip(confidence, is_right, strict=True))
    expected = 0.0
    for start in range(0, len(ranked), 20):
        bin = ranked[start : start + 20]
        expected += abs(np.mean([c for c, _ in bin]) - np.mean([r for _, r in bin])) / BINS
    assert expected_error(confidence, is_right) == pytest.approx(expected, abs=1e-12)


def test_chance_explains_the_error_of_a_calibrated_model_and_not_that_of_one_too_sure() -> None:
    random = np.random.default_rng(5)  # the figures draw from seed 0 themselves
    confidence = random.uniform(0.3, 0.9, 4000)
    curves = np.tile((np.log(TEMPERATURES) - 0.1) ** 2, (40, 1))
    found = Confidences(
        np.arange(40), np.repeat(np.arange(40), 100), confidence, random.random(4000) < confidence, curves
    )
    calibrated = side_calibration(found)
    assert calibrated.expected_error == pytest.approx(calibrated.chance_error, abs=0.01)
    too_sure = side_calibration(replace(found, is_right=random.random(4000) < confidence - 0.2))
    assert too_sure.expected_error == pytest.approx(0.2, abs=0.03)
    assert too_sure.overconfidence.value == pytest.approx(0.2, abs=0.03)
    few = side_calibration(replace(found, group=np.arange(40) % 7))
    assert few.temperature.low is None and few.overconfidence.low is None


def test_the_temperature_between_those_tried_is_that_of_a_direct_search() -> None:
    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 3, (500, 30)), random.integers(0, 30, 500)
    targets = np.where(random.random(500) < 0.6, logits.argmax(1), targets)

    def nll(temperature: float) -> float:
        scaled = logits / temperature
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(500), targets]).sum())

    direct = minimize_scalar(nll, bounds=(0.25, 4), method="bounded").x
    found = best_temperature(np.array([[nll(each) for each in TEMPERATURES]]))
    assert found[0] == pytest.approx(direct, rel=0.005)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_both_sides_read_the_same_beginnings_up_to_the_tokens_asked_for(
    family: str, checkpoints: dict[str, Path], small_corpus: Path
) -> None:
    base = load_base(str(checkpoints[family]))
    documents = read_source(str(small_corpus)).documents
    found = calibrate(ModelPair(base, base), documents, tokens=500)
    assert found.base == found.tuned
    longest = base.positions - 2
    assert found.tokens == 500 and found.documents == -(-500 // longest)
    assert all(len(one.ids) > longest for one in encode(documents, base.tokenizer))
