"""A linear classifier on the frozen features of base and tuned model: is one side of more use?

Both sides see the same texts in the same folds. What is measured is the change on texts that a classifier was
not fitted to; the classifier's strength is chosen inside each fold's training texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from scipy import stats

from ft_toolkit.errors import FtError
from ft_toolkit.judging.features import Features
from ft_toolkit.judging.statistics import CONFIDENCE, DRAWS, TOO_FEW_DOCUMENTS, Estimate, paired_difference
from ft_toolkit.judging.verdict import signed

INNER_FOLDS = 3
FEWEST_FOLDS = 3  # with two, a label's training texts could not be split again
STRENGTHS = tuple(10.0**power for power in range(-4, 1))  # inverse of the L2 penalty, as scikit-learn's C
_ITERATIONS = 2000
_DRAWS_AT_ONCE = 500
LIMITS = "The interval covers the choice of texts to test on, not the choice of the texts to fit on"
Answers = NDArray[np.int64]  # (texts,) number of a label


@dataclass(frozen=True)
class Side:
    """One model's classifiers on the texts that they were not fitted to.

    f1         of each label, in the order of Probe.labels; 0 where it was neither right nor wrong
    strengths  C of each fold's classifier
    """

    accuracy: float
    macro_f1: float
    f1: tuple[float, ...]
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Probe:
    """Base against tuned.

    texts             of each label
    commonest_share   accuracy of always answering the commonest label
    accuracy_change   tuned minus base, with a paired 95 % interval over texts; macro_f1_change likewise
    smallest_visible  change of accuracy that so many texts would have shown, with 80 % power
    gained, lost      texts that only the tuned side, or only the base, has right
    p_value           two-sided, exact McNemar test of gained against lost
    """

    labels: tuple[str, ...]
    texts: tuple[int, ...]
    folds: int
    seed: int
    commonest_share: float
    base: Side
    tuned: Side
    accuracy_change: Estimate
    macro_f1_change: Estimate
    smallest_visible: float | None
    gained: int
    lost: int
    p_value: float

    @property
    def verdict(self) -> Literal["benefit", "no benefit", "harm"]:
        """By the interval of accuracy: without one, or with zero in it, no benefit is shown."""
        change = self.accuracy_change
        if change.low is None or change.high is None or change.low <= 0 <= change.high:
            return "no benefit"
        return "benefit" if change.low > 0 else "harm"

    @property
    def words(self) -> str:
        """What was found, and never more than that."""
        few = self.accuracy_change.low is None
        because = "too few texts for an interval" if few else "the interval includes zero"
        said = {
            "benefit": "its features are of more use here than its base's",
            "no benefit": f"no benefit: {because}",
            "harm": "its features are of less use here than its base's",
        }[self.verdict]
        return (
            f"probe: {_percent(self.tuned.accuracy)} right by features of the tuned model, "
            f"{_percent(self.base.accuracy)} by its base's, of {sum(self.texts):,} texts with "
            f"{len(self.labels)} labels ({interval(self.accuracy_change)} points; +{self.gained} "
            f"−{self.lost} texts, McNemar's exact p = {self.p_value:.2g}): {said}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Numbers and the names of labels; no text."""
        return {"verdict": self.verdict, "words": self.words, "limits": LIMITS} | asdict(self)

    def shown(self) -> list[RenderableType]:
        """A sentence, a table, and what it does not say."""
        title = f"linear probe, {self.folds} folds, seed {self.seed}"
        table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
        for number, name in enumerate(("", "texts", "base", "tuned", "change", "95 % CI, points")):
            table.add_column(name, justify="right" if number else "left")
        base, tuned, whole = self.base, self.tuned, f"{sum(self.texts):,}"
        for name, sides, change in (
            ("accuracy", (base.accuracy, tuned.accuracy), self.accuracy_change),
            ("macro-F1", (base.macro_f1, tuned.macro_f1), self.macro_f1_change),
        ):
            cells = (*map(_percent, sides), signed(100 * change.value, 1), interval(change, ""))
            table.add_row(name, whole, *cells)
        for label, texts, before, after in zip(self.labels, self.texts, base.f1, tuned.f1, strict=True):
            name = label if label.isprintable() else repr(label)  # a terminal obeys some characters
            moved = signed(100 * (after - before), 1)
            table.add_row(f"  F1 {name}", f"{texts:,}", _percent(before), _percent(after), moved, "")
        found = [f"Always the commonest label would be right in {_percent(self.commonest_share)}."]
        if self.smallest_visible is not None:
            visible = f"{100 * self.smallest_visible:.1f} points of accuracy"
            found.append(f"So many texts would have shown a change of {visible} or more.")
        return [self.words, table, *found, f"{LIMITS}."]


