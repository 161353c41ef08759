"""Texts that a causal base writes, kept beside its scores: drawing them takes seconds at every start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ft_toolkit.judging.scoring import identity
from ft_toolkit.judging.store import Store
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.sampling import Ids, sample_ids


def kept_samples(
    base: LanguageModel,
    size: tuple[int, int],
    seed: int,
    cache: Path | None,
    say: Callable[[str], object] = lambda words: None,
) -> list[Ids]:
    """As sampling.sample_ids; read where the same was drawn before.

    base     with its adapter switched off
    size     (number of samples, tokens of the longest)
    cache    file of the bases' scores; None: nothing is kept
    """
    count, tokens = size
    if cache is None:
        return sample_ids(base, count, tokens, seed)
    drawn_from = identity(base) | {"samples": [count, tokens, seed]}
    return Store(cache, say).samples(drawn_from, lambda: sample_ids(base, count, tokens, seed))
