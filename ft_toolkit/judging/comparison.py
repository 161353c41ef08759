"""Base against adapter: the same ids at the same positions, twice, and every difference paired."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import EXACT_TOKENS, Protocol, prepare, sampled_fraction, score
from ft_toolkit.judging.statistics import (
    Columns,
    Difference,
    Gap,
    by_group,
    generalisation_gap,
    holm,
    paired_difference,
)
from ft_toolkit.judging.store import Store
from ft_toolkit.judging.totals import TokenNll, Totals, corpus_totals, document_totals
from ft_toolkit.models.adapters import base_side
from ft_toolkit.models.checkpoints import Base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Corpus
from ft_toolkit.references import parse_text
from ft_toolkit.runtime import versions
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.corpus import Document, read_source
from ft_toolkit.text.screening import repeated_lines
from ft_toolkit.text.splitting import sample

SCHEMA = 4
FORECAST_TOKENS = 64  # scored to tell how long --exact will take
Kind = Literal["held-out", "general", "train", "other"]


@dataclass(frozen=True)
class CorpusScores:
    """One set of documents under both models: raw totals, paired by document."""

    corpus: str
    kind: Kind
    documents: list[Encoded]
    base: list[Totals]
    adapter: list[Totals]
    fresh_base: list[Totals]  # of the tokens outside lines that several documents have
    fresh_adapter: list[Totals]
    scored_fraction: float  # of the tokens; below 1 they are a seeded sample
    unknown_fraction: float  # of the tokens that are [UNK]

    def rows(self) -> list[dict[str, Any]]:
        """A row a document and side, as scores/*.parquet holds them."""
        return [
            {"corpus": self.corpus, "split": self.kind, "document": document.document.id, "side": side}
            | totals.as_dict()
            for side, scored in (("base", self.base), ("adapter", self.adapter))
            for document, totals in zip(self.documents, scored, strict=True)
        ]

    def columns(self) -> Columns:
        """Of each group of documents that has a scored token."""
        return by_group(*_columns(self.documents, self.base, self.adapter))


@dataclass(frozen=True)
class CorpusComparison:
    """One corpus in numbers."""

    corpus: str
    kind: Kind
    base: Totals
    adapter: Totals
    difference: Difference
    holm_p_value: float | None  # over the corpora of this comparison
    outside_repeated_lines: Difference | None  # None where no line is repeated
    repeated_token_fraction: float
    scored_fraction: float
    unknown_fraction: float

    def as_dict(self, metric: str) -> dict[str, Any]:
        """The numbers, and what follows from them; for inf, which JSON lacks, the largest float."""
        figure = metric.replace("-", "_")
        derived: dict[str, float | None] = {
            f"base_{figure}": self.base.perplexity,
            f"adapter_{figure}": self.adapter.perplexity,
        }
        if metric == "perplexity":  # no code length, and so no bits, comes from a masked model
            for side, totals in (("base", self.base), ("adapter", self.adapter)):
                derived |= {
                    f"{side}_word_perplexity": totals.word_perplexity,
                    f"{side}_bits_per_byte": totals.bits_per_byte,
                }
        derived["percent"] = self.difference.percent
        return asdict(self) | {
            name: None if value is None else min(value, sys.float_info.max) for name, value in derived.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that the verdict is computed from."""

    name: str
    base_name: str
    tokenizer_sha256: str
    own_tokenizer_sha256: str | None  # of the trained model, where it is not the base's
    knows_training_text: bool  # False for an adapter from elsewhere, which may have seen any text
    protocol: Protocol
    corpora: list[CorpusComparison]
    gap: Gap | None

    def of_kind(self, kind: Kind) -> list[CorpusComparison]:
        return [corpus for corpus in self.corpora if corpus.kind == kind]

    @property
    def subjects(self) -> list[CorpusComparison]:
        """The corpora that the verdict is about: held-out text, or what was asked for with --on."""
        return self.of_kind("held-out") or self.of_kind("other")

    def as_dict(self) -> dict[str, Any]:
        """comparison.json: numbers alone, no text of any corpus; docs/comparison.schema.json describes it."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "base": self.base_name,
            "tokenizer_sha256": self.tokenizer_sha256,
            "own_tokenizer_sha256": self.own_tokenizer_sha256,
            "knows_training_text": self.knows_training_text,
            "protocol": self.protocol.as_dict(),
            "corpora": [corpus.as_dict(self.protocol.metric) for corpus in self.corpora],
            "gap": asdict(self.gap) | {"excess_nats": self.gap.excess_nats} if self.gap else None,
        }


def score_both(
    model: nn.Module,
    base: Base,
    protocol: Protocol,
    corpus: str,
    kind: Kind,
    documents: Sequence[Document],
    repeated: frozenset[str],
    screen: Screen,
    store: Store | None = None,
    reader: Base | None = None,
) -> CorpusScores:
    """Score documents with the trained model, then with its base.

    An adapter is switched off where that is exact: then both sides share one set of weights, and neither can
    drift from the other.

    repeated   lines that several documents have: the figure outside them stands beside the other
    store      keeps the base's scores by content, so that the next comparison reads only the adapter; not of
               a protocol in which documents lend each other context
    reader     whose tokenizer reads for the model, where it is not the base's: what it pays for a document is
               then divided by the base's tokens of it, so that both sides are counted in one unit
    raises     FtError for masked models of two tokenizers, which have no common figure
    """
    encoded = prepare(documents, base.tokenizer, protocol, repeated)
    read = encoded
    reader = reader or base
    if reader.tokenizer_sha256 != base.tokenizer_sha256:
        if protocol.metric != "perplexity":
            found = "two tokenizers, which hide different pieces"
            raise FtError(
                base.name,
                "one tokenizer for a masked model and its base",
                found,
                "run.json has its validation figure.",
            )
        read = prepare(documents, reader.tokenizer, protocol, repeated)
    fraction = sampled_fraction(encoded, protocol)
    tokens = round(fraction * sum(len(document.ids) for document in encoded))
    device = next(model.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=protocol.precision == "bfloat16")
    if protocol.exact and tokens > EXACT_TOKENS:
        with half:
            screen.say(_forecast(model, read, reader, protocol, kind))
    with screen.stage(kind, 2 * tokens, ends_full=True) as advance, half:
        trained = score(TokenLosses(model, base.family), read, reader, protocol, advance=advance)
        with base_side(base) as alone:
            losses = TokenLosses(alone, base.family)
            compute = partial(score, losses, base=base, protocol=protocol, rate=fraction, advance=advance)
            if store is None or protocol.is_approximate:  # a text's neighbours would move what is kept of it
                plain = compute(encoded)
            else:
                plain = store.scores(_identity(base, protocol, fraction, device.type), encoded, compute)
    unknown = base.tokenizer.unk_token_id if base.family.objective == "masked" else None
    count = sum(len(document.ids) for document in encoded)
    base_totals = [document_totals(d, nll) for d, nll in zip(encoded, plain, strict=True)]
    if not any(totals.tokens for totals in base_totals):
        raise FtError(f"text of {corpus}", "a token to score", "none", "Choose more text.")
    fresh_base = [_fresh(d, nll) for d, nll in zip(encoded, plain, strict=True)]
    return CorpusScores(
        corpus,
        kind,
        encoded,
        base_totals,
        _in_units_of(base_totals, [document_totals(d, nll) for d, nll in zip(read, trained, strict=True)]),
        fresh_base,
        _in_units_of(fresh_base, [_fresh(d, nll) for d, nll in zip(read, trained, strict=True)]),
        fraction,
        sum(int((document.ids == unknown).sum()) for document in encoded) / count
        if unknown is not None
        else 0.0,
    )


def score_parts(
    model: nn.Module,
    base: Base,
    protocol: Protocol,
    corpus: Corpus,
    general: str | None,
    held_out: Sequence[Document],
    train: Sequence[Document],
    screen: Screen,
    store: Store | None = None,
    reader: Base | None = None,
) -> list[CorpusScores]:
    """What every run is judged on: held-out text, general text, and as much training text as is held out."""
    label = source_label(corpus.source)
    repeated = repeated_lines([*held_out, *train])
    parts: list[tuple[str, Kind, Sequence[Document]]] = [(label, "held-out", held_out)]
    if general is not None:
        parts.append((source_label(general), "general", read_source(general).documents))
    if train:
        parts.append((label, "train", sample(train, len(held_out))))
    return [
        score_both(model, base, protocol, name, kind, documents, repeated, screen, store, reader)
        for name, kind, documents in parts
    ]


def source_label(source: str) -> str:
    """A short name for a source, without the machine's folders."""
    return parse_text(source).label


def compare(
    name: str,
    base: Base,
    protocol: Protocol,
    scored: Sequence[CorpusScores],
    reader: Base | None = None,
    *,
    knows_training_text: bool = True,
) -> Comparison:
    """Turn raw totals into differences, intervals, p-values over the corpora, and the gap."""
    held_out = next((s for s in scored if s.kind == "held-out"), None)
    train = next((s for s in scored if s.kind == "train"), None)
    gap = generalisation_gap(held_out.columns(), train.columns()) if held_out and train else None
    compared = [_compared(s, protocol) for s in scored]
    tested = [i for i, c in enumerate(compared) if c.kind != "train" and c.difference.p_value is not None]
    adjusted = holm([compared[i].difference.p_value or 0.0 for i in tested])
    for i, p_value in zip(tested, adjusted, strict=True):
        compared[i] = replace(compared[i], holm_p_value=p_value)
    own = (reader or base).tokenizer_sha256
    other = own if own != base.tokenizer_sha256 else None
    return Comparison(
        name, base.name, base.tokenizer_sha256, other, knows_training_text, protocol, compared, gap
    )


def _compared(scored: CorpusScores, protocol: Protocol) -> CorpusComparison:
    base, adapter = corpus_totals(scored.base), corpus_totals(scored.adapter)
    fresh_tokens = sum(totals.tokens for totals in scored.fresh_base)
    outside = None
    if 0 < fresh_tokens < base.tokens:
        outside = _difference(scored.documents, scored.fresh_base, scored.fresh_adapter)
    difference = _difference(scored.documents, scored.base, scored.adapter)
    if protocol.is_approximate and difference.method == "bootstrap":
        difference = replace(difference, method="bootstrap, approximate")
    return CorpusComparison(
        scored.corpus,
        scored.kind,
        base,
        adapter,
        difference,
        None,
        outside,
        1 - fresh_tokens / base.tokens,
        scored.scored_fraction,
        scored.unknown_fraction,
    )


def _columns(
    documents: Sequence[Encoded], base: Sequence[Totals], adapter: Sequence[Totals]
) -> tuple[list[str], Columns]:
    """The groups and the totals of the documents that have a scored token."""
    scored = [each for each in zip(documents, base, adapter, strict=True) if each[1].tokens]
    return [d.document.group for d, _, _ in scored], (
        np.array([b.nll_nats for _, b, _ in scored]),
        np.array([a.nll_nats for _, _, a in scored]),
        np.array([b.tokens for _, b, _ in scored]),
    )


def _difference(
    documents: Sequence[Encoded], base: Sequence[Totals], adapter: Sequence[Totals]
) -> Difference:
    groups, columns = _columns(documents, base, adapter)
    return paired_difference(*columns, groups=groups)


def _forecast(
    model: nn.Module, documents: Sequence[Encoded], reader: Base, protocol: Protocol, kind: str
) -> str:
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
    return f"{kind}: {count:,} tokens, {2 * count:,} forward rows for both models: about {wait}"


def _in_units_of(base: Sequence[Totals], own: Sequence[Totals]) -> list[Totals]:
    """The model's nats, with the base's number of tokens to divide them by."""
    return [replace(totals, tokens=unit.tokens) for unit, totals in zip(base, own, strict=True)]


def _fresh(document: Encoded, nll: TokenNll) -> Totals:
    return document_totals(document, np.where(document.is_fresh, nll, np.nan))


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
