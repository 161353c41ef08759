"""Where it learnt: the change of a comparison taken apart by frequency, position and kind of token.

Every scored token stands in exactly one band of each division, so that the bands add up to the whole. From
token scores alone, so without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.judging.frequency import count_bits
from ft_toolkit.judging.statistics import Difference, paired_difference
from ft_toolkit.judging.token_scores import CorpusScores, Kind, TokenScores
from ft_toolkit.judging.vocabulary import KINDS, Vocabulary

# Edges of the bit length of a count: 1 is once, 4 is 8 times, 7 is 64 times, 10 is 512 times.
COUNT_BITS = (1, 4, 7, 10)
COUNT_NAMES = ("never", "1 to 7 times", "8 to 63 times", "64 to 511 times", "512 times and more")
POSITIONS = (16, 64, 256, 1024)
POSITION_NAMES = ("1 to 16", "17 to 64", "65 to 256", "257 to 1,024", "from 1,025 on")
SHOWN_TYPES = 10  # that gained most, and that lost most
INFLUENTIAL_TYPES = 10
TAKEN_APART: tuple[Kind, ...] = (
    "held-out",
    "general",
    "other",
)  # training ids are not kept; drift has no nats
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Band:
    """A share of the scored tokens, and how their NLL changed."""

    name: str
    tokens: int
    gain_nats: (
        float  # of all its tokens together, base minus tuned: over a division these add up to the whole
    )
    difference: Difference  # nats a token of this band, over the documents that have one


@dataclass(frozen=True)
class TokenType:
    """All occurrences of one token of the vocabulary."""

    text: str
    count: int
    gain_nats: float  # of all of them together, base minus tuned


@dataclass(frozen=True)
class Influence:
    """How much of the change hangs on a few token types.

    most           the ten whose occurrences together moved furthest, up or down
    without        the change of all other tokens
    rests_on_few   a gain that is less than half as large a token without them
    hides_loss     text that got no worse, of which all other tokens did
    """

    most: tuple[TokenType, ...]
    without: Difference
    rests_on_few: bool
    hides_loss: bool


@dataclass(frozen=True)
class Bands:
    """One corpus taken apart. None for what could not be known of its tokens."""

    corpus: str
    kind: Kind
    whole: Band
    counted_in: str  # the text in which the tokens of the frequency bands were counted
    frequency: tuple[Band, ...] | None
    position: tuple[Band, ...]
    token_kind: tuple[Band, ...] | None
    gained_most: tuple[TokenType, ...] | None
    lost_most: tuple[TokenType, ...] | None
    influence: Influence | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The scored tokens of a corpus side by side; every array is (n,)."""

    groups: Sequence[int]  # of each document
    document: Ids
    position: Ids
    base: NDArray[np.float64]
    tuned: NDArray[np.float64]
    ids: Ids | None  # None where the text is not kept
    count_bits: NDArray[np.int8] | None  # None where nothing could be counted
    kinds: NDArray[np.int8] | None  # None without ids or vocabulary

    def part(self, name: str, chosen: NDArray[np.bool_]) -> Band:
        """The band of some of them, at least one."""
        document, base, tuned = self.document[chosen], self.base[chosen], self.tuned[chosen]
        present, place = np.unique(document, return_inverse=True)
        nats = [np.bincount(place, each).astype(np.float64) for each in (base, tuned)]
        groups = [self.groups[number] for number in present]
        difference = paired_difference(nats[0], nats[1], np.bincount(place), groups=groups)
        return Band(name, int(chosen.sum()), math.fsum(base - tuned), difference)

    def whole(self) -> Band:
        return self.part("all", np.ones(len(self.base), dtype=np.bool_))

    def divided(self, names: Sequence[str], codes: NDArray[Any]) -> tuple[Band, ...]:
        """A band for each code that a token has; codes (n,) count from 0 in the order of names."""
        parts = [(name, codes == code) for code, name in enumerate(names)]
        return tuple(self.part(name, chosen) for name, chosen in parts if chosen.any())


def bands(scores: TokenScores, vocabulary: Vocabulary | None) -> list[Bands]:
    """Take apart every text that was judged on; none where the models read different tokens.

    vocabulary   of the base; None: kinds are not known, and token types bear their numbers
    """
    if scores.subject.own_tokenizer_sha256 is not None:
        return []
    return [corpus_bands(corpus, vocabulary) for corpus in scores.corpora if corpus.kind in TAKEN_APART]


