"""Raw totals of a scored text. Totals add; only the end divides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.errors import NumbersGoneWrong
from ft_toolkit.text.blocks import Encoded

TokenNll = NDArray[np.float64]  # (n,) nats of each token of one document, in its order


@dataclass(frozen=True)
class Totals:
    """What one model paid for one text, and the text's size in three units."""

    nll_nats: float
    tokens: int
    bytes: int
    words: int

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.nll_nats + other.nll_nats,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            self.words + other.words,
        )

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens): of a masked model's totals it is a pseudo-perplexity."""
        return math.exp(self.nll_nats / self.tokens)

    @property
    def nats_per_token(self) -> float:
        return self.nll_nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """nats / (bytes ln 2): the figure that tokenizers share; a code length for causal models only."""
        return self.nll_nats / (self.bytes * math.log(2))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def document_totals(document: Encoded, nll: TokenNll) -> Totals:
    """Sum one document's token scores in float64.

    raises   NumbersGoneWrong, naming the document, when a score is not finite
    """
    if not np.isfinite(nll).all():
        raise NumbersGoneWrong(
            f"document {document.document.id}", "finite scores", "NaN or infinity", "The weights are damaged."
        )
    text = document.document.text
    return Totals(math.fsum(nll), len(nll), len(text.encode()), len(text.split()))


def corpus_totals(totals: Iterable[Totals]) -> Totals:
    """Add up documents; the order does not matter to the last bit that is shown."""
    parts: Sequence[Totals] = list(totals)
    return Totals(
        math.fsum(part.nll_nats for part in parts),
        sum(part.tokens for part in parts),
        sum(part.bytes for part in parts),
        sum(part.words for part in parts),
    )
