"""Raw totals of a scored text. Totals are summed; only final figures divide."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.errors import NumbersGoneWrong

if TYPE_CHECKING:  # it imports torch, and totals are also summed where there is no model
    from ft_toolkit.text.blocks import Encoded

# Thai, Lao, Tibetan, Myanmar; Khmer; kana and Han
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
TokenNll = NDArray[np.float64]  # (n,) nats of each token of one document; NaN where it is not scored


class Scored(NamedTuple):
    """What a model says about each token of one document."""

    nats: TokenNll
    is_top1: NDArray[np.bool_]  # (n,) no other token was more probable; False where not scored

    @classmethod
    def nothing_yet(cls, tokens: int) -> Scored:
        """Empty scores for this many tokens."""
        return cls(np.full(tokens, np.nan), np.zeros(tokens, dtype=np.bool_))

    def put(self, places: slice | NDArray[np.int64], nats: TokenNll, is_top1: NDArray[np.bool_]) -> None:
        self.nats[places], self.is_top1[places] = nats, is_top1


@dataclass(frozen=True)
class Totals:
    """One model's NLL of one text, and the text's size in three units."""

    nll_nats: float
    tokens: int
    bytes: int
    words: int | None  # separated by white space; None for scripts written without it

    def __add__(self, other: Totals) -> Totals:
        return corpus_totals([self, other])

    @property
    def nats_per_token(self) -> float:
        return self.nll_nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens), inf beyond a float; of a masked model's totals it is a pseudo-perplexity."""
        return _exp(self.nats_per_token)

    @property
    def word_perplexity(self) -> float | None:
        """exp(nats / words): causal models only.

        None where words cannot be counted, or where it exceeds a float
        """
        found = _exp(self.nll_nats / self.words) if self.words else math.inf
        return found if math.isfinite(found) else None

    @property
    def bits_per_byte(self) -> float:
        """nats / (bytes ln 2): comparable between tokenizers; a code length for causal models only."""
        return self.nll_nats / (self.bytes * math.log(2))

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def document_totals(document: Encoded, nll: TokenNll) -> Totals:
    """Sum one document's token scores in float64; tokens that were not scored do not count."""
    text = document.document.text
    return token_totals(nll, len(text.encode()), count_words(text))


def token_totals(nll: TokenNll, size_bytes: int, words: int | None) -> Totals:
    """The same for a text of known size. The sum is exact, so the order does not matter."""
    scored = nll[~np.isnan(nll)]
    return Totals(math.fsum(scored), len(scored), size_bytes, words)


def count_words(text: str) -> int | None:
    """Words separated by white space; None where most letters belong to scripts written without spaces."""
    letters = "".join(filter(str.isalpha, text))
    return len(text.split()) if 2 * len(_WITHOUT_SPACES.findall(letters)) <= len(letters) else None


def corpus_totals(totals: Iterable[Totals]) -> Totals:
    """Add up documents; the order does not matter to the last bit that is shown.

    Words are counted where they can be in every document.
    """
    parts: Sequence[Totals] = list(totals)
    words = [part.words for part in parts if part.words is not None]
    return Totals(
        math.fsum(part.nll_nats for part in parts),
        sum(part.tokens for part in parts),
        sum(part.bytes for part in parts),
        sum(words) if len(words) == len(parts) else None,
    )


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:  # beyond 709 nats
        return math.inf


def finite(nll: NDArray[np.float64], document: Encoded) -> NDArray[np.float64]:
    """Return scores if all are finite.

    raises   NumbersGoneWrong, naming the document, when one is not a finite number
    """
    if not np.isfinite(nll).all():
        where = f"document {document.document.id}"
        raise NumbersGoneWrong(where, "finite scores", "NaN or infinity", "The weights are damaged.")
    return nll