def influences(
    scores: TokenScores, vocabulary: Vocabulary | None
) -> list[tuple[CorpusScores, Influence | None]]:
    """What hangs on a few token types in every text that was judged on, without the bands."""
    if scores.subject.own_tokenizer_sha256 is not None:
        return []
    found: list[tuple[CorpusScores, Influence | None]] = []
    for corpus in (each for each in scores.corpora if each.kind in TAKEN_APART):
        tokens, _ = _tokens(corpus, None)
        if tokens.ids is not None:
            found.append((corpus, _types(tokens, tokens.ids, vocabulary, tokens.whole())[2]))
    return found


def corpus_bands(corpus: CorpusScores, vocabulary: Vocabulary | None) -> Bands:
    """Take one corpus apart; it has a scored token, as every corpus that was judged."""
    tokens, counted_in = _tokens(corpus, vocabulary)
    whole = tokens.whole()
    bits, kinds = tokens.count_bits, tokens.kinds
    gained = lost = influence = None
    if tokens.ids is not None:
        gained, lost, influence = _types(tokens, tokens.ids, vocabulary, whole)
    return Bands(
        corpus.corpus,
        corpus.kind,
        whole,
        counted_in,
        None if bits is None else tokens.divided(COUNT_NAMES, np.digitize(bits, COUNT_BITS)),
        tokens.divided(POSITION_NAMES, np.digitize(tokens.position, POSITIONS)),
        None if kinds is None else tokens.divided(KINDS, kinds),
        gained,
        lost,
        influence,
    )


def _tokens(corpus: CorpusScores, vocabulary: Vocabulary | None) -> tuple[_Tokens, str]:
    """(its scored tokens, the text in which they were counted)"""
    documents = corpus.documents
    asked = [~np.isnan(document.base.nats) for document in documents]

    def joined(columns: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
        """The scored tokens' values of all documents; None where a document has none to give."""
        given = [column[mask] for column, mask in zip(columns, asked, strict=True) if column is not None]
        return np.concatenate(given) if len(given) == len(columns) else None

    ids = [document.base.ids for document in documents]
    bits: list[NDArray[np.int8] | None] = [document.base.train_count_bits for document in documents]
    kinds: list[NDArray[np.int8] | None] = [None for _ in documents]
    counted_in = "the training text"
    known = [each for each in ids if each is not None]
    if len(known) == len(ids):
        if any(each is None for each in bits):
            counts = np.bincount(np.concatenate(known))
            bits, counted_in = [count_bits(counts, each) for each in known], "this text itself"
        if vocabulary is not None:
            kinds = [vocabulary.kinds(each) for each in known]
    sizes = [int(mask.sum()) for mask in asked]
    position = [np.flatnonzero(mask) for mask in asked]
    found = _Tokens(
        [document.group for document in documents],
        np.repeat(np.arange(len(documents)), sizes),
        np.concatenate(position),
        np.concatenate([one.base.nats[mask] for one, mask in zip(documents, asked, strict=True)]),
        np.concatenate([one.adapter.nats[mask] for one, mask in zip(documents, asked, strict=True)]),
        joined(ids),
        joined(bits),
        joined(kinds),
    )
    return found, counted_in


def _types(
    tokens: _Tokens, ids: Ids, vocabulary: Vocabulary | None, whole: Band
) -> tuple[tuple[TokenType, ...], tuple[TokenType, ...], Influence | None]:
    """(that gained most, that lost most, what hangs on the most influential)"""
    numbers, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    gains = np.bincount(place, tokens.base - tokens.tuned)
    order = np.argsort(-gains, kind="stable")

    def types(places: NDArray[np.int64]) -> tuple[TokenType, ...]:
        texts = [
            f"token {number}" if vocabulary is None else vocabulary.text(int(number))
            for number in numbers[places]
        ]
        columns = zip(texts, counts[places].tolist(), gains[places].tolist(), strict=True)
        return tuple(TokenType(*values) for values in columns)

    gained = types(order[gains[order] > 0][:SHOWN_TYPES])
    lost = types(order[::-1][gains[order[::-1]] < 0][:SHOWN_TYPES])
    most = np.argsort(-np.abs(gains), kind="stable")[:INFLUENTIAL_TYPES]
    others = ~np.isin(place, most)
    if not others.any():
        return gained, lost, None
    without, change = tokens.part("all others", others).difference, whole.difference
    rests_on_few = is_gain(change) and without.nats_per_token > change.nats_per_token / 2
    return (
        gained,
        lost,
        Influence(types(most), without, rests_on_few, is_loss(without) and not is_loss(change)),
    )


def is_gain(change: Difference) -> bool:
    return change.excludes_zero and change.nats_per_token < 0


def is_loss(change: Difference) -> bool:
    return change.excludes_zero and change.nats_per_token > 0
