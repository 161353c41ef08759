"""Memorised or learnt: can training documents be told from held-out ones by what their tokens cost?

Three membership attacks, each a number a document that is high where the document looks trained on. Pieces of
one file are one document here, as everywhere in judging. From token scores alone, so without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from ft_toolkit.judging.statistics import CONFIDENCE, POWER, TOO_FEW_DOCUMENTS, holm
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores

MIN_K = 0.2  # the share of a document's tokens, the least likely ones, that min-k % looks at
FALSE_POSITIVES = (0.01, 0.001)
DRAWS = 2000
_DRAW_NUMBERS = 4_000_000  # held at once
T = TypeVar("T")
Values = NDArray[np.float64]
Signals = tuple[Values, Values]  # of the training documents (n,), of the held-out ones (m,)


@dataclass(frozen=True)
class Rate:
    """The share of training documents that an attack names while it accuses few held-out ones wrongly."""

    false_positives: float  # at most this share of the held-out documents is accused
    needed_documents: int  # held-out ones, for one of them to be that share
    true_positives: float | None  # None: there are fewer
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Auc:
    """The chance that a training document looks more trained on than a held-out one; 0.5 is guessing."""

    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} … {self.high:.2f})"


@dataclass(frozen=True)
class Attack:
    """One attack on the tuned model, and on its base where it needs no base itself.

    needs_base     whether the attacker must have the base, too
    p_value        two-sided: of the tuned AUC against the base's, or against guessing where there is none
    holm_p_value   the same, corrected for the number of attacks (Holm 1979)
    """

    name: str
    needs_base: bool
    base: Auc | None
    tuned: Auc
    p_value: float
    holm_p_value: float
    rates: tuple[Rate, ...]  # of the attack on the tuned model

    @property
    def succeeds(self) -> bool:
        """Training documents are told apart, and better than by the base, which never saw them."""
        floor = 0.5 if self.base is None else max(0.5, self.base.value)
        return self.holm_p_value < 1 - CONFIDENCE and self.tuned.low > 0.5 and self.tuned.value > floor


@dataclass(frozen=True)
class Membership:
    """Every attack, over independent documents (or files, where documents are pieces)."""

    train_documents: int
    held_out_documents: int
    attacks: tuple[Attack, ...]

    @property
    def memorised(self) -> Attack | None:
        """The strongest attack that succeeds by the tuned model's own losses: those of what it remembers.

        The error zone is left out. It sees the direction of every change, however small: in docs/log.md it
        tells documents apart (AUC 0.89) that four steps taught 0.006 nats a token more than held-out ones.
        """
        return self._strongest(needs_base=False)

    @property
    def told_apart(self) -> Attack | None:
        """The strongest attack that succeeds with the base at hand."""
        return self._strongest(needs_base=True)

    def _strongest(self, *, needs_base: bool) -> Attack | None:
        found = [each for each in self.attacks if each.needs_base == needs_base and each.succeeds]
        return max(found, key=lambda each: each.tuned.value, default=None)

    @property
    def smallest_visible_auc(self) -> float:
        """The AUC that so many documents would have shown with 80 % power."""
        n, m = self.train_documents, self.held_out_documents
        error = math.sqrt((n + m + 1) / (12 * n * m))  # of Mann and Whitney's statistic under chance
        return min(1.0, 0.5 + float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)) * error)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"smallest_visible_auc": self.smallest_visible_auc}


@dataclass(frozen=True, eq=False)
class Cost:
    """What one document's scored tokens cost, (n,) each."""

    base: Values | None  # nats; None where the base reads other tokens
    tuned: Values  # nats
    is_top1: NDArray[np.bool_]  # of the tuned model

    def joined(self, other: Cost) -> Cost:
        base = None if self.base is None or other.base is None else np.append(self.base, other.base)
        return Cost(base, np.append(self.tuned, other.tuned), np.append(self.is_top1, other.is_top1))


def loss(nats: Values) -> float:
    """Minus the mean NLL of a token (Yeom et al. 2018, arXiv:1709.01604)."""
    return -float(nats.mean())


def min_k(nats: Values) -> float:
    """Minus the mean NLL of the least likely fifth of the tokens (Shi et al. 2024, arXiv:2310.16789)."""
    count = max(1, int(MIN_K * len(nats)))
    return -float(np.partition(nats, len(nats) - count)[-count:].mean())


def error_zone(cost: Cost) -> float:
    """How one-sidedly the tuned model raised the true token's probability where it is still wrong.

    Over the tokens that are not the tuned model's first choice, with d = log p_tuned - log p_base of the true
    token, P the sum of positive d and N that of negative ones: P / (P + N), which orders documents as the
    source's P / N does and is finite. No error counts as trained on (appendix E of the source), no change as
    1/2.

    source   Ilić, Stanojević & Cvejoski 2026, arXiv:2601.12104
    """
    assert cost.base is not None
    raised = (cost.base - cost.tuned)[~cost.is_top1]
    if not len(raised):
        return 1.0
    up, both = float(raised[raised > 0].sum()), float(np.abs(raised).sum())
    return up / both if both > 0 else 0.5


def attack(scores: TokenScores) -> Membership | None:
    """Every attack on a run's scores; None without training scores, or with too few documents."""
    parts = {corpus.kind: corpus for corpus in scores.corpora}
    if "train" not in parts or "held-out" not in parts:
        return None
    # a model with its own tokenizer pays for other tokens than its base: nothing to subtract
    is_shared = scores.subject.own_tokenizer_sha256 is None
    train, held_out = (costs(parts[kind], is_shared=is_shared) for kind in ("train", "held-out"))
    return membership(train, held_out)


