"""Texts that a causal base writes, kept beside its scores: drawing them takes seconds at every start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
    drawing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[Ids]:
    """As sampling.sample_ids; read where the same was drawn before.

    base     with its adapter switched off
    size     (number of samples, tokens of the longest)
    cache    file of the bases' scores; None: nothing is kept
    drawing  surrounds the work, where there is any
    """
    count, tokens = size

    def draw() -> list[Ids]:
        with drawing():
            return sample_ids(base, count, tokens, seed)

    if cache is None:
        return draw()
    drawn_from = identity(base) | {"samples": [count, tokens, seed]}
    return Store(cache, say).samples(drawn_from, draw)
