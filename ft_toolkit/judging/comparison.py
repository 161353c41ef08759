"""Base against adapter, every difference paired by document. Computed from scores, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ft_toolkit.errors import FtError
from ft_toolkit.judging.predictions import Divergence, TrueTokenChange, divergence_of, true_token_change
from ft_toolkit.judging.protocols import Protocol
from ft_toolkit.judging.statistics import (
    Columns,
    Difference,
    Gap,
    by_group,
    generalisation_gap,
    holm,
    paired_difference,
)
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Kind, Subject, TokenScores
from ft_toolkit.judging.totals import Totals, corpus_totals

SCHEMA = 7
READ_SCHEMAS = (5, 6, SCHEMA)  # 5 had no kind "tainted", 6 no "source"


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
    true_token: TrueTokenChange | None = None  # None where the tuned model has a tokenizer of its own
    divergence: Divergence | None = None  # on the beginnings of the texts that the verdict is about

    def as_dict(self, metric: str) -> dict[str, Any]:
        """The numbers and the figures derived from them; inf, which JSON lacks, becomes the largest float."""
        figure = metric.replace("-", "_")
        derived: dict[str, float | None] = {
            f"base_{figure}": self.base.perplexity,
            f"adapter_{figure}": self.adapter.perplexity,
        }
        if metric == "perplexity":  # a masked model gives no code length, so no bits per byte
            for side, totals in (("base", self.base), ("adapter", self.adapter)):
                derived |= {
                    f"{side}_word_perplexity": totals.word_perplexity,
                    f"{side}_bits_per_byte": totals.bits_per_byte,
                }
        derived["percent"] = self.difference.percent
        return asdict(self) | {
            name: None if value is None else min(value, sys.float_info.max) for name, value in derived.items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CorpusComparison:
        """Read what as_dict wrote; derived figures are computed again."""
        own = {field.name: values[field.name] for field in fields(cls)}
        outside = own["outside_repeated_lines"]
        return cls(
            **own
            | {"base": Totals(**own["base"]), "adapter": Totals(**own["adapter"])}
            | {"difference": Difference(**own["difference"])}
            | {"outside_repeated_lines": Difference(**outside) if outside else None}
            | {"true_token": own["true_token"] and TrueTokenChange.from_dict(own["true_token"])}
            | {"divergence": own["divergence"] and Divergence.from_dict(own["divergence"])}
        )


@dataclass(frozen=True)
class Comparison(Subject):
    """Everything that the verdict is computed from.

    drift   from the base, on its own samples (causal) or on general text (masked); None where not measured
    """

    corpora: list[CorpusComparison]
    gap: Gap | None
    drift: Divergence | None = None

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
            "drift": asdict(self.drift) if self.drift else None,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Comparison:
        """Read comparison.json again.

        raises   FtError for one of another schema, or a damaged one
        """
        try:
            if values["schema"] not in READ_SCHEMAS:
                wanted, found = f"schema {SCHEMA}", f"schema {values['schema']}"
                raise FtError("comparison.json", wanted, found, "Judge the run again with this ft-toolkit.")
            gap = values["gap"] and {k: v for k, v in values["gap"].items() if k != "excess_nats"}
            return cls(
                values["name"],
                values["base"],
                values["tokenizer_sha256"],
                values["own_tokenizer_sha256"],
                values["knows_training_text"],
                Protocol.from_dict(values["protocol"]),
                [CorpusComparison.from_dict(corpus) for corpus in values["corpora"]],
                Gap(**gap) if gap else None,
                values["drift"] and Divergence.from_dict(values["drift"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            wanted, cure = "a comparison that ft wrote", "Restore the file, or judge the run again."
            raise FtError("comparison.json", wanted, f"a damaged one ({error})", cure) from None


def compare(scores: TokenScores) -> Comparison:
    """Turn raw totals into differences, intervals, p-values over the corpora, the gap, and the drift."""
    subject = scores.subject
    held_out = next((s for s in scores.corpora if s.kind == "held-out"), None)
    train = next((s for s in scores.corpora if s.kind == "train"), None)
    gap = None
    if held_out and train:
        unseen, seen = (by_group(*_columns(s.documents, s.totals())) for s in (held_out, train))
        gap = generalisation_gap(unseen, seen)
    drift = next((divergence_of(s) for s in scores.corpora if s.kind == "drift"), None)
    divergences = iter([divergence_of(s) for s in scores.corpora if s.kind == "divergence"])
    compared = [
        # one for each text that the verdict is about, in the same order
        _compared(s, subject, next(divergences, None) if s.kind in ("held-out", "other") else None)
        for each in scores.corpora
        if each.kind not in ("drift", "divergence")
        for s in (each, *_sources(each))
    ]
    tested = [
        i
        for i, c in enumerate(compared)
        if c.kind not in ("train", "tainted") and c.difference.p_value is not None
    ]
    adjusted = holm([compared[i].difference.p_value or 0.0 for i in tested])
    for i, p_value in zip(tested, adjusted, strict=True):
        compared[i] = replace(compared[i], holm_p_value=p_value)
    own = {field.name: getattr(subject, field.name) for field in fields(subject)}
    return Comparison(**own, corpora=compared, gap=gap, drift=drift)


def _sources(scored: CorpusScores) -> list[CorpusScores]:
    """The held-out text of each source of a mixture; none of a text alone."""
    is_read = ((each, base.tokens > 0) for each, base in zip(scored.documents, scored.base, strict=True))
    labels = dict.fromkeys(each.source for each, is_scored in is_read if each.source and is_scored)
    if scored.kind != "held-out" or len(labels) < 2:
        return []
    return [
        replace(
            scored, corpus=label, kind="source", documents=[d for d in scored.documents if d.source == label]
        )
        for label in labels
    ]


def _compared(scored: CorpusScores, subject: Subject, divergence: Divergence | None) -> CorpusComparison:
    base, adapter = corpus_totals(scored.base), corpus_totals(scored.adapter)
    fresh = scored.totals(fresh=True)
    fresh_tokens = sum(totals.tokens for totals, _ in fresh)
    outside = None
    if 0 < fresh_tokens < base.tokens:
        outside = _difference(scored.documents, fresh)
    difference = _difference(scored.documents, scored.totals())
    if subject.protocol.is_approximate and difference.method == "bootstrap":
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
        true_token_change(scored) if subject.own_tokenizer_sha256 is None else None,
        divergence,
    )


def _columns(
    documents: Sequence[DocumentScores], totals: Sequence[tuple[Totals, Totals]]
) -> tuple[list[int], Columns]:
    """The groups and the totals of the documents that have a scored token."""
    scored = [(d, *pair) for d, pair in zip(documents, totals, strict=True) if pair[0].tokens]
    return [d.group for d, _, _ in scored], (
        np.array([b.nll_nats for _, b, _ in scored]),
        np.array([a.nll_nats for _, _, a in scored]),
        np.array([b.tokens for _, b, _ in scored]),
    )


def _difference(documents: Sequence[DocumentScores], totals: Sequence[tuple[Totals, Totals]]) -> Difference:
    groups, columns = _columns(documents, totals)
    return paired_difference(*columns, groups=groups)