def probe(base: Features, tuned: Features, labels: Sequence[str], folds: int, seed: int = 0) -> Probe:
    """Fit and test a classifier on either side's features of the same texts.

    base, tuned   (texts, width) of each side; the widths may differ
    raises        FtError as check_labels
    """
    check_labels(labels, folds)
    counts = Counter(labels)
    names = tuple(sorted(counts))
    answers = np.array([names.index(label) for label in labels], dtype=np.int64)
    found = [predicted(features, answers, folds, seed) for features in (base, tuned)]
    (before, weak), (after, strong) = found
    was_right, is_right = before == answers, after == answers
    ones = np.ones(len(answers), dtype=np.int64)
    change = paired_difference(
        (~was_right).astype(np.float64), (~is_right).astype(np.float64), ones, seed
    )  # of errors: one minus accuracy
    gained, lost = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = (None if each is None else 0.0 - each for each in (change.high, change.low))
    return Probe(
        names,
        tuple(counts[name] for name in names),
        folds,
        seed,
        max(counts.values()) / len(answers),
        _side(answers, before, len(names), weak),
        _side(answers, after, len(names), strong),
        Estimate(0.0 - change.nats_per_token, low, high, change.method),
        macro_f1_change(answers, before, after, seed),
        change.smallest_visible,
        gained,
        lost,
        p_value,
    )


def check_labels(labels: Sequence[str], folds: int) -> None:
    """raises   FtError without scikit-learn, for one label alone, and for one with fewer texts than folds"""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        cure = "pip install 'ft-toolkit[probe]'"
        raise FtError("ft probe", "the package scikit-learn", "none installed", cure) from None
    if folds < FEWEST_FOLDS:
        raise FtError("--folds", f"at least {FEWEST_FOLDS}", folds, "Raise it.")
    counts = Counter(labels)
    if len(counts) < 2:
        found = f"{next(iter(counts))!r} alone" if counts else "none"
        raise FtError("--labels", "at least two labels", found, "Add texts with another label.")
    rarest = min(counts, key=lambda label: counts[label])
    if counts[rarest] < folds:
        wanted, found = f"at least {folds} texts of each label, one a fold", f"{counts[rarest]} of {rarest!r}"
        raise FtError("--labels", wanted, found, f"Add texts, or lower --folds to {FEWEST_FOLDS} or more.")


def predicted(
    features: Features, answers: Answers, folds: int, seed: int
) -> tuple[Answers, tuple[float, ...]]:
    """(texts,) each answered by a classifier that was not fitted to it; and C of each fold.

    The folds depend on answers and seed alone, so they are the same for every set of features.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    found, strengths = np.full(len(answers), -1, dtype=np.int64), []
    outer = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in outer.split(features, answers):
        scale = StandardScaler().fit(features[train])
        rarest = min(Counter(answers[train].tolist()).values())
        classifier = LogisticRegressionCV(
            Cs=STRENGTHS,
            l1_ratios=(0,),
            cv=StratifiedKFold(min(INNER_FOLDS, rarest), shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            max_iter=_ITERATIONS,
            use_legacy_attributes=False,
        )
        classifier.fit(scale.transform(features[train]), answers[train])
        found[test] = classifier.predict(scale.transform(features[test]))
        strengths.append(float(classifier.C_))
    return found, tuple(strengths)


def macro_f1_change(answers: Answers, before: Answers, after: Answers, seed: int) -> Estimate:
    """Tuned minus base, with a percentile bootstrap over texts: a draw takes both answers of a text."""
    ones = np.ones((1, len(answers)))
    value = float(macro_f1(answers, after, ones)[0] - macro_f1(answers, before, ones)[0])
    if len(answers) < TOO_FEW_DOCUMENTS:
        return Estimate(value, None, None, "too few documents")
    draw, n, changes = np.random.default_rng(seed), len(answers), []
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        weights = draw.multinomial(n, np.full(n, 1 / n), size=_DRAWS_AT_ONCE).astype(np.float64)
        changes.append(macro_f1(answers, after, weights) - macro_f1(answers, before, weights))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(np.concatenate(changes), tails)
    return Estimate(value, float(low), float(high), "bootstrap")


def macro_f1(answers: Answers, found: Answers, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) the unweighted mean of the labels' F1.

    weights   (draws, texts) how often a text counts; a label that a draw does not hold is not in its mean
    """
    scores, present = [], []
    for label in np.unique(answers):
        is_answer, is_found = answers == label, found == label
        answered, right = weights @ is_answer, weights @ (is_answer & is_found)
        total = answered + weights @ is_found
        scores.append(np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0))
        present.append(answered > 0)
    return np.asarray(np.where(present, scores, 0.0).sum(0) / np.sum(present, axis=0))


def _side(answers: Answers, found: Answers, labels: int, strengths: tuple[float, ...]) -> Side:
    of_each = []
    for label in range(labels):
        total = int((answers == label).sum() + (found == label).sum())
        of_each.append(2 * int(((answers == label) & (found == label)).sum()) / total)
    accuracy = float((found == answers).mean())
    return Side(accuracy, float(np.mean(of_each)), tuple(of_each), strengths)


def interval(change: Estimate, name: str = "95 % CI ") -> str:
    """In points of a hundred."""
    if change.low is None or change.high is None:
        return "too few texts"
    return f"{name}{signed(100 * change.low, 1)} … {signed(100 * change.high, 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
