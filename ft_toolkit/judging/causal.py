"""How a causal model is scored: each document alone, every token once, nothing truncated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ft_toolkit.errors import FtError
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.losses import NO_TARGET, TokenLosses
from ft_toolkit.text.blocks import Encoded

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class _Window:
    document: int
    start: int  # first input token; the target of input i is token i of the document
    first_scored: int
    stop: int


def score_documents(
    losses: TokenLosses,
    documents: Sequence[Encoded],
    begin_id: int | None,
    window: int,
    stride: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[TokenNll]:
    """NLL of every token of every document, by the protocol `document`.

    begin_id   stands before the first token, which is scored given it alone
    window     most tokens that are read at once; a longer document moves on by `stride`
    returns    one (n,) float64 array a document, in the order given
    source     huggingface.co/docs/transformers/perplexity, with begin_id and per document
    """
    if begin_id is None:
        raise FtError("tokenizer", "a token that begins a text", "none", "Its first token cannot be scored.")
    windows = [
        w for i, document in enumerate(documents) for w in _windows(i, len(document.ids), window, stride)
    ]
    # equal lengths side by side: hardly any padding, and each batch costs about the same
    windows.sort(key=lambda w: w.stop - w.start, reverse=True)
    device = next(losses.parameters()).device
    scores = [np.full(len(document.ids), np.nan) for document in documents]
    with torch.inference_mode():
        while windows:
            width = windows[0].stop - windows[0].start
            size = max(1, batch_tokens // width)
            some, windows = windows[:size], windows[size:]
            # padding on the right is never seen by a causal model, so no mask is needed
            input_ids = np.zeros((len(some), width), dtype=np.int64)
            targets = np.full((len(some), width), NO_TARGET, dtype=np.int64)
            for row, w in enumerate(some):
                ids = documents[w.document].ids
                before = [begin_id] if w.start == 0 else ids[w.start - 1 : w.start]
                input_ids[row, : w.stop - w.start] = np.concatenate([before, ids[w.start : w.stop - 1]])
                targets[row, w.first_scored - w.start : w.stop - w.start] = ids[w.first_scored : w.stop]
            nll = losses(torch.from_numpy(input_ids).to(device), torch.from_numpy(targets).to(device))
            cuts = np.cumsum([w.stop - w.first_scored for w in some])
            for w, part in zip(some, np.split(nll.double().cpu().numpy(), cuts[:-1]), strict=True):
                scores[w.document][w.first_scored : w.stop] = part
            advance(int(cuts[-1]))
    return scores


def _windows(document: int, tokens: int, window: int, stride: int) -> list[_Window]:
    """Cover tokens 0 … n-1: each is scored in the first window that reaches it."""
    found = [_Window(document, 0, 0, min(window, tokens))]
    while found[-1].stop < tokens:
        start = found[-1].start + stride
        found.append(_Window(document, start, found[-1].stop, min(start + window, tokens)))
    return found
