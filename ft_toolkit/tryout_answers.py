"""What a base and the models tuned from it make of a typed text: ft try, before anything is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from peft import PeftModel
from tokenizers import Tokenizer

from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import Protocol, choose_protocol, score
from ft_toolkit.judging.share import Share
from ft_toolkit.judging.totals import TokenNll, Totals, document_totals
from ft_toolkit.judging.vocabulary import Vocabulary
from ft_toolkit.models.guesses import MASK, Guess, guesses, has_mask
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.sampling import continued_ids
from ft_toolkit.reporting.passages import Passage, typed_passage
from ft_toolkit.reporting.tables import perplexity
from ft_toolkit.run import Run
from ft_toolkit.run_models import trained_pairs
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.documents import TextDocument

T = TypeVar("T")
BASE, TUNED = "base", "tuned"
BITS = "bits per byte"
TOO_SHORT = "one token is too short"
Grown = Callable[[str, str], object]  # told a model's name and its text so far


@dataclass(frozen=True)
class Draw:
    """How a continuation is drawn.

    stop   it ends before any of these texts
    """

    tokens: int = 60
    temperature: float = 0.8
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """A tuned model under the name of its column, and its adapter's name where others share its weights."""

    name: str
    pair: ModelPair
    adapter: str | None

    def switched_on(self) -> LanguageModel:
        model = self.pair.tuned.model
        if isinstance(model, PeftModel) and self.adapter is not None:
            model.set_adapter(self.adapter)
        return self.pair.tuned


@dataclass(frozen=True)
class Tried:
    """A base and the models that were tuned from it; their weights may be shared."""

    base: LanguageModel
    tuned: list[Tuned]

    @property
    def is_masked(self) -> bool:
        return self.base.family.objective == "masked"

    @cached_property
    def protocol(self) -> Protocol:
        return choose_protocol(self.base, exact=self.is_masked)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        backend = self.base.tokenizer.backend_tokenizer.to_str()
        return Vocabulary(Tokenizer.from_str(backend))  # a copy, since it changes a setting

    def ask_all(self, ask: Callable[[str, LanguageModel], T]) -> list[T]:
        """What the base answers, then each tuned model; told its name, too."""
        with self.tuned[0].pair.base_side() as base:
            found = [ask(BASE, base)]
        return found + [ask(one.name, one.switched_on()) for one in self.tuned]


@dataclass(frozen=True)
class _Reading:
    """A text as one model reads it, its nats, and what a causal model writes behind it."""

    read: Encoded
    nats: TokenNll
    goes_on: str | None

    @cached_property
    def totals(self) -> Totals:
        return document_totals(self.read, self.nats)


@dataclass(frozen=True)
class Answer:
    """What one model makes of a text.

    guesses   for each [MASK] of it, the likeliest first
    figures   of the text itself, by the name of the metric
    passage   the text against the same text under the base; None for the base itself
    """

    name: str
    goes_on: str | None = None
    guesses: list[list[Guess]] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    passage: Passage | None = None


@dataclass(frozen=True)
class Answers:
    """The base's answer, then that of each model tuned from it."""

    base_name: str
    answers: list[Answer]

    @property
    def metrics(self) -> list[str]:
        """Of all figures, each once."""
        return list(dict.fromkeys(metric for answer in self.answers for metric in answer.figures))


def load_tried(runs: Sequence[Run], session: Session) -> list[Tried]:
    """The models of some runs, a Tried for each base. A column is called after its run's folder.

    raises   FtError for a base that is not that of training; IntegrityFailed for an adapter or model that is
             not the one that was trained
    """
    for run in runs:
        run.check_trained(session.screen.say)
    folders = [run.folder.name for run in runs]
    found: dict[int, Tried] = {}
    for run, pair in trained_pairs(runs, session):
        plain = run.folder.name if folders.count(run.folder.name) == 1 else str(run.folder)
        model = pair.tuned.model
        adapter = model.active_adapter if isinstance(model, PeftModel) else None
        one = Tuned(TUNED if len(runs) == 1 else plain, pair, adapter)
        found.setdefault(id(pair.base), Tried(pair.base, [])).tuned.append(one)
    return list(found.values())


