"""Scoring texts with a trained model and its base: the same ids at the same positions, twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import (
    EXACT_TOKENS,
    Protocol,
    prepare,
    sampled_fraction,
    score,
    score_tokens,
)
from ft_toolkit.judging.store import Store
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Kind, Side, Subject
from ft_toolkit.judging.totals import Scored, count_words
from ft_toolkit.models.adapters import base_side
from ft_toolkit.models.checkpoints import Base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Recipe
from ft_toolkit.references import parse_text
from ft_toolkit.runtime import versions
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.corpus import Document, read_source
from ft_toolkit.text.screening import repeated_lines
from ft_toolkit.text.splitting import Parts, sample

FORECAST_TOKENS = 64  # scored to tell how long --exact will take


@dataclass(frozen=True)
class Scorer:
    """A trained model and its base, and how texts are scored with both.

    store    keeps the base's scores by content, so that the next comparison reads only the adapter; not of a
             protocol in which documents lend each other context
    reader   whose tokenizer reads for the model, where it is not the base's: the model's NLL of a document is
             then divided by the base's tokens, so that both sides share one unit
    """

    model: nn.Module
    base: Base
    protocol: Protocol
    screen: Screen
    store: Store | None = None
    reader: Base | None = None

    @property
    def own_tokenizer_sha256(self) -> str | None:
        """Of the trained model, where it is not the base's."""
        own = (self.reader or self.base).tokenizer_sha256
        return own if own != self.base.tokenizer_sha256 else None

    def subject(self, name: str, *, knows_training_text: bool = True) -> Subject:
        """What is scored, without a folder of this machine."""
        base = self.base.name
        return Subject(
            name,
            Path(base).name if Path(base).is_dir() else base,
            self.base.tokenizer_sha256,
            self.own_tokenizer_sha256,
            knows_training_text,
            self.protocol,
        )


@dataclass(frozen=True)
class Text:
    """Documents to score as one corpus.

    repeated   lines that several documents have: the figure outside them stands beside the other
    keeps_ids  whether token ids are kept with the scores: they are as good as the text
    """

    corpus: str
    kind: Kind
    documents: Sequence[Document]
    repeated: frozenset[str] = frozenset()
    keeps_ids: bool = True


def score_both(scorer: Scorer, text: Text) -> CorpusScores:
    """Score documents with the trained model, then with its base.

    An adapter is switched off where that is exact: then both sides share one set of weights, and neither can
    drift from the other.

    raises   FtError for masked models of two tokenizers, which have no common figure, and for text without a
             token to score
    """
    base, protocol = scorer.base, scorer.protocol
    encoded = prepare(text.documents, base.tokenizer, protocol, text.repeated)
    read = encoded
    if scorer.own_tokenizer_sha256 is not None:
        if protocol.metric != "perplexity":
            wanted, found = (
                "one tokenizer for a masked model and its base",
                "two, which hide different pieces",
            )
            raise FtError(base.name, wanted, found, "run.json has its validation figure.")
        read = prepare(text.documents, (scorer.reader or base).tokenizer, protocol, text.repeated)
    fraction = sampled_fraction(encoded, protocol)
    sides = _score_sides(scorer, text.kind, encoded, read, fraction)
    number_of = {group: n for n, group in enumerate(dict.fromkeys(one.document.group for one in encoded))}
    documents = [
        DocumentScores(
            one.document.id,
            number_of[one.document.group],
            len(one.document.text.encode()),
            count_words(one.document.text),
            _side(one, plain, text),
            _side(other, trained, text),
        )
        for one, plain, other, trained in zip(encoded, sides[0], read, sides[1], strict=True)
    ]
    scored = CorpusScores(text.corpus, text.kind, documents, fraction, _unknown_fraction(base, encoded))
    if not any(totals.tokens for totals in scored.base):
        raise FtError(f"text of {text.corpus}", "a token to score", "none", "Choose more text.")
    return scored


