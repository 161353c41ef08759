"""Base against adapter: the same ids at the same positions, twice, and every difference paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from peft import PeftModel

from ft_toolkit.judging.effects import train_sample
from ft_toolkit.judging.protocols import Protocol, score
from ft_toolkit.judging.statistics import Difference, Gap, generalisation_gap, paired_difference
from ft_toolkit.judging.totals import TokenNll, Totals, corpus_totals, document_totals
from ft_toolkit.models.adapters import Base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Corpus
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.corpus import Document, read_source
from ft_toolkit.text.screening import repeated_lines

SCHEMA = 1
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

    def rows(self) -> list[dict[str, Any]]:
        """A row a document and side, as scores/*.parquet holds them."""
        return [
            {"corpus": self.corpus, "split": self.kind, "document": document.document.id, "side": side}
            | totals.as_dict()
            for side, scored in (("base", self.base), ("adapter", self.adapter))
            for document, totals in zip(self.documents, scored, strict=True)
        ]

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(base nats, adapter nats, tokens), each (n,)."""
        return _columns(self.base, self.adapter)


@dataclass(frozen=True)
class CorpusComparison:
    """One corpus in numbers."""

    corpus: str
    kind: Kind
    base: Totals
    adapter: Totals
    difference: Difference
    outside_repeated_lines: Difference | None  # None where no line is repeated
    repeated_token_fraction: float


@dataclass(frozen=True)
class Comparison:
    """Everything that the verdict is computed from."""

    name: str
    base_name: str
    protocol: Protocol
    corpora: list[CorpusComparison]
    gap: Gap | None

    def of_kind(self, kind: Kind) -> list[CorpusComparison]:
        return [corpus for corpus in self.corpora if corpus.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """comparison.json: numbers alone, no text of any corpus."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "base": self.base_name,
            "protocol": self.protocol.as_dict(),
            "corpora": [
                asdict(corpus)
                | {
                    "base_perplexity": corpus.base.perplexity,
                    "adapter_perplexity": corpus.adapter.perplexity,
                    "percent": corpus.difference.percent,
                }
                for corpus in self.corpora
            ],
            "gap": asdict(self.gap) | {"excess_nats": self.gap.excess_nats} if self.gap else None,
        }


def score_both(
    model: PeftModel,
    base: Base,
    protocol: Protocol,
    corpus: str,
    kind: Kind,
    documents: Sequence[Encoded],
    screen: Screen,
) -> CorpusScores:
    """Score documents with the adapter on, then off, through one set of weights.

    Switching off is exact for plain LoRA with bias="none" (tests/models/test_adapters.py), and neither side
    can then drift from the other.
    """
    losses = TokenLosses(model, base.family)
    tokens = sum(len(document.ids) for document in documents)
    with screen.stage(f"{kind}", 2 * tokens) as advance:
        adapter = score(losses, documents, base, protocol, advance=advance)
        with model.disable_adapter():
            plain = score(losses, documents, base, protocol, advance=advance)
    return CorpusScores(
        corpus,
        kind,
        list(documents),
        [document_totals(d, nll) for d, nll in zip(documents, plain, strict=True)],
        [document_totals(d, nll) for d, nll in zip(documents, adapter, strict=True)],
        [_fresh(d, nll) for d, nll in zip(documents, plain, strict=True)],
        [_fresh(d, nll) for d, nll in zip(documents, adapter, strict=True)],
    )


def score_parts(
    model: PeftModel,
    base: Base,
    protocol: Protocol,
    corpus: Corpus,
    general: str | None,
    held_out: Sequence[Document],
    train: Sequence[Document],
    screen: Screen,
) -> list[CorpusScores]:
    """What every run is judged on: held-out text, general text, and as much training text as is held out."""
    label = source_label(corpus.source)
    repeated = repeated_lines([*held_out, *train])
    parts: list[tuple[str, Kind, Sequence[Document]]] = [(label, "held-out", held_out)]
    if general is not None:
        parts.append((source_label(general), "general", read_source(general).documents))
    if train:
        parts.append((label, "train", train_sample(train, len(held_out))))
    return [
        score_both(model, base, protocol, name, kind, encode(documents, base.tokenizer, repeated), screen)
        for name, kind, documents in parts
    ]


def source_label(source: str) -> str:
    """A short name for a source, without the machine's folders."""
    kind, colon, name = source.partition(":")
    return name if colon and kind in ("package", "hf") else PurePath(source).name


def compare(name: str, base: Base, protocol: Protocol, scored: Sequence[CorpusScores]) -> Comparison:
    """Turn raw totals into differences, intervals and the gap."""
    held_out = next((s for s in scored if s.kind == "held-out"), None)
    train = next((s for s in scored if s.kind == "train"), None)
    gap = generalisation_gap(held_out.columns(), train.columns()) if held_out and train else None
    return Comparison(name, base.name, protocol, [_compared(s) for s in scored], gap)


def _compared(scored: CorpusScores) -> CorpusComparison:
    base, adapter = corpus_totals(scored.base), corpus_totals(scored.adapter)
    has_fresh = [i for i, totals in enumerate(scored.fresh_base) if totals.tokens]
    fresh_tokens = sum(scored.fresh_base[i].tokens for i in has_fresh)
    outside = None
    if 0 < fresh_tokens < base.tokens:
        outside = paired_difference(
            *_columns([scored.fresh_base[i] for i in has_fresh], [scored.fresh_adapter[i] for i in has_fresh])
        )
    return CorpusComparison(
        scored.corpus,
        scored.kind,
        base,
        adapter,
        paired_difference(*scored.columns()),
        outside,
        1 - fresh_tokens / base.tokens,
    )


def _columns(base: Sequence[Totals], adapter: Sequence[Totals]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([totals.nll_nats for totals in base]),
        np.array([totals.nll_nats for totals in adapter]),
        np.array([totals.tokens for totals in base]),
    )


def _fresh(document: Encoded, nll: TokenNll) -> Totals:
    part = nll[document.is_fresh]
    return replace(document_totals(document, nll), nll_nats=float(part.sum()), tokens=len(part))
