"""How a masked model is scored: every token hidden once, in groups that base and adapter share.

Covering masks: a seeded permutation parts a window's positions into K groups; a pass hides one group and
scores it. K passes score each token exactly once, with nothing but [MASK] in the hidden places. It is a
pseudo-likelihood of its own: neither the one-at-a-time PLL (Salazar et al. 2020, arXiv:1910.14659) nor a
probability of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ft_toolkit.errors import FtError
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.families import SpecialTokens
from ft_toolkit.models.losses import NO_TARGET, TokenLosses
from ft_toolkit.text.blocks import Encoded, scrambled, token_keys

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class _Pass:
    document: int
    start: int
    stop: int
    hidden: NDArray[np.int64]  # positions inside the window, ascending


def score_documents(
    losses: TokenLosses,
    documents: Sequence[Encoded],
    special: SpecialTokens,
    positions: int,
    groups: int,
    seed: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[TokenNll]:
    """NLL of every token of every document, by the protocol `covering`.

    positions  longest row, its frame of begin and end included; a longer document is read in windows
    groups     K: how many parts a window's positions fall into
    seed       of the permutation; with the document's text it alone decides the groups
    returns    one (n,) float64 array a document, in the order given
    """
    begin, end, hidden_by = special.begin, special.end, special.mask
    if begin is None or end is None or hidden_by is None:
        raise FtError("tokenizer", "[CLS], [SEP] and [MASK]", "not all of them", "Use a masked model's own.")
    passes = [p for i, d in enumerate(documents) for p in _passes(i, d, positions - 2, groups, seed)]
    passes.sort(key=lambda p: p.stop - p.start, reverse=True)
    device = next(losses.parameters()).device
    scores = [np.full(len(document.ids), np.nan) for document in documents]
    with torch.inference_mode():
        while passes:
            width = passes[0].stop - passes[0].start + 2
            size = max(1, batch_tokens // width)
            some, passes = passes[:size], passes[size:]
            input_ids = np.zeros((len(some), width), dtype=np.int64)
            targets = np.full((len(some), width), NO_TARGET, dtype=np.int64)
            seen = np.zeros((len(some), width), dtype=np.int64)
            for row, p in enumerate(some):
                ids = documents[p.document].ids[p.start : p.stop]
                input_ids[row, : len(ids) + 2] = np.concatenate([[begin], ids, [end]])
                input_ids[row, p.hidden + 1] = hidden_by
                targets[row, p.hidden + 1] = ids[p.hidden]
                seen[row, : len(ids) + 2] = 1
            nll = losses(
                torch.from_numpy(input_ids).to(device),
                torch.from_numpy(targets).to(device),
                None if seen.all() else torch.from_numpy(seen).to(device),
            )
            cuts = np.cumsum([len(p.hidden) for p in some])
            for p, part in zip(some, np.split(nll.double().cpu().numpy(), cuts[:-1]), strict=True):
                scores[p.document][p.start + p.hidden] = part
            advance(int(cuts[-1]))
    return scores


def _passes(index: int, document: Encoded, window: int, groups: int, seed: int) -> list[_Pass]:
    """Windows of nearly equal size, so that none is left with a word or two; K groups in each."""
    tokens = len(document.ids)
    edges = np.linspace(0, tokens, -(-tokens // window) + 1).round().astype(int)
    order = scrambled(token_keys(document), seed)
    found = []
    for start, stop in pairwise(edges):
        shuffled = np.argsort(order[start:stop], kind="stable")
        found += [
            _Pass(index, int(start), int(stop), np.sort(shuffled[group::groups]))
            for group in range(min(groups, stop - start))
        ]
    return found
