"""Scoring protocols. The protocol changes the number, so every result names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ft_toolkit.errors import FtError

if TYPE_CHECKING:  # most of these import torch, which reading a protocol must not
    from transformers import PreTrainedTokenizerBase

    from ft_toolkit.judging.share import Share
    from ft_toolkit.judging.totals import Scored, TokenNll
    from ft_toolkit.models.language_model import LanguageModel
    from ft_toolkit.sections import Judging
    from ft_toolkit.text.blocks import Encoded
    from ft_toolkit.text.documents import Document

CausalName = Literal["document", "rolling", "concatenated"]
MaskedName = Literal["word-l2r", "pll", "covering"]
COVERING_GROUPS = 7  # one token in seven is masked at a time: close to the 15 % of BERT's training
SEED = 0  # of the covering groups and of the sample
EXACT_TOKENS = 20_000  # one at a time, more than this many tokens are sampled unless exact is asked for


@dataclass(frozen=True)
class Protocol:
    """How a text is scored; None for a parameter that this protocol does not have."""

    name: CausalName | MaskedName
    window_tokens: int
    stride_tokens: int | None = None
    groups: int | None = None
    exact: bool | None = None  # masked, one at a time: score every token, however many there are
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def metric(self) -> str:
        """Perplexity and pseudo-perplexity are different quantities and never share a name."""
        return "perplexity" if self.name in get_args(CausalName) else "pseudo-perplexity"

    @property
    def is_approximate(self) -> bool:
        """Whether documents share context, so that an interval over documents is approximate."""
        return self.name == "concatenated"

    def words(self) -> str:
        """Name and parameters, for a heading: covering(7), document(1024/512)."""
        if self.groups:
            return f"{self.name}({self.groups})"
        size = f"{self.window_tokens}/{self.stride_tokens}" if self.stride_tokens else f"{self.window_tokens}"
        return f"{self.name}({size})"

    def as_dict(self) -> dict[str, object]:
        return {"metric": self.metric} | {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """What as_dict wrote."""
        return cls(**{name: value for name, value in values.items() if name != "metric"})


@dataclass(frozen=True)
class How:
    """How to score; None: as the run's recipe says."""

    protocol: str | None = None
    window: int | None = None
    stride: int | None = None
    exact: bool = False
    precision: str = "float32"
    device: str = "auto"


def protocol_of(base: LanguageModel, own: Judging, how: How) -> Protocol:
    """The recipe's protocol with the command line's changes; raises as choose_protocol."""
    return choose_protocol(
        base,
        how.protocol or own.protocol,
        how.window or own.window,
        how.stride or own.stride,
        exact=how.exact,
        precision=how.precision,
    )


def choose_protocol(
    base: LanguageModel,
    name: str = "auto",
    window: int | None = None,
    stride: int | None = None,
    *,
    exact: bool = False,
    precision: str = "float32",
) -> Protocol:
    """The protocol asked for, checked against what the base can read.

    raises   FtError for a protocol of the other objective, or a window or stride that does not fit
    """
    is_causal = base.family.objective == "causal"
    names: tuple[str, ...] = get_args(CausalName if is_causal else MaskedName)
    chosen = names[0] if name == "auto" else name
    if chosen not in names:
        found = f"{name}, and {base.name} is {base.family.objective}"
        raise FtError("protocol", f"one of {', '.join(names)}", found, "Leave it at auto.")
    window = base.positions if window is None else window
    if not 3 <= window <= base.positions:
        fix = "Change judging.window or --window."
        raise FtError("window", f"3 to {base.positions} tokens for {base.name}", window, fix)
    if stride is not None and chosen not in ("document", "concatenated"):
        fix = "Leave judging.stride or --stride out."
        raise FtError("stride", "a protocol with overlapping windows", chosen, fix)
    if stride is not None and not 1 <= stride <= window:
        fix = "Change judging.stride or --stride."
        raise FtError("stride", f"1 to {window}, the window", stride, fix)
    if precision not in ("float32", "bfloat16"):
        raise FtError("--precision", "float32 or bfloat16", precision, "Leave it at float32.")
    overlap = window // 2 if stride is None else stride
    return Protocol(
        chosen,  # type: ignore[arg-type]  # checked against the literals just above
        window,
        stride_tokens=overlap if chosen in ("document", "concatenated") else None,
        groups=COVERING_GROUPS if chosen == "covering" else None,
        exact=exact if chosen in ("pll", "word-l2r") else None,
        precision=precision,  # type: ignore[arg-type]  # likewise
    )


def quick_protocol(model: LanguageModel) -> Protocol:
    """What validation, the gate and comparisons of strengths score by: a masked model a seventh at a time."""
    return choose_protocol(model, "auto" if model.family.objective == "causal" else "covering")


def prepare(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    protocol: Protocol,
    repeated: frozenset[str] = frozenset(),
) -> list[Encoded]:
    """Tokenise as the protocol reads: each document alone, or all of them as one text."""
    from ft_toolkit.text.blocks import encode, encode_joined

    read = encode_joined if protocol.name == "concatenated" else encode
    return read(documents, tokenizer, repeated)


def sampled_fraction(documents: Sequence[Encoded], protocol: Protocol) -> float:
    """The share of tokens that is scored; it depends on token counts alone, never on the machine."""
    if protocol.exact is not False:
        return 1.0
    return min(1.0, EXACT_TOKENS / max(1, sum(len(document.ids) for document in documents)))


def score(
    model: LanguageModel,
    documents: Sequence[Encoded],
    protocol: Protocol,
    *,
    rate: float | None = None,
    share: Share | None = None,
) -> list[TokenNll]:
    """NLL in nats of every token, one (n,) array a document; see score_tokens."""
    scored = score_tokens(model, documents, protocol, rate=rate, share=share)
    return [document.nats for document in scored]


def score_tokens(
    model: LanguageModel,
    documents: Sequence[Encoded],
    protocol: Protocol,
    *,
    rate: float | None = None,
    share: Share | None = None,
) -> list[Scored]:
    """Score every token, one Scored a document; NaN for a token that the protocol leaves out.

    model     its tokenizer must have encoded the documents
    rate      share of tokens to draw where the protocol samples; None: sampled_fraction of these documents
    share     which of several processes this one is, and whom it tells of its progress; None: alone
    """
    from ft_toolkit.judging import causal, masked
    from ft_toolkit.judging.share import ALONE
    from ft_toolkit.models.token_nll import TokenScorer

    share = share or ALONE
    scorer, special = TokenScorer(model.model, model.family), model.special
    window, stride = protocol.window_tokens, protocol.stride_tokens or protocol.window_tokens
    if protocol.name == "concatenated":
        return causal.score_stream(
            scorer, documents, window, stride, batch_tokens=causal.BATCH_TOKENS, share=share
        )
    if protocol.metric == "perplexity":
        cut = causal.rolling(window) if protocol.name == "rolling" else causal.sliding(window, stride)
        return causal.score_documents(
            scorer, documents, special.begin, cut, batch_tokens=causal.BATCH_TOKENS, share=share
        )
    if protocol.name == "covering":
        hide = masked.covering(protocol.groups or COVERING_GROUPS, SEED)
    else:
        rate = sampled_fraction(documents, protocol) if rate is None else rate
        hide = masked.one_at_a_time(within_word=protocol.name == "word-l2r", rate=rate, seed=SEED)
    plan = masked.in_windows(window, hide)
    return masked.score_documents(
        scorer, documents, special, plan, batch_tokens=masked.BATCH_TOKENS, share=share
    )
