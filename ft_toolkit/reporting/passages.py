"""The token map: held-out passages with each token's NLL under base and tuned model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.judging.bands import COUNT_BITS, COUNT_NAMES
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.judging.vocabulary import Vocabulary
from ft_toolkit.reporting.figures import evenly

PASSAGES = 12
PASSAGE_TOKENS = 400
NAMED = 5  # tokens that gained most, and that lost most, as moved_most names them
MARKED = 0.1  # the share of the shown tokens that counts as most gained, and as most lost
# Nats from which a shade is used: the token is 1.25, 2, 4 or 16 times as likely.
SHADES = (math.log(1.25), math.log(2), math.log(4), math.log(16))
RARE_BITS, RARE_WORDS = COUNT_BITS[1], f"{COUNT_NAMES[0]} or {COUNT_NAMES[1]}"
# control characters have pictures of their own; a terminal's or a page's commands become letters
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


@dataclass(frozen=True)
class Piece:
    """Some text; where it was scored, the nats that it took under both models.

    blank   the space before it, where the token brings one along
    shade   from -4 (16 times less likely under the tuned model) to 4 (16 times as likely)
    """

    text: str
    blank: str = ""
    base_nats: float | None = None
    tuned_nats: float | None = None
    shade: int = 0
    is_rare: bool = False
    is_gained: bool = False
    is_lost: bool = False

    @property
    def gain(self) -> float:
        return 0.0 if self.base_nats is None or self.tuned_nats is None else self.base_nats - self.tuned_nats

    @property
    def marks(self) -> str:
        """CSS classes."""
        shade = f"b{self.shade}" if self.shade > 0 else f"w{-self.shade}" if self.shade else ""
        marks = (("rare", self.is_rare), ("up", self.is_gained), ("down", self.is_lost))
        return " ".join(filter(None, (shade, *(mark for mark, is_so in marks if is_so))))


@dataclass(frozen=True)
class Passage:
    """The beginning of a document; nats a token are of all of it."""

    name: str
    base_nats: float
    tuned_nats: float
    shown_tokens: int
    tokens: int
    pieces: list[Piece]


@dataclass(frozen=True)
class TokenMap:
    """Passages of documents that are evenly spaced between the one that gained most and the one that lost."""

    passages: list[Passage]
    documents: int
    knows_rare: bool
    is_sampled: bool  # the protocol scores a part of the tokens


def token_map(
    corpus: CorpusScores, vocabulary: Vocabulary, texts: Mapping[str, str], names: Mapping[str, str]
) -> TokenMap | None:
    """The map of a corpus whose models read the same tokens; None where no document's text is at hand.

    texts, names   of its documents, by their ids
    """
    scored = [one for one in corpus.documents if one.id in texts and not np.isnan(one.base.nats).all()]
    shown = evenly(sorted(scored, key=_change), PASSAGES)
    passages = [_passage(one, vocabulary, texts[one.id], names[one.id]) for one in shown]
    found = [passage for passage in passages if passage is not None]
    if not found:
        return None
    knows_rare = all(one.base.train_count_bits is not None for one in shown)
    return TokenMap(_marked(found), len(corpus.documents), knows_rare, corpus.scored_fraction < 1)


def _change(document: DocumentScores) -> float:
    base, tuned = document.totals()
    return tuned.nats_per_token - base.nats_per_token


def _passage(document: DocumentScores, vocabulary: Vocabulary, text: str, name: str) -> Passage | None:
    """None where the text is not what was scored."""
    base, tuned = document.base, document.adapter
    spans = None if base.ids is None else vocabulary.spans(text, base.ids)
    if spans is None:
        return None
    rare = np.zeros(len(spans), dtype=np.bool_)
    if base.train_count_bits is not None:
        rare = base.train_count_bits < RARE_BITS
    count = min(len(spans), PASSAGE_TOKENS)
    pieces = pieces_of(text, spans[:count], base.nats, tuned.nats, rare)
    before, after = (side.nats_per_token for side in document.totals())
    return Passage(name, before, after, count, len(spans), pieces)


def typed_passage(
    name: str, text: str, spans: list[tuple[int, int]], base: TokenNll, tuned: TokenNll
) -> Passage:
    """A whole text as a passage, with its own most gained and most lost tokens.

    spans   of its tokens, from Vocabulary.spans
    """
    count, rare = len(spans), np.zeros(len(spans), dtype=np.bool_)
    pieces = pieces_of(text, spans, base, tuned, rare)
    means = float(np.nanmean(base)), float(np.nanmean(tuned))
    return _marked([Passage(name, *means, count, count, pieces)])[0]


def moved_most(pieces: Iterable[Piece]) -> list[str]:
    """The tokens that gained and lost most, in words: the same as the shades say."""
    ranked = sorted((piece for piece in pieces if piece.shade), key=lambda piece: -piece.gain)
    gained = [piece for piece in ranked if piece.gain > 0][:NAMED]
    lost = [piece for piece in reversed(ranked) if piece.gain < 0][:NAMED]
    lines = []
    for words, some in (("tuned finds more likely", gained), ("less likely", lost)):
        if some:
            names = ", ".join(f"{piece.text!r} {math.exp(min(abs(piece.gain), 700)):,.3g}×" for piece in some)
            lines.append(f"{words}: {names}")
    return lines


def pieces_of(
    text: str,
    spans: list[tuple[int, int]],
    base: TokenNll,
    tuned: TokenNll,
    rare: NDArray[np.bool_],
) -> list[Piece]:
    """The text from its beginning to the last span, in order and whole.

    Tokens that share a character, as the bytes of an emoji do, are one piece: their nats add up.
    """
    pieces: list[Piece] = []
    end = 0
    for place, (start, stop) in enumerate(spans):
        own = _piece("", base[place], tuned[place], bool(rare[place]))
        if stop <= end and pieces:
            pieces[-1] = _joined(pieces[-1], own)
            continue
        start = max(start, end) if stop > start else end  # a token of blanks alone may have no span
        if start > end:
            pieces.append(Piece(text[end:start].translate(PICTURES)))
        written = text[start:stop].translate(PICTURES)
        shown = written.lstrip(" ") or written
        pieces.append(replace(own, text=shown, blank=written[: len(written) - len(shown)]))
        end = max(end, stop)
    return pieces


def _piece(text: str, base: float, tuned: float, is_rare: bool) -> Piece:
    if math.isnan(base) or math.isnan(tuned):
        return Piece(text)
    gain = base - tuned
    shade = sum(abs(gain) >= edge for edge in SHADES)
    return Piece(text, "", float(base), float(tuned), shade if gain > 0 else -shade, is_rare)


def _joined(one: Piece, other: Piece) -> Piece:
    if one.base_nats is None or one.tuned_nats is None:
        return replace(other, text=one.text, blank=one.blank)
    if other.base_nats is None or other.tuned_nats is None:
        return one
    sums = one.base_nats + other.base_nats, one.tuned_nats + other.tuned_nats
    joined = _piece(one.text, *sums, one.is_rare or other.is_rare)
    return replace(joined, blank=one.blank)


def _marked(passages: list[Passage]) -> list[Passage]:
    """Mark the tokens that gained and lost most."""
    gains = [piece.gain for passage in passages for piece in passage.pieces if piece.base_nats is not None]
    if not gains:
        return passages
    low, high = np.quantile(gains, (MARKED, 1 - MARKED))

    def mark(piece: Piece) -> Piece:
        is_gained, is_lost = piece.gain >= max(high, SHADES[0]), piece.gain <= min(low, -SHADES[0])
        return replace(piece, is_gained=is_gained, is_lost=is_lost)

    return [replace(one, pieces=[mark(piece) for piece in one.pieces]) for one in passages]
