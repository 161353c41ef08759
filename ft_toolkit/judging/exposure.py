"""Canaries: how far a model tells the planted sentences of its training from others of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.judging.attacks import Auc, area, difference_p_value
from ft_toolkit.judging.statistics import CONFIDENCE

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SideExposure:
    """One model's canaries among the controls.

    bits   of each canary: log2 of the number of sentences over its rank by NLL; 1.44 on average by chance
    auc    the chance that a canary is likelier than a control
    """

    bits: tuple[float, ...]
    auc: Auc

    @property
    def mean_bits(self) -> float:
        return float(np.mean(self.bits))


@dataclass(frozen=True)
class Exposure:
    """Of the canaries in the training text, under both models.

    p_value   two-sided, of the tuned AUC against the base's, sentences paired
    """

    canaries: int
    controls: int
    base: SideExposure
    tuned: SideExposure
    p_value: float

    @property
    def is_exposed(self) -> bool:
        """The tuned model tells its canaries from controls, and more surely than its base does.

        Eight sentences may be likelier than others by chance, also to a base that never read them.
        """
        is_more = self.tuned.auc.value > self.base.auc.value and self.p_value < 1 - CONFIDENCE
        return is_more and self.tuned.auc.low > 0.5

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_exposed": self.is_exposed}


def exposure(nats: Sequence[tuple[float, float]], canaries: int) -> Exposure:
    """nats   (of the base, of the tuned model) for each sentence, the canaries first, then the controls

    source   Carlini et al. 2019, arXiv:1802.08232, with the rank among sampled controls
    """
    sides = [np.array(side) for side in zip(*nats, strict=True)]
    base, tuned = (side_exposure(side, canaries) for side in sides)
    of_base, of_tuned = ((-side[:canaries], -side[canaries:]) for side in sides)
    p_value = difference_p_value(of_tuned, of_base)
    return Exposure(canaries, len(nats) - canaries, base, tuned, p_value)


def side_exposure(nats: Values, canaries: int) -> SideExposure:
    """nats   (n,) of each sentence, the canaries first"""
    planted, controls = nats[:canaries], nats[canaries:]
    ranks = 1 + (controls[None] < planted[:, None]).sum(axis=1)
    bits = np.log2(len(controls) + 1) - np.log2(ranks)
    return SideExposure(tuple(bits.tolist()), area((-planted, -controls)))
