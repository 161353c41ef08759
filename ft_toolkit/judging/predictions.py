"""What changed in the predictions themselves, as llama.cpp prints it, with intervals over documents.

From scores alone, so without torch: how far the two sides' predictions are apart (kinds "drift" and
"divergence"), and what became of the probability of the token that was there (every other kind).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ft_toolkit.judging.statistics import Estimate, by_group, percentiles, ratio_of_sums
from ft_toolkit.judging.token_scores import CorpusScores

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Divergence:
    """KL(base ‖ tuned) in nats a token, and how often both sides' likeliest word is the same."""

    corpus: str
    documents: int
    tokens: int
    kl_nats: Estimate
    same_top1: Estimate  # share of the tokens

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Divergence:
        """What asdict gave."""
        estimates = {name: Estimate(**values[name]) for name in ("kl_nats", "same_top1")}
        return cls(**dict(values) | estimates)


@dataclass(frozen=True)
class TrueTokenChange:
    """Probability of the token that was there, under the tuned model minus under its base."""

    mean: Estimate
    percentiles: dict[str, Estimate]  # of the tokens, by the percentile: "1", "5" … "99"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrueTokenChange:
        """What asdict gave."""
        found = {name: Estimate(**each) for name, each in values["percentiles"].items()}
        return cls(Estimate(**values["mean"]), found)


def divergence_of(scored: CorpusScores) -> Divergence:
    """The figures of a corpus of kind "drift" or "divergence"."""
    documents = [one for one, (base, _) in zip(scored.documents, scored.totals(), strict=True) if base.tokens]
    nats = np.array([np.nansum(one.adapter.nats) for one in documents])
    same = np.array([float(one.adapter.is_top1.sum()) for one in documents])
    tokens = np.array([int((~np.isnan(one.base.nats)).sum()) for one in documents])
    nats, same, tokens = by_group([one.group for one in documents], (nats, same, tokens))
    kl_nats = _within(ratio_of_sums(nats, tokens), math.inf)
    same_top1 = _within(ratio_of_sums(same, tokens), 1.0)
    return Divergence(scored.corpus, len(documents), int(tokens.sum()), kl_nats, same_top1)


def _within(found: Estimate, most: float) -> Estimate:
    """From 0 to `most`: rounding, or the t interval of few documents, may reach beyond."""
    low, high = (None if end is None else min(max(end, 0.0), most) for end in (found.low, found.high))
    return Estimate(min(max(found.value, 0.0), most), low, high, found.method)


def true_token_change(scored: CorpusScores) -> TrueTokenChange:
    """What became of the true token's probability, where both sides read the same tokens."""
    changes = [np.exp(-one.adapter.nats) - np.exp(-one.base.nats) for one in scored.documents]
    members = [np.full(len(each), one.group) for each, one in zip(changes, scored.documents, strict=True)]
    change, member = np.concatenate(changes), np.concatenate(members)
    is_scored = ~np.isnan(change)
    change, member = change[is_scored], np.unique(member[is_scored], return_inverse=True)[1]
    mean = ratio_of_sums(np.bincount(member, change).astype(np.float64), np.bincount(member))
    found = percentiles(change, member, PERCENTILES)
    return TrueTokenChange(mean, {f"{p}": each for p, each in zip(PERCENTILES, found, strict=True)})
