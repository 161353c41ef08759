"""How far a causal model goes on verbatim: greedy decoding, read off the token scores.

Greedy decoding from a prompt repeats the text exactly as long as each next token is the model's first
choice, since until then what it has written is the text itself. So a run of top-1 tokens is a verbatim
continuation of everything before it, and every position of every document is tried without a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ft_toolkit.judging.statistics import CONFIDENCE, TOO_FEW_DOCUMENTS
from ft_toolkit.judging.token_scores import CorpusScores, Side, TokenScores

PROMPT_TOKENS = 32  # a continuation has at least so many tokens of its document before it
EXTRACTED_TOKENS = 50  # a continuation of this length counts as extracted (Carlini et al. 2023)


@dataclass(frozen=True)
class Continuations:
    """The longest verbatim continuation of each document, as one model goes on."""

    documents: int  # independent ones (or files) with a token behind a prompt
    longest_tokens: int
    mean_tokens: float  # over the documents
    extracted: int  # documents with a continuation of EXTRACTED_TOKENS and more


@dataclass(frozen=True)
class Verbatim:
    """Training text against held-out text, the tuned model beside its base.

    excess_tokens   how much longer the tuned model's continuations are than the base's on training text, less
                    the same on held-out text; a mean over documents with a 95 % interval (Welch)
    """

    base_train: Continuations
    base_held_out: Continuations
    tuned_train: Continuations
    tuned_held_out: Continuations
    excess_tokens: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        limits = {"prompt_tokens": PROMPT_TOKENS, "extracted_tokens": EXTRACTED_TOKENS}
        return limits | asdict(self)


def verbatim(scores: TokenScores) -> Verbatim | None:
    """None for masked models, without training scores, or with too few documents that hold a prompt.

    source   Carlini et al. 2023, arXiv:2202.07646, for what extracted means
    """
    parts = {corpus.kind: corpus for corpus in scores.corpora}
    if scores.subject.protocol.metric != "perplexity" or not {"train", "held-out"} <= parts.keys():
        return None
    train, held_out = (_lengths(parts[kind]) for kind in ("train", "held-out"))
    if min(len(train), len(held_out)) < TOO_FEW_DOCUMENTS:
        return None
    gains = [part[:, 1] - part[:, 0] for part in (train, held_out)]
    excess = float(gains[0].mean() - gains[1].mean())
    error = math.sqrt(sum(float(gain.var(ddof=1)) / len(gain) for gain in gains))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, min(map(len, gains)) - 1)) * error
    return Verbatim(
        *(_continuations(train[:, 0]), _continuations(held_out[:, 0])),
        *(_continuations(train[:, 1]), _continuations(held_out[:, 1])),
        excess,
        excess - reach,
        excess + reach,
    )


def longest_run(is_top1: Sequence[bool] | NDArray[np.bool_]) -> int:
    """The longest run of first choices that begins behind a prompt."""
    behind = np.asarray(is_top1, dtype=np.bool_)[PROMPT_TOKENS:]
    ends = np.flatnonzero(~behind)
    edges = np.concatenate([[-1], ends, [len(behind)]])
    return int(np.diff(edges).max() - 1)


def _lengths(corpus: CorpusScores) -> NDArray[np.int64]:
    """(groups, 2): the longest continuation under base and under the tuned model."""
    found: dict[int, tuple[int, int]] = {}
    for document in corpus.documents:
        sides: tuple[Side, Side] = (document.base, document.adapter)
        if min(len(side.nats) for side in sides) <= PROMPT_TOKENS:
            continue
        runs = [longest_run(side.is_top1) for side in sides]
        known = found.get(document.group, (0, 0))
        found[document.group] = (max(runs[0], known[0]), max(runs[1], known[1]))
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, 2)


def _continuations(lengths: NDArray[np.int64]) -> Continuations:
    extracted = int((lengths >= EXTRACTED_TOKENS).sum())
    return Continuations(len(lengths), int(lengths.max()), float(lengths.mean()), extracted)
