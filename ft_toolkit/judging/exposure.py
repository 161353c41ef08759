"""Canaries: how far a model tells the planted sentences of its training from others of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.judging.attacks import Auc, area

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
    """Of the canaries in the training text, under both models."""

    canaries: int
    controls: int
    base: SideExposure
    tuned: SideExposure

    @property
    def is_exposed(self) -> bool:
        """The tuned model tells its canaries from controls, more surely than its base does."""
        return self.tuned.auc.low > 0.5 and self.tuned.auc.value > self.base.auc.value

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_exposed": self.is_exposed}


def exposure(nats: Sequence[tuple[float, float]], canaries: int) -> Exposure:
    """nats   (of the base, of the tuned model) for each sentence, the canaries first, then the controls

    source   Carlini et al. 2019, arXiv:1802.08232, with the rank among sampled controls
    """
    base, tuned = (side_exposure(np.array(side), canaries) for side in zip(*nats, strict=True))
    return Exposure(canaries, len(nats) - canaries, base, tuned)


def side_exposure(nats: Values, canaries: int) -> SideExposure:
    """nats   (n,) of each sentence, the canaries first"""
    planted, controls = nats[:canaries], nats[canaries:]
    ranks = 1 + (controls[None] < planted[:, None]).sum(axis=1)
    bits = np.log2(len(controls) + 1) - np.log2(ranks)
    return SideExposure(tuple(bits.tolist()), area((-planted, -controls)))
