"""Raw totals of a scored text. Totals add; only the end divides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.errors import NumbersGoneWrong
from ft_toolkit.text.blocks import Encoded

TokenNll = NDArray[np.float64]  # (n,) nats of each token of one document; NaN where the protocol asks nothing


@dataclass(frozen=True)
class Totals:
    """What one model paid for one text, and the text's size in three units."""

    nll_nats: float
    tokens: int
    bytes: int
    words: int

    def __add__(self, other: Totals) -> Totals:
        return corpus_totals([self, other])

    @property
    def nats_per_token(self) -> float:
        return self.nll_nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens): of a masked model's totals it is a pseudo-perplexity."""
        return math.exp(self.nats_per_token)

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words), words as white space parts them: causal models only."""
        return math.exp(self.nll_nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        """nats / (bytes ln 2): the figure that tokenizers share; a code length for causal models only."""
        return self.nll_nats / (self.bytes * math.log(2))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def document_totals(document: Encoded, nll: TokenNll) -> Totals:
    """Sum one document's token scores in float64; tokens that were not asked for do not count."""
    scored = nll[~np.isnan(nll)]
    text = document.document.text
    return Totals(math.fsum(scored), len(scored), len(text.encode()), len(text.split()))


def corpus_totals(totals: Iterable[Totals]) -> Totals:
    """Add up documents; the order does not matter to the last bit that is shown."""
    parts: Sequence[Totals] = list(totals)
    return Totals(
        math.fsum(part.nll_nats for part in parts),
        sum(part.tokens for part in parts),
        sum(part.bytes for part in parts),
        sum(part.words for part in parts),
    )


def finite(nll: NDArray[np.float64], document: Encoded) -> NDArray[np.float64]:
    """Pass on scores that a model gave.

    raises   NumbersGoneWrong, naming the document, when one is not a finite number
    """
    if not np.isfinite(nll).all():
        where = f"document {document.document.id}"
        raise NumbersGoneWrong(where, "finite scores", "NaN or infinity", "The weights are damaged.")
    return nll