def answers_of(tried: Tried, text: str, draw: Draw, grown: Grown = lambda name, so_far: None) -> Answers:
    """Guesses where the text has [MASK]; else a continuation (causal models) and the text's perplexity.

    grown    told each model's continuation behind each token, and while it scores; it may raise to end it
    raises   FtError for an empty text, one too long for guesses, or [MASK] where the model has none
    """
    _refuse_unreadable(text)
    if has_mask(tried.base, text):
        guessed = tried.ask_all(lambda name, model: Answer(name, guesses=guesses(model, text)))
        return Answers(tried.base.name, guessed)
    if MASK in text and not tried.is_masked:
        wrong = f"{MASK}, and {tried.base.name} is causal"
        raise FtError("ft try", "a text to continue", wrong, f"Leave {MASK} out.")

    def ask(name: str, model: LanguageModel) -> _Reading:
        read, goes_on = _read(model, text), None
        if not tried.is_masked:
            goes_on = continuation(model, text, draw, lambda so_far: grown(name, so_far))
        so_far = goes_on or ""
        told = Share(advance=lambda tokens: grown(name, so_far))
        (nats,) = score(model, [read], tried.protocol, share=told)
        return _Reading(read, nats, goes_on)

    base, *others = tried.ask_all(ask)
    answers: list[Answer] = []
    figures: dict[str, str] = {}
    for one, own in zip(tried.tuned, others, strict=True):
        answer, of_base = _judged(tried, one, base, own)
        answers.append(answer)
        figures |= of_base
    return Answers(tried.base.name, [Answer(BASE, base.goes_on, figures=figures), *answers])


def _refuse_unreadable(text: str) -> None:
    """raises   FtError for an empty text, or half a character, as a terminal may hand it over"""
    if not text.strip():
        raise FtError("ft try", "a text", "an empty one", 'Write ft try RUN "some words".')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FtError("ft try", "a text in UTF-8", "other bytes", "Check the terminal's encoding.") from None


def _read(model: LanguageModel, text: str) -> Encoded:
    """raises   FtError for a text of which the tokenizer leaves nothing"""
    found = encode([TextDocument("typed", 0, text)], model.tokenizer)
    if not found:
        raise FtError("ft try", "a text with a token in it", "none", "Type a word.")
    return found[0]


def _judged(tried: Tried, one: Tuned, base: _Reading, own: _Reading) -> tuple[Answer, dict[str, str]]:
    """A tuned model's answer, and the base's figures in the same unit."""
    metric = tried.protocol.metric if one.pair.own_tokenizer_sha256 is None else BITS
    figures, of_base, passage = {}, {}, None
    if one.pair.has_common_figure:
        figures, of_base = ({metric: _figure(metric, each.totals)} for each in (own, base))
    if metric != BITS and base.totals.tokens:
        spans = tried.vocabulary.spans(base.read.document.text, base.read.ids) or []
        passage = typed_passage(one.name, base.read.document.text, spans, base.nats, own.nats)
    return Answer(one.name, own.goes_on, figures=figures, passage=passage), of_base


def _figure(metric: str, totals: Totals) -> str:
    if not totals.tokens:
        return TOO_SHORT
    return f"{totals.bits_per_byte:.3f}" if metric == BITS else perplexity(totals.nats_per_token)


def continuation(
    model: LanguageModel, text: str, draw: Draw, grown: Callable[[str], object] = lambda so_far: None
) -> str:
    """What a causal model writes behind a text, up to the first stop."""

    def is_enough(ids: Sequence[int]) -> bool:
        written = _written(model, ids)
        grown(_before(written, draw.stop).strip())
        return any(stop in written for stop in draw.stop)

    prompt = _read(model, text)
    ids = continued_ids(model, prompt.ids, draw.tokens, draw.seed, draw.temperature, is_enough)
    return _before(_written(model, ids.tolist()), draw.stop).strip()


def _written(model: LanguageModel, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))


def _before(text: str, stops: Sequence[str]) -> str:
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else text
