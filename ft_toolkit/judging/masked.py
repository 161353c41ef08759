"""How a masked model is scored: every token is masked once, by a plan that base and adapter share.

None of these is a probability of the text, and none may be compared with another:

covering   a seeded permutation splits a window's positions into K groups; a pass masks and scores one group
pll        one token at a time (Salazar et al. 2020, arXiv:1910.14659)
word-l2r   one token at a time, with the later pieces of its word masked too, so that they do not leak it
           (Kauf & Ivanova 2023, arXiv:2305.10588)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ft_toolkit.errors import FtError
from ft_toolkit.judging.batches import batches
from ft_toolkit.judging.share import ALONE, Share
from ft_toolkit.judging.totals import Scored, finite
from ft_toolkit.models.families import SpecialTokens
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.text.blocks import Encoded, token_keys
from ft_toolkit.text.draws import scrambled, unit

BATCH_TOKENS = 2048

Places = NDArray[np.int64]  # positions in a document, ascending
Hide = Callable[[Encoded, int, int], Iterator[tuple[Places, Places]]]  # window → (hidden, scored) a pass


def covering(groups: int, seed: int, passes: int | None = None) -> Hide:
    """Mask K disjoint groups in turn; text and seed alone decide them.

    passes   how many of the groups are masked and scored; None: all, so that every token is scored once
    """

    def hide(document: Encoded, start: int, stop: int) -> Iterator[tuple[Places, Places]]:
        shuffled = start + np.argsort(scrambled(token_keys(document), seed)[start:stop], kind="stable")
        for group in range(min(groups if passes is None else passes, stop - start)):
            places = np.sort(shuffled[group::groups])
            yield places, places

    return hide


def one_at_a_time(*, within_word: bool, rate: float, seed: int) -> Hide:
    """Mask one token; with within_word also the rest of its word after it.

    rate   share of the tokens that are scored, drawn by hash: the same ones for every model
    """

    def hide(document: Encoded, start: int, stop: int) -> Iterator[tuple[Places, Places]]:
        is_drawn = unit(scrambled(token_keys(document), seed)) < rate
        for place in start + np.flatnonzero(is_drawn[start:stop]):
            last = place + 1
            while within_word and last < stop and document.word_ids[last] == document.word_ids[place]:
                last += 1
            yield np.arange(place, last), np.array([place])

    return hide


@dataclass(frozen=True)
class Pass:
    """One forward row: tokens start … stop - 1 of a document, some masked, some scored."""

    start: int
    stop: int
    hidden: Places
    scored: Places


Plan = Callable[[Encoded], Iterator[Pass]]  # every pass that scores a document


def in_windows(positions: int, hide: Hide) -> Plan:
    """Read a document in windows, so that none is longer than a row.

    positions   longest row, its frame of begin and end included
    """

    def plan(document: Encoded) -> Iterator[Pass]:
        for start, stop in windows(len(document.ids), positions - 2):
            for hidden, scored in hide(document, start, stop):
                yield Pass(start, stop, hidden, scored)

    return plan


def score_documents(
    scorer: TokenScorer,
    documents: Sequence[Encoded],
    special: SpecialTokens,
    plan: Plan,
    *,
    batch_tokens: int = BATCH_TOKENS,
    share: Share = ALONE,
) -> list[Scored]:
    """Score the tokens of every document under a masking plan.

    returns    one a document, in the order given; NaN for a token that was not drawn
    raises     FtError for a tokenizer without the special tokens of a masked model
    """
    if special.begin is None or special.end is None or special.mask is None:
        raise FtError("tokenizer", "[CLS], [SEP] and [MASK]", "not all of them", "Use a masked model's own.")
    passes = [(index, p) for index, document in enumerate(documents) for p in plan(document)]
    device = next(scorer.parameters()).device
    scores = [Scored.nothing_yet(len(document.ids)) for document in documents]

    def score_batch(width: int, some: list[tuple[int, Pass]]) -> int:
        rows = framed_rows([(documents[i].ids, p) for i, p in some], special, width)
        input_ids, targets, attention_mask = (torch.from_numpy(each).to(device) for each in rows)
        # without padding no mask is passed: attention then takes its faster path
        padding = None if attention_mask.all() else attention_mask
        nll, is_top1 = scorer.nll_and_top1(input_ids, targets, padding)
        cuts = np.cumsum([len(p.scored) for _, p in some])
        parts = (np.split(each.cpu().numpy(), cuts[:-1]) for each in (nll.double(), is_top1))
        for (i, p), nats, tops in zip(some, *parts, strict=True):
            scores[i].put(p.scored, finite(nats, documents[i]), tops)
        return int(cuts[-1])

    planned = batches(passes, lambda item: item[1].stop - item[1].start + 2, batch_tokens)
    with torch.inference_mode():
        return share.read(planned, scores, score_batch)


def framed_rows(
    passes: Sequence[tuple[NDArray[Any], Pass]], special: SpecialTokens, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(input ids, targets, attention mask), each (B, width): begin, a document's tokens, end, padding.

    passes   the ids of a document, and which of them are masked and scored
    """
    assert special.mask is not None  # score_documents checked it
    input_ids = np.zeros((len(passes), width), dtype=np.int64)
    targets = np.full((len(passes), width), NO_TARGET, dtype=np.int64)
    attention_mask = np.zeros((len(passes), width), dtype=np.int64)
    for row, (ids, p) in enumerate(passes):
        stop = p.stop - p.start + 2
        input_ids[row, :stop] = np.concatenate([[special.begin], ids[p.start : p.stop], [special.end]])
        input_ids[row, p.hidden - p.start + 1] = special.mask
        targets[row, p.scored - p.start + 1] = ids[p.scored]
        attention_mask[row, :stop] = 1
    return input_ids, targets, attention_mask


def windows(tokens: int, window: int) -> Iterator[tuple[int, int]]:
    """Windows of nearly equal size, so that none has only a word or two."""
    edges = np.linspace(0, tokens, -(-tokens // window) + 1).round().astype(int)
    return ((int(start), int(stop)) for start, stop in pairwise(edges))
