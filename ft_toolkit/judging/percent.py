"""Nats to per cent, apart from statistics.py so that this needs no scipy."""

from __future__ import annotations

import numpy as np


def as_percent(nats_per_token: float) -> float:
    """A difference in nats a token as a change of perplexity in per cent; inf beyond what a float holds."""
    with np.errstate(over="ignore"):
        return float(100 * np.expm1(nats_per_token))
