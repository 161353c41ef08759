"""Seeded draws: numbers that depend on a key and a seed alone, never on the order or the machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def scrambled(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A seeded draw for every key: uniform 64-bit numbers that depend on key and seed alone."""
    return mixed(keys ^ mixed(np.array([seed], dtype=np.uint64)))


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood 2014): similar keys give unrelated numbers."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def unit(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Seeded draws as numbers in [0, 1)."""
    return (keys >> np.uint64(11)).astype(np.float64) / 2**53
