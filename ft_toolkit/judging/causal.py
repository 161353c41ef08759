"""How a causal model is scored: every token once, in windows, nothing truncated, no padding scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ft_toolkit.errors import FtError
from ft_toolkit.judging.batches import batches
from ft_toolkit.judging.share import ALONE, Share
from ft_toolkit.judging.totals import Scored, finite
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.text.blocks import Encoded

BATCH_TOKENS = 512  # larger batches leave the cache of a CPU: docs/log.md


@dataclass(frozen=True)
class Window:
    """Targets start … stop - 1 are read, first_scored … stop - 1 are scored; input i predicts token i."""

    start: int
    first_scored: int
    stop: int


Cut = Callable[[int], list[Window]]  # number of tokens → windows that score each token once


def sliding(window: int, stride: int) -> Cut:
    """Windows that move on by `stride`; each token is scored in the first one that reaches it.

    raises   FtError for a stride beyond the window: the tokens between two windows would go unscored
    """
    _refuse_gaps(window, stride)

    def cut(tokens: int) -> list[Window]:
        found = [Window(0, 0, min(window, tokens))]
        while found[-1].stop < tokens:
            start = found[-1].start + stride
            found.append(Window(start, found[-1].stop, min(start + window, tokens)))
        return found

    return cut


def rolling(window: int) -> Cut:
    """Adjacent windows, the last one extended back until it is full, as lm-evaluation-harness does."""

    def cut(tokens: int) -> list[Window]:
        stops = [*range(window, tokens, window), tokens]
        return [Window(max(0, stop - window), before, stop) for before, stop in pairwise([0, *stops])]

    return cut


def page(window: int, stride: int) -> Cut:
    """Windows of the Hugging Face perplexity page: `window` tokens, of which all but the first are predicted.

    Where windows only touch (stride = window) the first token of each goes unscored, as it does there.

    raises   FtError for a stride beyond the window
    """
    _refuse_gaps(window, stride)

    def cut(tokens: int) -> list[Window]:
        found, before = [], 0
        for start in range(0, tokens, stride):
            stop = min(start + window, tokens + 1)
            found.append(Window(start, max(before - 1, start), stop - 1))
            before = stop
            if stop == tokens + 1:
                break
        return found

    return cut


def _refuse_gaps(window: int, stride: int) -> None:
    if not 1 <= stride <= window:
        raise FtError("stride", f"1 to {window}, the window", stride, "Choose one that leaves no gap.")


def score_documents(
    scorer: TokenScorer,
    documents: Sequence[Encoded],
    begin_id: int | None,
    cut: Cut,
    *,
    batch_tokens: int = BATCH_TOKENS,
    share: Share = ALONE,
) -> list[Scored]:
    """Score every token of every document, each document alone.

    begin_id   stands before the first token; None: the first token has no context and is not scored (NaN)
    cut        sliding, rolling or page, with their sizes in tokens
    returns    one a document, in the order given
    source     huggingface.co/docs/transformers/perplexity, with begin_id and per document
    """
    skipped = int(begin_id is None)  # without begin_id the first token is only context
    windows = [(i, w) for i, d in enumerate(documents) for w in cut(len(d.ids) - skipped) if w.stop > w.start]
    device = next(scorer.parameters()).device
    scores = [Scored.nothing_yet(len(document.ids)) for document in documents]
    # once a document: a long one has thousands of windows
    streams = [d.ids if begin_id is None else np.concatenate([[begin_id], d.ids]) for d in documents]

    def score_batch(width: int, some: list[tuple[int, Window]]) -> int:
        # padding on the right is never seen by a causal model, so no mask is needed
        input_ids = np.zeros((len(some), width), dtype=np.int64)
        targets = np.full((len(some), width), NO_TARGET, dtype=np.int64)
        for row, (i, w) in enumerate(some):
            input_ids[row, : w.stop - w.start] = streams[i][w.start : w.stop]
            scored = streams[i][w.first_scored + 1 : w.stop + 1]
            targets[row, w.first_scored - w.start : w.stop - w.start] = scored
        nll, is_top1 = scorer.nll_and_top1(
            torch.from_numpy(input_ids).to(device), torch.from_numpy(targets).to(device)
        )
        cuts = np.cumsum([w.stop - w.first_scored for _, w in some])
        parts = (np.split(each.cpu().numpy(), cuts[:-1]) for each in (nll.double(), is_top1))
        for (i, w), nats, tops in zip(some, *parts, strict=True):
            places = slice(w.first_scored + skipped, w.stop + skipped)
            scores[i].put(places, finite(nats, documents[i]), tops)
        return int(cuts[-1])

    planned = batches(windows, lambda item: item[1].stop - item[1].start, batch_tokens)
    with torch.inference_mode():
        return share.read(planned, scores, score_batch)


def score_stream(
    scorer: TokenScorer,
    documents: Sequence[Encoded],
    window: int,
    stride: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    share: Share = ALONE,
) -> list[Scored]:
    """Score one long text, of which `documents` are the consecutive pieces (blocks.encode_joined).

    As huggingface.co/docs/transformers/perplexity does it: no begin token, so the very first one is not
    scored (NaN).
    """
    if not documents:
        raise FtError("corpus", "at least one document", "none", "Check the source.")
    stream = documents[0].joined_with(documents[1:])
    (scores,) = score_documents(
        scorer, [stream], None, page(window, stride), batch_tokens=batch_tokens, share=share
    )
    cuts = np.cumsum([len(document.ids) for document in documents])[:-1]
    return [Scored(*each) for each in zip(*(np.split(column, cuts) for column in scores), strict=True)]
