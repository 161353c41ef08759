"""Scoring texts with both sides of a pair: the same ids at the same positions, twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ft_toolkit.errors import FtError
from ft_toolkit.judging.frequency import Counts, count_bits, training_counts
from ft_toolkit.judging.protocols import (
    EXACT_TOKENS,
    Protocol,
    prepare,
    sampled_fraction,
    score,
    score_tokens,
)
from ft_toolkit.judging.share import Share
from ft_toolkit.judging.store import Store
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Kind, Side, Subject
from ft_toolkit.judging.totals import Scored, count_words
from ft_toolkit.judging.unseen import read_general
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.references import parse_text
from ft_toolkit.runtime import versions
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import Document
from ft_toolkit.text.screening import repeated_lines
from ft_toolkit.text.splitting import Parts, sample

FORECAST_TOKENS = 64  # scored to estimate how long --exact takes


@dataclass(frozen=True)
class Scorer:
    """A pair, how texts are scored with both sides, and the session that it happens in.

    With a tokenizer of its own the tuned model's NLL is divided by the base's token count, so that both sides
    share one unit.
    """

    pair: ModelPair
    protocol: Protocol
    session: Session

    def share(self, advance: Callable[[int], object] = lambda tokens: None) -> Share:
        """This process's part in scoring; `advance` is told how many tokens were scored."""
        return Share.of(self.session.accelerator, advance)

    def subject(self, name: str, *, knows_training_text: bool = True) -> Subject:
        """What is scored, without a folder of this machine."""
        base = self.pair.base
        return Subject(
            name,
            Path(base.name).name if Path(base.name).is_dir() else base.name,
            base.tokenizer_sha256,
            self.pair.own_tokenizer_sha256,
            knows_training_text,
            self.protocol,
        )


@dataclass(frozen=True)
class Text:
    """Documents to score as one corpus.

    repeated      lines that several documents share: a second figure leaves them out
    keeps_ids     whether token ids are kept with the scores: the text can be restored from them
    train_counts  how often the training text has each token of the base's vocabulary; None: nobody counted
    """

    corpus: str
    kind: Kind
    documents: Sequence[Document]
    repeated: frozenset[str] = frozenset()
    keeps_ids: bool = True
    train_counts: Counts | None = None


def score_both(scorer: Scorer, text: Text) -> CorpusScores:
    """Score documents with the tuned model, then with its base.

    raises   FtError for masked models with two tokenizers, which have no common figure, and for text without
             a token to score
    """
    pair, protocol = scorer.pair, scorer.protocol
    if not pair.has_common_figure:
        wanted = "one tokenizer for a masked model and its base"
        found = "two, which mask different pieces"
        raise FtError(pair.base.name, wanted, found, "run.json has its validation figure.")
    encoded = prepare(text.documents, pair.base.tokenizer, protocol, text.repeated)
    own = encoded
    if pair.own_tokenizer_sha256 is not None:
        own = prepare(text.documents, pair.tuned.tokenizer, protocol, text.repeated)
    fraction = sampled_fraction(encoded, protocol)
    base, tuned = _score_sides(scorer, text.kind, (encoded, own), fraction)
    number_of = {group: n for n, group in enumerate(dict.fromkeys(one.document.group for one in encoded))}
    documents = [
        DocumentScores(
            one.document.id,
            number_of[one.document.group],
            len(one.document.text.encode()),
            count_words(one.document.text),
            _side(one, of_base, text, text.train_counts),
            _side(other, of_tuned, text, text.train_counts if own is encoded else None),
            one.document.corpus or None,
        )
        for one, of_base, other, of_tuned in zip(encoded, base, own, tuned, strict=True)
    ]
    scored = CorpusScores(text.corpus, text.kind, documents, fraction, _unknown_fraction(pair.base, encoded))
    if not any(totals.tokens for totals in scored.base):
        raise FtError(f"text of {text.corpus}", "a token to score", "none", "Choose more text.")
    return scored


def _score_sides(
    scorer: Scorer, kind: Kind, encoded: tuple[list[Encoded], list[Encoded]], rate: float
) -> tuple[list[Scored], list[Scored]]:
    """(of the base, of the tuned model): one Scored a document.

    encoded   the documents as the base's tokenizer reads them, and as the tuned model's does
    """
    pair, protocol, screen = scorer.pair, scorer.protocol, scorer.session.screen
    for_base, for_tuned = encoded
    half = torch.autocast(pair.tuned.device.type, torch.bfloat16, enabled=protocol.precision == "bfloat16")
    tokens = round(rate * sum(len(document.ids) for document in for_base))
    if protocol.exact and tokens > EXACT_TOKENS:
        with half:
            screen.say(f"{kind}: {_forecast(pair.tuned, for_tuned, protocol)}")
    with screen.stage(kind, 2 * tokens, ends_full=True) as advance, half:
        share = scorer.share(advance)
        tuned = score_tokens(pair.tuned, for_tuned, protocol, share=share)
        with pair.base_side() as base:
            compute = partial(score_tokens, base, protocol=protocol, rate=rate, share=share)
            of_base = _base_scores(scorer, for_base, rate, compute)
    return of_base, tuned


