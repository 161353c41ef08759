"""A protocol names how texts are scored; it moves the number, so it stands beside every result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from ft_toolkit.judging import causal, masked
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.adapters import Base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.text.blocks import Encoded

COVERING_GROUPS = 7  # one token in seven is hidden at a time: about the share a masked model was trained at
COVERING_SEED = 0


@dataclass(frozen=True)
class Protocol:
    """`document`: causal, each document alone. `covering`: masked, K groups of hidden tokens."""

    name: Literal["document", "covering"]
    window_tokens: int
    stride_tokens: int | None = None
    groups: int | None = None

    @property
    def metric(self) -> str:
        """Perplexity and pseudo-perplexity are different quantities and never share a name."""
        return "perplexity" if self.name == "document" else "pseudo-perplexity"

    def as_dict(self) -> dict[str, object]:
        return {"metric": self.metric} | {k: v for k, v in asdict(self).items() if v is not None}

    def passes_per_token(self) -> int:
        """How often a document is read."""
        return self.groups or 1


def default_protocol(base: Base) -> Protocol:
    """What a base is scored by unless told otherwise."""
    if base.family.objective == "causal":
        return Protocol("document", base.positions, stride_tokens=base.positions // 2)
    return Protocol("covering", base.positions, groups=COVERING_GROUPS)


def score(
    losses: TokenLosses,
    documents: Sequence[Encoded],
    base: Base,
    protocol: Protocol,
    *,
    batch_tokens: int = causal.BATCH_TOKENS,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[TokenNll]:
    """NLL in nats of every token, one (n,) array a document."""
    if protocol.stride_tokens is not None:
        return causal.score_documents(
            losses,
            documents,
            base.special.begin,
            protocol.window_tokens,
            protocol.stride_tokens,
            batch_tokens=batch_tokens,
            advance=advance,
        )
    return masked.score_documents(
        losses,
        documents,
        base.special,
        protocol.window_tokens,
        protocol.groups or COVERING_GROUPS,
        COVERING_SEED,
        batch_tokens=batch_tokens,
        advance=advance,
    )