def costs(corpus: CorpusScores, *, is_shared: bool = True) -> list[Cost]:
    """One a group of documents, in the order of the corpus; groups without a scored token are left out."""
    found: dict[int, Cost] = {}
    for document in corpus.documents:
        tuned = document.adapter
        asked = ~np.isnan(tuned.nats)
        base = document.base.nats[asked] if is_shared else None
        cost = Cost(base, tuned.nats[asked], tuned.is_top1[asked])
        if len(cost.tuned):
            known = found.get(document.group)
            found[document.group] = cost if known is None else known.joined(cost)
    return list(found.values())


def membership(train: Sequence[Cost], held_out: Sequence[Cost]) -> Membership | None:
    """Every attack on two sets of independent documents; None where either has too few."""
    if min(len(train), len(held_out)) < TOO_FEW_DOCUMENTS:
        return None
    tuned = [[cost.tuned for cost in part] for part in (train, held_out)]
    base = [[cost.base for cost in part if cost.base is not None] for part in (train, held_out)]
    is_shared = all(len(some) == len(part) for some, part in zip(base, tuned, strict=True))
    found = [
        _attack(name, _signals(signal, *tuned), _signals(signal, *base) if is_shared else None)
        for name, signal in (("loss", loss), ("min-k 20 %", min_k))
    ]
    if is_shared:
        zone = _signals(error_zone, train, held_out)
        found.append(replace(_attack("error zone", zone, None), needs_base=True))
    adjusted = holm([each.p_value for each in found])
    attacks = (replace(each, holm_p_value=p) for each, p in zip(found, adjusted, strict=True))
    return Membership(len(train), len(held_out), tuple(attacks))


def _signals(signal: Callable[[T], float], train: Sequence[T], held_out: Sequence[T]) -> Signals:
    return np.array([signal(each) for each in train]), np.array([signal(each) for each in held_out])


def _attack(name: str, tuned: Signals, base: Signals | None) -> Attack:
    p_value = difference_p_value(tuned, base)
    rates = tuple(rate(tuned, false_positives) for false_positives in FALSE_POSITIVES)
    return Attack(name, False, None if base is None else area(base), area(tuned), p_value, p_value, rates)


def area(signals: Signals) -> Auc:
    """The area under the ROC curve, ties counted half, with a 95 % score interval.

    source   Newcombe 2006, Statistics in Medicine 25, 559-573 (method 5): it has a width at 0 and 1, too
    """
    n, m = map(len, signals)
    value = float(_placements(signals)[0].mean())
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    pairs = (n + m) / 2 - 1

    def beyond(t: float) -> float:
        variance = t * (1 - t) * (1 + pairs * (1 - t) / (2 - t) + pairs * t / (1 + t)) / (n * m)
        return (value - t) ** 2 - z * z * variance

    # at 0 and 1 the variance is none, so an end there is a root of its own: look just inside
    edge = 1e-9
    low = 0.0 if value <= edge else float(optimize.brentq(beyond, 0, min(value, 1 - edge)))
    high = 1.0 if value >= 1 - edge else float(optimize.brentq(beyond, max(value, edge), 1))
    return Auc(value, low, high)


def difference_p_value(tuned: Signals, base: Signals | None) -> float:
    """Two-sided p-value of AUC(tuned) - AUC(base), documents paired; base None: against 1/2.

    source   DeLong, DeLong & Clarke-Pearson 1988, with Student's t for the smaller part's documents
    """
    changes = _placements(tuned)
    if base is None:
        changes = changes[0] - 0.5, changes[1] - 0.5
    else:
        before = _placements(base)
        changes = changes[0] - before[0], changes[1] - before[1]
    difference = float(changes[0].mean())
    error = math.sqrt(sum(float(change.var(ddof=1)) / len(change) for change in changes))
    if difference == 0:
        return 1.0
    sizes = [len(change) for change in changes]
    rarest = 2 / math.comb(sum(sizes), sizes[0])  # no arrangement of so many documents is rarer than this
    if error == 0:  # every document in its place
        return rarest
    return max(rarest, float(2 * stats.t.sf(abs(difference) / error, min(sizes) - 1)))


def _placements(signals: Signals) -> tuple[Values, Values]:
    """(n,) the share of others below each member, (m,) the share of members above each other; ties half."""
    members, others = signals
    n, m = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    below = (ranks[:n] - stats.rankdata(members)) / m
    above = 1 - (ranks[n:] - stats.rankdata(others)) / n
    return below, above


def rate(signals: Signals, false_positives: float, seed: int = 0) -> Rate:
    """True positives where at most this share of others is accused, with a bootstrap interval over both."""
    members, others = signals
    needed = math.ceil(1 / false_positives - 1e-9)
    if len(others) < needed:
        return Rate(false_positives, needed, None)
    value = float(_named(members[None], others[None], false_positives)[0])
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAW_NUMBERS // (len(members) + len(others)))
    drawn = []
    for start in range(0, DRAWS, at_once):
        size = min(at_once, DRAWS - start)
        some = [part[random.integers(0, len(part), (size, len(part)))] for part in signals]
        drawn.append(_named(some[0], some[1], false_positives))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return Rate(false_positives, needed, value, float(low), float(high))


def _named(members: Values, others: Values, false_positives: float) -> Values:
    """(draws,) shares of members, (draws, n), above all but the allowed share of others, (draws, m)."""
    allowed = int(false_positives * others.shape[1] + 1e-9)
    place = others.shape[1] - 1 - allowed
    threshold = np.partition(others, place, axis=1)[:, place, None]
    shares: Values = (members > threshold).mean(axis=1)
    return shares