def _score_sides(
    scorer: Scorer, kind: Kind, encoded: list[Encoded], read: list[Encoded], rate: float
) -> tuple[list[Scored], list[Scored]]:
    """(of the base, of the trained model): one Scored for each of `encoded`, and of `read`."""
    model, base, protocol, screen = scorer.model, scorer.base, scorer.protocol, scorer.screen
    reader = scorer.reader or base
    device = next(model.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=protocol.precision == "bfloat16")
    tokens = round(rate * sum(len(document.ids) for document in encoded))
    if protocol.exact and tokens > EXACT_TOKENS:
        with half:
            screen.say(f"{kind}: {_forecast(model, read, reader, protocol)}")
    with screen.stage(kind, 2 * tokens, ends_full=True) as advance, half:
        losses = TokenLosses(model, base.family)
        trained = score_tokens(losses, read, reader, protocol, advance=advance)
        with base_side(base) as alone:
            compute = partial(
                score_tokens,
                TokenLosses(alone, base.family),
                base=base,
                protocol=protocol,
                rate=rate,
                advance=advance,
            )
            plain = _base_scores(scorer, encoded, rate, compute)
    return plain, trained


def _base_scores(
    scorer: Scorer, encoded: list[Encoded], rate: float, compute: Callable[[Sequence[Encoded]], list[Scored]]
) -> list[Scored]:
    """The base's scores, kept ones where they can be."""
    store, protocol = scorer.store, scorer.protocol
    if store is None or protocol.is_approximate:  # a text's neighbours would move what is kept of it
        return compute(encoded)
    device = next(scorer.model.parameters()).device
    return store.scores(_identity(scorer.base, protocol, rate, device.type), encoded, compute)


def _side(document: Encoded, scored: Scored, text: Text) -> Side:
    return Side(document.ids if text.keeps_ids else None, document.is_fresh, *scored)


def _unknown_fraction(base: Base, documents: Sequence[Encoded]) -> float:
    """The share of tokens that are [UNK]; a causal model's tokenizer spells everything."""
    unknown = base.tokenizer.unk_token_id if base.family.objective == "masked" else None
    if unknown is None:
        return 0.0
    count = max(1, sum(len(document.ids) for document in documents))
    return sum(int((document.ids == unknown).sum()) for document in documents) / count


def score_parts(scorer: Scorer, recipe: Recipe, parts: Parts) -> list[CorpusScores]:
    """What every run is judged on: held-out text, general text, and as much training text as is held out.

    parts   of the recipe's corpus; without training documents there is no third text
    """
    label, keeps_ids = source_label(recipe.corpus.source), recipe.judging.keep_text
    repeated = repeated_lines([*parts.test, *parts.train])
    texts = [Text(label, "held-out", parts.test, repeated, keeps_ids)]
    if recipe.judging.general is not None:
        general = read_source(recipe.judging.general).documents
        texts.append(Text(source_label(recipe.judging.general), "general", general, repeated, keeps_ids))
    if parts.train:  # its text is never kept
        trained = sample(parts.train, len(parts.test))
        texts.append(Text(label, "train", trained, repeated, keeps_ids=False))
    return [score_both(scorer, text) for text in texts]


def source_label(source: str) -> str:
    """A short name for a source, without the machine's folders."""
    return parse_text(source).label


def _forecast(model: nn.Module, documents: Sequence[Encoded], reader: Base, protocol: Protocol) -> str:
    """What scoring every token will take, from a few of them: a token's cost grows with its window."""
    costs = [len(d.ids) * min(len(d.ids), protocol.window_tokens) for d in documents]
    probe = documents[int(np.argsort(costs)[len(costs) // 2])]
    rate = min(1.0, FORECAST_TOKENS / len(probe.ids))
    started = time.perf_counter()
    (nll,) = score(TokenLosses(model, reader.family), [probe], reader, protocol, rate=rate)
    scored = int((~np.isnan(nll)).sum()) or 1
    paid = scored * min(len(probe.ids), protocol.window_tokens)
    seconds = 2 * (time.perf_counter() - started) * sum(costs) / paid
    count = sum(len(d.ids) for d in documents)
    wait = f"{seconds / 60:,.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return f"{count:,} tokens, {2 * count:,} forward rows for both models: about {wait}"


def _identity(base: Base, protocol: Protocol, rate: float, device_type: str) -> dict[str, object]:
    """Everything but the text that moves a base's score, if only in its last bits."""
    return {
        **base.sha256s,
        "special": asdict(base.special),
        "protocol": protocol.as_dict(),
        "rate": rate,
        "machine": [device_type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "versions": versions(),
    }
