"""Everything a training starts from: text, rows, base and fresh adapter, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ft_toolkit import auto
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, quick_protocol, score_tokens
from ft_toolkit.judging.scoring import identity, kept_scores
from ft_toolkit.judging.share import ALONE, Share
from ft_toolkit.judging.totals import Scored, corpus_totals, document_totals
from ft_toolkit.judging.unseen import read_general
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair, new_pair
from ft_toolkit.models.tokenizers import train_tokenizer, with_fresh_weights
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Session, kept_text
from ft_toolkit.text.blocks import BLOCK_TOKENS, Encoded, encode
from ft_toolkit.text.canaries import with_canaries
from ft_toolkit.text.corpus import Reading
from ft_toolkit.text.documents import Document
from ft_toolkit.text.overlap import Overlap, marked
from ft_toolkit.text.packing import Layout, packed_rows
from ft_toolkit.text.rows import Joined, Row, Rows, Source
from ft_toolkit.text.splitting import Parts, read_parts, sample_evenly
from ft_toolkit.text.tokens import Tokens, TokenStore, tokenised
from ft_toolkit.training.replay import MOST_TOKENS, replay_rows, replay_tokens
from ft_toolkit.training.schedule import batches, planned_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLD_TOKENS = 16_384  # of replay: fewer are there in seconds
# more would take as long as the training itself
VALIDATION_DOCUMENTS = 64
VALIDATION_TOKENS = 1024  # of each, its first ones


@dataclass(frozen=True)
class Material:
    """Everything a training starts from, read and checked."""

    asked: Recipe
    recipe: Recipe  # with what depends on the base filled in
    reading: Reading
    parts: Parts
    pair: ModelPair  # nothing is learnt yet
    rows: Rows
    replayed: int  # how many of them, the last ones, are the base's own predictions
    measure: auto.Measure  # what `auto` was decided by
    overlap: dict[str, Overlap]  # of validation, test and general text with the training text


def gathered(
    recipe: Recipe, device: torch.device, say: Callable[[str], object] = lambda words: None
) -> Material:
    """Read, load and check; text that could not be judged is refused now, before hours of training.

    say   told what takes minutes
    """
    general = read_general(recipe.judging)
    reading, parts = read_parts(*recipe.corpora, keep_text=recipe.judging.keep_text)
    parts, overlap = marked(replace(parts, most_judged=recipe.judging.most_documents), general)
    base = load_base(recipe.base, device)
    choose_protocol(base, recipe.judging.protocol, recipe.judging.window, recipe.judging.stride)
    if general and not encode(general, base.tokenizer):
        raise FtError("judging.general", f"text with a token of {base.name}", "none", "Choose more text.")
    learner = base
    if recipe.adapter.tokenizer == "train":
        texts = (document.text for document in parts.train)
        learner = with_fresh_weights(base, train_tokenizer(base, texts))
    filled, rows, measure = laid_out(recipe, learner, parts, say)
    replayed: list[Row] = []
    pair = new_pair(base, filled.adapter, recipe.training.seed, learner)
    plan = filled.training
    if plan.replay_share:
        written = min(replay_tokens(rows, plan.replay_share), MOST_TOKENS)
        if written > TOLD_TOKENS:
            say(f"replay: the base writes {written:,.0f} tokens, once a base and seed")
        with pair.base_side() as alone:
            replayed = replay_rows(
                alone,
                rows,
                plan.replay_share,
                plan.block_tokens or BLOCK_TOKENS,
                plan.seed,
                plan.mask_fraction,
            )
    every = Joined([*rows.parts, replayed])
    return Material(recipe, filled, reading, parts, pair, every, len(replayed), measure, overlap)


def laid_out(
    recipe: Recipe,
    model: LanguageModel,
    parts: Parts,
    say: Callable[[str], object] = lambda words: None,
) -> tuple[Recipe, Joined, auto.Measure]:
    """The recipe with everything filled in, the rows to train on, and what `auto` was decided by.

    model   read for its tokenizer and shape alone: it needs no weights
    """
    block_tokens = recipe.training.block_tokens or min(BLOCK_TOKENS, model.positions)
    if block_tokens > model.positions:
        wanted = f"at most {model.positions} for {model.name}"
        raise FtError("training.block_tokens", wanted, block_tokens, "Lower it.")
    train = with_canaries(parts.train, recipe.judging.canaries)
    folder, most_bytes = kept_text("tokens")  # token ids are text
    store = TokenStore(folder, most_bytes if recipe.judging.keep_text else 0, say)
    tokens = tokenised(train, model.tokenizer, model.tokenizer_sha256, store)
    rows = _training_rows(model, tokens, block_tokens, _weights(recipe))
    plan = recipe.training.model_copy(update={"block_tokens": block_tokens})
    steps = planned_steps(rows, plan, model.family.packs)
    steps_per_epoch = len(batches(rows, plan, model.family.packs, epoch=0))
    measure = auto.Measure(
        width=model.config.hidden_size,
        steps=steps,
        tokens=round(rows.outline.tokens * steps / steps_per_epoch),
        objective=model.family.objective,
    )
    return auto.fill(recipe.model_copy(update={"training": plan}), measure), rows, measure


def _weights(recipe: Recipe) -> dict[str, float]:
    """Of each source of a mixture, 1 where others have one; none: each is read once an epoch."""
    given = {corpus.label: corpus.weight for corpus in recipe.corpora} if len(recipe.corpora) > 1 else {}
    return {label: weight or 1.0 for label, weight in given.items()} if any(given.values()) else {}


def _training_rows(
    model: LanguageModel, tokens: Tokens, block_tokens: int, weights: Mapping[str, float]
) -> Joined:
    if (found := int(tokens.lengths.sum())) < block_tokens:
        wanted = f"at least one row of {block_tokens} training tokens"
        raise FtError("corpus", wanted, f"{found} tokens", "Add text or lower training.block_tokens.")
    special = model.special
    layout = Layout(model.family.objective, special.begin, special.end, block_tokens, model.family.packs)
    parts = []
    for number, label in enumerate(tokens.labels):  # a row is of one source
        which = np.flatnonzero((tokens.label == number) & (tokens.lengths > 0))
        parts.append(packed_rows(tokens, layout, which, Source(label, weights.get(label))))
    if lost := weights.keys() - {part.source.label for part in parts if len(part)}:
        raise FtError(f"corpus {min(lost)}", f"a training token of {model.name}", "none", "Add text.")
    return Joined(parts)


def validation_documents(parts: Parts) -> list[Document]:
    """Those of the validation part that are read; of a mixture as many of each source."""
    return sample_evenly(parts.validation, VALIDATION_DOCUMENTS)


def validation_text(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> list[Encoded]:
    """What a validation reads of documents: their beginnings."""
    return [document.beginning(VALIDATION_TOKENS) for document in encode(documents, tokenizer)]


def validation_score(
    model: LanguageModel, documents: Sequence[Document], share: Share = ALONE
) -> Callable[[], float]:
    """Nats a token of validation documents' beginnings, scored as the verdict will be, in float32.

    share   of several processes, which all get the same figure
    """
    encoded = validation_text(model.tokenizer, documents)
    protocol = quick_protocol(model)
    return lambda: _nats_per_token(encoded, score_tokens(model, encoded, protocol, share=share))


def untrained_score(it: Material, session: Session) -> Callable[[], float]:
    """The same before the first step; read from the cache of scores where this start was validated before."""
    model, adapter = it.pair.tuned, it.recipe.adapter.model_dump(mode="json")
    encoded = validation_text(model.tokenizer, validation_documents(it.parts))
    protocol = quick_protocol(model)
    start = {"protocol": protocol.as_dict(), "untrained": adapter, "seed": it.recipe.training.seed}

    def validate() -> float:
        compute = partial(score_tokens, model, protocol=protocol, share=Share.of(session.accelerator))
        return _nats_per_token(encoded, kept_scores(session, identity(model) | start, encoded, compute))

    return validate


def _nats_per_token(encoded: Sequence[Encoded], scores: Sequence[Scored]) -> float:
    totals = (document_totals(d, one.nats) for d, one in zip(encoded, scores, strict=True))
    return corpus_totals(totals).nats_per_token
