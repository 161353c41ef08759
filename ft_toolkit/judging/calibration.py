"""Calibration: whether a model is right as often as it is sure, and the temperature that would suit it best.

Token scores hold neither, so the model reads the beginnings of held-out documents once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from ft_toolkit.judging import causal, masked
from ft_toolkit.judging.protocols import COVERING_GROUPS, SEED
from ft_toolkit.judging.statistics import CONFIDENCE, TOO_FEW_DOCUMENTS, Estimate, ratio_of_sums
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.temperatures import TemperatureScorer
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.documents import Document
from ft_toolkit.text.splitting import sample

TOKENS = 8_192  # read of the held-out text, where nobody asks for more
DOCUMENT_TOKENS = 256  # of each document, from its beginning
BINS = 15  # of equal numbers of tokens
DRAWS = 1000
TEMPERATURES = np.exp(np.linspace(-np.log(4), np.log(4), 25))  # from 1/4 to 4; 1 is among them
_FINE = np.linspace(-np.log(4), np.log(4), 1601)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class SideCalibration:
    """One model's calibration.

    expected_error   mean distance of confidence and accuracy over bins of equal numbers of tokens (ECE)
    chance_error     what a perfectly calibrated model would show with these confidences: no ECE is zero
    overconfidence   mean confidence in the first choice minus the share in which it is right
    temperature      divides the logits for the lowest NLL; above 1 the model is too sure
    """

    expected_error: float
    chance_error: float
    overconfidence: Estimate
    temperature: Estimate


@dataclass(frozen=True)
class Calibration:
    """Both sides on the same text; counted in the base's tokens."""

    documents: int
    tokens: int
    base: SideCalibration
    tuned: SideCalibration

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Confidences:
    """One model's predictions, documents one after the other."""

    group: NDArray[np.int64]  # (documents,)
    document: NDArray[np.int64]  # (n,) of each token
    confidence: Values  # (n,) probability of the first choice
    is_right: NDArray[np.bool_]  # (n,)
    nll_nats: Values  # (documents, temperatures)


def calibrate(
    pair: ModelPair, documents: Sequence[Document], tokens: int = TOKENS, seed: int = SEED
) -> Calibration:
    """Read at most so many tokens with the tuned model and with its base.

    documents   unseen text; those that are read are chosen by a hash of their text
    """
    tuned = confidences(pair.tuned, _beginnings(pair.tuned, documents, tokens))
    with pair.base_side():
        base = confidences(pair.base, _beginnings(pair.base, documents, tokens))
    sides = side_calibration(base, seed), side_calibration(tuned, seed)
    return Calibration(len(base.group), len(base.confidence), *sides)


def confidences(model: LanguageModel, documents: Sequence[Encoded]) -> Confidences:
    """Every token of documents, as judging reads them; a masked model's by covering."""
    scorer = TemperatureScorer(model, TEMPERATURES.tolist())
    number_of = {group: n for n, group in enumerate(dict.fromkeys(one.document.group for one in documents))}
    groups = np.array([number_of[one.document.group] for one in documents])
    found, nll_nats = [], []
    score = _reader(model)
    for one in documents:  # each by itself: the scorer's sums are then its own
        scorer.restart()
        found.append(score(scorer, one))
        nll_nats.append(scorer.nll_nats.numpy())
    asked = [~np.isnan(surprise) for surprise, _ in found]
    surprises = np.concatenate([each[mask] for (each, _), mask in zip(found, asked, strict=True)])
    is_right = np.concatenate([each[mask] for (_, each), mask in zip(found, asked, strict=True)])
    document = np.repeat(np.arange(len(documents)), [int(mask.sum()) for mask in asked])
    return Confidences(groups, document, np.exp(-surprises), is_right, np.array(nll_nats))


def side_calibration(found: Confidences, seed: int = SEED) -> SideCalibration:
    """The figures of one side, with 95 % intervals over documents or the files that they are pieces of."""
    random = np.random.default_rng(seed)
    drawn = random.random((20, len(found.confidence))) < found.confidence
    chance = float(np.mean([expected_error(found.confidence, each) for each in drawn]))
    member = np.unique(found.group[found.document], return_inverse=True)[1]
    surplus = np.bincount(member, found.confidence - found.is_right).astype(np.float64)
    return SideCalibration(
        expected_error(found.confidence, found.is_right),
        chance,
        ratio_of_sums(surplus, np.bincount(member)),
        _temperature(found, random),
    )


def expected_error(confidence: Values, is_right: NDArray[np.bool_]) -> float:
    """Expected calibration error over BINS of equal numbers of tokens (Nguyen & O'Connor 2015)."""
    order = np.argsort(confidence, kind="stable")
    surplus = confidence[order] - is_right[order]
    return float(sum(abs(part.sum()) for part in np.array_split(surplus, BINS)) / len(order))


def best_temperature(nll_nats: Values) -> Values:
    """(draws,) the temperature of the lowest NLL, of (draws, temperatures) sums.

    Between the temperatures that were tried a cubic spline over their logarithm is the NLL.
    """
    curves = CubicSpline(np.log(TEMPERATURES), nll_nats, axis=1)(_FINE)
    best: Values = np.exp(_FINE[curves.argmin(axis=1)])
    return best


def _temperature(found: Confidences, random: np.random.Generator) -> Estimate:
    groups, place = np.unique(found.group, return_inverse=True)
    sums = np.zeros((len(groups), len(TEMPERATURES)))
    np.add.at(sums, place, found.nll_nats)
    value = float(best_temperature(sums.sum(axis=0)[None])[0])
    n = len(groups)
    if n < TOO_FEW_DOCUMENTS:
        return Estimate(value, None, None, "too few documents")
    weights = random.multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(best_temperature(weights @ sums), [tail, 100 - tail])
    return Estimate(value, float(low), float(high), "bootstrap")


def _beginnings(model: LanguageModel, documents: Sequence[Document], tokens: int) -> list[Encoded]:
    """Beginnings of documents until so many tokens are chosen; one document at least."""
    longest = min(DOCUMENT_TOKENS, model.positions - 2)
    found: list[Encoded] = []
    left = tokens
    for one in encode(sample(documents, tokens), model.tokenizer):
        if left <= 0:
            break
        size = min(longest, left) if found else longest
        ids, is_fresh, word_ids = one.ids[:size], one.is_fresh[:size], one.word_ids[:size]
        found.append(replace(one, ids=ids, is_fresh=is_fresh, word_ids=word_ids))
        left -= len(ids)
    return found


Read = Callable[[TemperatureScorer, Encoded], tuple[Values, NDArray[np.bool_]]]


def _reader(model: LanguageModel) -> Read:
    special = model.special
    if model.family.objective == "causal":
        cut = causal.sliding(model.positions, max(1, model.positions // 2))
        return lambda scorer, one: causal.score_documents(scorer, [one], special.begin, cut)[0]
    plan = masked.in_windows(model.positions, masked.covering(COVERING_GROUPS, SEED))
    return lambda scorer, one: masked.score_documents(scorer, [one], special, plan)[0]