def _base_scores(
    scorer: Scorer, encoded: list[Encoded], rate: float, compute: Callable[[Sequence[Encoded]], list[Scored]]
) -> list[Scored]:
    """The base's scores, from the cache where possible."""
    session, protocol, base = scorer.session, scorer.protocol, scorer.pair.base
    # an approximate protocol scores a text in its neighbours' context, which would move what is kept of it
    if protocol.is_approximate:
        return compute(encoded)
    return kept_scores(
        session, identity(base) | {"protocol": protocol.as_dict(), "rate": rate}, encoded, compute
    )


def kept_scores(
    session: Session,
    asked: dict[str, object],
    encoded: list[Encoded],
    compute: Callable[[Sequence[Encoded]], list[Scored]],
) -> list[Scored]:
    """Scores from the first process's cache, or computed by all and kept there; see Store.scores."""
    if session.score_cache is None:
        return compute(encoded)
    store = Store(session.score_cache, session.screen.say)
    place_of = {id(document): place for place, document in enumerate(encoded)}

    def kept(together: Callable[[list[int]], list[Scored]]) -> list[Scored]:
        return store.scores(asked, encoded, lambda some: together([place_of[id(one)] for one in some]))

    share = Share.of(session.accelerator)
    return share.led(kept, lambda places: compute([encoded[place] for place in places]))


def _side(document: Encoded, scored: Scored, text: Text, counts: Counts | None) -> Side:
    bits = None if counts is None else count_bits(counts, document.ids)
    return Side(document.ids if text.keeps_ids else None, document.is_fresh, *scored, bits)


def _unknown_fraction(base: LanguageModel, documents: Sequence[Encoded]) -> float:
    """The share of tokens that are [UNK]; a causal model's tokenizer spells everything."""
    unknown = base.tokenizer.unk_token_id if base.family.objective == "masked" else None
    if unknown is None:
        return 0.0
    count = max(1, sum(len(document.ids) for document in documents))
    return sum(int((document.ids == unknown).sum()) for document in documents) / count


def score_parts(scorer: Scorer, recipe: Recipe, parts: Parts) -> list[CorpusScores]:
    """Score what every run is judged on."""
    return [score_both(scorer, text) for text in judged_texts(scorer.pair.base, recipe, parts)]


def judged_texts(base: LanguageModel, recipe: Recipe, parts: Parts) -> list[Text]:
    """What judged_documents chooses, as texts to score.

    parts   of the recipe's corpus
    """
    judged = judged_documents(recipe, parts)
    repeated = repeated_lines([*parts.test, *parts.train], chain.from_iterable(judged.values()))
    counts = training_counts(base, parts.train)
    keeps_ids = recipe.judging.keep_text
    return [
        # training text is never kept
        Text(
            source_label(recipe.judging.general or "") if kind == "general" else recipe.text_label,
            kind,
            documents,
            repeated,
            keeps_ids and kind != "train",
            counts,
        )
        for kind, documents in judged.items()
    ]


def judged_documents(recipe: Recipe, parts: Parts) -> dict[Kind, Sequence[Document]]:
    """What a verdict reads: held-out text, general text, and as much training text as held-out.

    Held-out documents that mostly stand in the training text are a text apart; what there is not is left out.
    """
    found: dict[Kind, Sequence[Document]] = {"held-out": parts.clean_test}
    if parts.tainted_test:
        found["tainted"] = parts.tainted_test
    if recipe.judging.general is not None:
        found["general"] = read_general(recipe.judging)
    if parts.train:
        found["train"] = sample(parts.train, len(parts.clean_test))
    return found


def source_label(source: str) -> str:
    """A short name for a source, without the machine's folders."""
    return parse_text(source).label


def _forecast(model: LanguageModel, documents: Sequence[Encoded], protocol: Protocol) -> str:
    """Estimate the time for scoring every token from a few of them; a token's cost grows with its window."""
    costs = [len(d.ids) * min(len(d.ids), protocol.window_tokens) for d in documents]
    probe = documents[int(np.argsort(costs)[len(costs) // 2])]
    rate = min(1.0, FORECAST_TOKENS / len(probe.ids))
    started = time.perf_counter()
    (nll,) = score(model, [probe], protocol, rate=rate)
    scored = int((~np.isnan(nll)).sum()) or 1
    paid = scored * min(len(probe.ids), protocol.window_tokens)
    seconds = 2 * (time.perf_counter() - started) * sum(costs) / paid
    count = sum(len(d.ids) for d in documents)
    wait = f"{seconds / 60:,.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    return f"{count:,} tokens, {2 * count:,} forward rows for both models: about {wait}"


def identity(base: LanguageModel) -> dict[str, object]:
    """Everything except text and protocol that changes what a base predicts, even in its last bits."""
    return {
        **base.sha256s,
        "special": asdict(base.special),
        "machine": [base.device.type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "versions": versions(),
    }
