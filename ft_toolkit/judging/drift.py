"""How far a model has moved from its base, without anybody's data: KL(base ‖ tuned) in nats a token.

causal   on text drawn from the base itself. At each position of a sample both predictions are compared over
         the whole vocabulary: on average that is log base(x) − log tuned(x) of a sample, with less noise
masked   on general text, where a seventh of each window is hidden

Each position has all the context that the model can read, whatever protocol the texts are judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ft_toolkit.judging import causal, masked
from ft_toolkit.judging.protocols import COVERING_GROUPS, SEED
from ft_toolkit.judging.samples import kept_samples
from ft_toolkit.judging.scoring import Scorer, source_label
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Kind, Side
from ft_toolkit.judging.totals import Scored, count_words
from ft_toolkit.models.divergence import DivergenceScorer
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.sampling import Ids
from ft_toolkit.sections import Judging
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import sample

SAMPLES, SAMPLE_TOKENS = 32, 96  # drawn from a causal base; some 3 s of a quickstart, the first time
GENERAL_DOCUMENTS, GENERAL_TOKENS = 64, 120  # of each document the first so many, for a masked model
HELD_OUT_DOCUMENTS, HELD_OUT_TOKENS = 32, 48  # likewise, of text that the verdict is about
SAMPLES_NAME = "samples of its base"


def score_drift(scorer: Scorer, plan: Judging, general: Sequence[Document]) -> list[CorpusScores]:
    """One corpus of kind "drift"; none where a masked model has no general text, or the tokenizers differ."""
    pair = scorer.pair
    if pair.own_tokenizer_sha256 is not None:
        return []
    if pair.base.family.objective == "causal":
        drawn = scorer.share().first(lambda: _samples(scorer))
        return _diverged(scorer, SAMPLES_NAME, "drift", _as_documents(pair, drawn))
    if plan.general is None:
        return []
    some = _beginnings(pair, general, GENERAL_DOCUMENTS, GENERAL_TOKENS)
    return _diverged(scorer, source_label(plan.general), "drift", some, keeps_ids=plan.keep_text)


def score_divergence(
    scorer: Scorer, corpus: str, documents: Sequence[Document], *, keeps_ids: bool
) -> list[CorpusScores]:
    """The same on the beginnings of a text's documents, as one corpus of kind "divergence"."""
    if scorer.pair.own_tokenizer_sha256 is not None:
        return []
    some = _beginnings(scorer.pair, documents, HELD_OUT_DOCUMENTS, HELD_OUT_TOKENS)
    return _diverged(scorer, corpus, "divergence", some, keeps_ids=keeps_ids)


def _samples(scorer: Scorer) -> list[Ids]:
    """What the base writes, kept for the next adapter of this base."""
    base, session = scorer.pair.base, scorer.session
    tokens = min(SAMPLE_TOKENS, base.positions)
    screen = session.screen
    stage = partial(screen.stage, "samples", SAMPLES * tokens, ends_full=True)
    with scorer.pair.base_side():
        return kept_samples(base, (SAMPLES, tokens), SEED, session.score_cache, screen.say, stage)


def _as_documents(pair: ModelPair, drawn: Sequence[Ids]) -> list[Encoded]:
    """Samples as documents: their ids are read as they were drawn, never tokenised again."""
    found = []
    for number, ids in enumerate(drawn):
        text = str(pair.base.tokenizer.decode(ids))
        own_group = f"sample {number}"  # should two be equal
        document = TextDocument("sample", number, text, own_group)
        word_ids = np.arange(len(ids), dtype=np.int32)
        found.append(Encoded(document, ids, np.ones(len(ids), dtype=np.bool_), word_ids))
    return found


def _beginnings(pair: ModelPair, documents: Sequence[Document], count: int, tokens: int) -> list[Encoded]:
    """The first tokens of documents that a hash of their text chooses."""
    return [one.beginning(tokens) for one in encode(sample(documents, count), pair.base.tokenizer)]


def _diverged(
    scorer: Scorer, corpus: str, kind: Kind, documents: Sequence[Encoded], *, keeps_ids: bool = True
) -> list[CorpusScores]:
    """One corpus; none where no position could be compared: texts of one token, and no begin token."""
    found = _scored(scorer, kind, documents)
    number_of = {group: n for n, group in enumerate(dict.fromkeys(one.document.group for one in documents))}
    rows = []
    for one, (nats, is_same) in zip(documents, found, strict=True):
        ids, is_asked = one.ids if keeps_ids else None, ~np.isnan(nats)
        base = Side(ids, one.is_fresh, np.where(is_asked, 0.0, np.nan), is_asked)
        text = one.document.text
        rows.append(
            DocumentScores(
                one.document.id,
                number_of[one.document.group],
                len(text.encode()),
                count_words(text),
                base,
                Side(ids, one.is_fresh, nats, is_same),
            )
        )
    asked = sum(int((~np.isnan(nats)).sum()) for nats, _ in found)
    if not asked:
        return []
    return [CorpusScores(corpus, kind, rows, asked / sum(len(one.ids) for one in documents), 0.0)]


def _scored(scorer: Scorer, kind: Kind, documents: Sequence[Encoded]) -> list[Scored]:
    pair, base = scorer.pair, scorer.pair.base
    tokens = sum(len(one.ids) for one in documents)
    is_half = scorer.protocol.precision == "bfloat16"
    half = torch.autocast(base.device.type, torch.bfloat16, enabled=is_half)
    both = DivergenceScorer(pair)
    with scorer.session.screen.stage(kind, tokens, ends_full=True) as advance, half:
        share = scorer.share(advance)
        if base.family.objective == "causal":
            cut = causal.sliding(base.positions, max(1, base.positions // 2))
            return causal.score_documents(both, documents, base.special.begin, cut, share=share)
        plan = masked.in_windows(base.positions, masked.covering(COVERING_GROUPS, SEED, passes=1))
        return masked.score_documents(both, documents, base.special, plan, share=share)
