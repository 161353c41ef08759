"""The words of a verdict: one table of thresholds says when each sentence may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft_toolkit.judging.comparison import Comparison, CorpusComparison
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.predictions import Divergence
from ft_toolkit.judging.statistics import Difference, Estimate, Gap

# A loss on general text of less than LITTLE per cent is "a little", from MUCH per cent "much".
FORGOTTEN_LITTLE_PERCENT = 3.0
FORGOTTEN_MUCH_PERCENT = 10.0
# An excess gap below this many nats a token is "slightly", from MUCH on "much".
MEMORISED_LITTLE_NATS = 0.10
MEMORISED_MUCH_NATS = 0.50
# Where an attack by the loss succeeds: below this AUC it is "slightly" memorised, from MUCH on "much".
TOLD_APART_LITTLE_AUC = 0.60
TOLD_APART_MUCH_AUC = 0.75
UNKNOWN_TOO_MANY = 0.01  # of the tokens: above, a warning
# KL(base ‖ tuned) in nats a token, of what the base writes itself (causal) or of general text (masked): below
# LITTLE "hardly", from MUCH "far". How they were found: docs/log.md.
DRIFTED_LITTLE_NATS = 0.05
DRIFTED_MUCH_NATS = 0.15
# A tokenizer made for a text's language gives 2.5 bytes a token and more, one made for another script hardly
# more than 1 (docs/numbers.md): below this, a warning.
FITTING_BYTES_PER_TOKEN = 1.5


@dataclass(frozen=True)
class Verdict:
    """The words for one comparison; headline first."""

    headline: str
    forgotten: str
    drifted: str
    memorised: str
    caveats: list[str]


def judge(comparison: Comparison) -> Verdict:
    """The sentences that the numbers support."""
    metric = comparison.protocol.metric
    subjects = comparison.subjects
    headline = "; ".join(
        f"{gain_words(subject.difference, metric)} on {_text_words(subject)}" for subject in subjects
    )
    general = comparison.of_kind("general")
    caveats = [
        "The interval covers the choice of documents, not the training seed: another seed may shift the gain."
    ]
    if any(subject.difference.method == "t, few documents" for subject in subjects):
        caveats.append(f"Few {_units(subjects)}: the interval is Student's t on their differences.")
    if _units(subjects) == "groups":
        alike = "pieces of a file, near-duplicates, rows of one split.group"
        caveats.append(f"Documents of a group ({alike}) are not independent: the interval is over groups.")
    if metric == "pseudo-perplexity":
        words = comparison.protocol.words()
        caveats.append(f"Pseudo-perplexity by {words}: comparable only with itself on this tokenizer.")
    if comparison.protocol.is_approximate:
        caveats.append("Documents share context in this protocol: the interval is approximate.")
    if comparison.protocol.precision == "bfloat16":
        caveats.append(f"Scored in bfloat16: trust the differences, not the {metric} itself.")
    caveats += [_source_words(source, subjects[0], metric) for source in _unlike(comparison)]
    if tainted := comparison.of_kind("tainted"):
        caveats.append(tainted_words(subjects[0], tainted[0]))
    if not comparison.knows_training_text:
        caveats.append("What this adapter was trained on is unknown: it may have memorised this text.")
    if comparison.own_tokenizer_sha256 is not None:
        bits = ", ".join(f"{c.base.bits_per_byte:.3f} → {c.adapter.bits_per_byte:.3f}" for c in subjects)
        caveats.append(
            f"It has its own tokenizer: figures are per token of the base's. Bits per byte {bits}."
        )
    for corpus in comparison.corpora:
        is_whole = corpus.kind != "source"  # whose shares are those of the held-out text
        if is_whole and corpus.scored_fraction < 1:
            share = f"{100 * corpus.scored_fraction:.0f} % of its tokens, drawn by hash"
            caveats.append(f"{row_name(corpus).strip()}: {share}, were scored; --exact scores all.")
        if is_whole and corpus.unknown_fraction > UNKNOWN_TOO_MANY:
            share = f"{100 * corpus.unknown_fraction:.1f} %"
            caveats.append(f"{row_name(corpus)}: {share} of the tokens are [UNK], which is easy to guess.")
        bytes_per_token = corpus.base.bytes * corpus.scored_fraction / corpus.base.tokens
        if bytes_per_token < FITTING_BYTES_PER_TOKEN:
            caveats.append(
                f"{row_name(corpus).strip()}: the tokenizer does not fit, {bytes_per_token:.1f} bytes a "
                f"token: {metric} is of single bytes. Choose a base made for this language."
            )
    return Verdict(
        f"{comparison.name}: {headline}",
        forgotten_words(general[0].difference) if general else "not measured: no general text",
        drift_words(comparison.drift) if comparison.drift else "not measured",
        memorised_words(comparison.gap) if comparison.gap else "not measured: no training sample",
        caveats,
    )


def gain_words(difference: Difference, metric: str) -> str:
    """better or worse only if the interval excludes zero."""
    if difference.low is None:
        return f"cannot tell: {difference.groups} {unit(difference)} are too few for an interval"
    if not difference.excludes_zero:
        visible = abs(as_percent(-(difference.smallest_visible or 0.0)))
        return f"cannot tell a difference from the base (one of {visible:.1f} % would have shown)"
    word = "lower" if difference.nats_per_token < 0 else "higher"
    percent = abs(difference.percent)
    shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"  # never "0 % lower"
    return f"{shown} % {word} {metric} than its base"


def forgotten_words(difference: Difference) -> str:
    """Forgotten: a little under 3 %, much from 10 %, and only if the interval excludes zero."""
    if not difference.excludes_zero:
        visible = difference.smallest_visible
        return "cannot tell" + (f" ({as_percent(visible):.1f} % would have shown)" if visible else "")
    if difference.nats_per_token < 0:
        return "nothing forgotten"
    percent = difference.percent
    if percent < FORGOTTEN_LITTLE_PERCENT:
        return "a little forgotten"
    return "much forgotten" if percent >= FORGOTTEN_MUCH_PERCENT else "some forgotten"


def drift_words(drift: Divergence) -> str:
    """Hardly below 0.05 nats a token, far from 0.15; not at all is exact: an adapter that does nothing."""
    nats = drift.kl_nats.value
    if nats == 0:
        return "not at all"
    if nats < DRIFTED_LITTLE_NATS:
        return "hardly"
    return "far" if nats >= DRIFTED_MUCH_NATS else "somewhat"


def memorised_words(gap: Gap) -> str:
    """Memorised only if the excess gap's interval is above zero, no sign only if it is below."""
    if not gap.excludes_zero:
        visible = gap.smallest_visible
        return "cannot tell" + (f" (an excess of {visible:.3f} would have shown)" if visible else "")
    if gap.excess_nats <= 0:
        return "no sign"
    if gap.excess_nats < MEMORISED_LITTLE_NATS:
        return "slightly"
    return "much" if gap.excess_nats >= MEMORISED_MUCH_NATS else "somewhat"


def tainted_words(clean: CorpusComparison, tainted: CorpusComparison) -> str:
    """How much of the held-out text is not unseen."""
    documents = tainted.difference.documents
    what = "mostly stand in the training text (70 % of their 8-grams)"
    if tainted.base == clean.base:  # no document was clean
        return f"Tainted: all {documents} test documents {what}: this is no result on unseen text."
    whole = documents + clean.difference.documents
    return f"Tainted: {documents} of {whole} test documents {what}; the result is without them."


def _unlike(comparison: Comparison) -> list[CorpusComparison]:
    """Sources of a mixture of which another thing can be said than of all together."""
    whole = [_direction(subject.difference) for subject in comparison.subjects]
    return [one for one in comparison.of_kind("source") if [_direction(one.difference)] != whole]


def _direction(difference: Difference) -> int:
    return (1 if difference.nats_per_token > 0 else -1) if difference.excludes_zero else 0


def _source_words(source: CorpusComparison, whole: CorpusComparison, metric: str) -> str:
    return f"Of {source.corpus} alone it is not as of all together: {gain_words(source.difference, metric)}."


def unit(difference: Difference) -> str:
    """What the interval is over."""
    return "documents" if difference.groups == difference.documents else "groups"


def _units(subjects: Sequence[CorpusComparison]) -> str:
    """The same of several texts: groups, if any of them has a group of several documents."""
    return max((unit(subject.difference) for subject in subjects), default="documents")


def kl_words(kl_nats: Estimate) -> tuple[str, str]:
    """A divergence and its interval with as many decimals as it needs; no interval: an empty text."""
    decimals = 2 if kl_nats.value >= 0.1 else 3 if kl_nats.value >= 0.01 else 4
    shown = f"{kl_nats.value:.{decimals}f}" if kl_nats.value else "0"
    if kl_nats.low is None or kl_nats.high is None:
        return shown, ""
    return shown, f"{kl_nats.low:.{decimals}f} … {kl_nats.high:.{decimals}f}"


def gap_line(comparison: Comparison, verdict: Verdict) -> str:
    """The memorisation line with its numbers."""
    gap = comparison.gap
    if gap is None:
        return f"memorised?  {verdict.memorised}"
    train, held_out = comparison.of_kind("train")[0], comparison.of_kind("held-out")[0]
    interval = ""
    if gap.low is not None and gap.high is not None:
        interval = f", 95 % CI {signed(gap.low, 3)} … {signed(gap.high, 3)}"
    return (
        f"memorised?  train {train.adapter.perplexity:.1f}, held-out {held_out.adapter.perplexity:.1f}: "
        f"gap {signed(gap.adapter_nats, 3)} nats a token, the base's own {signed(gap.base_nats, 3)}, "
        f"excess {signed(gap.excess_nats, 3)}{interval}: {verdict.memorised}"
    )


def signed_percent(nats_per_token: float) -> str:
    return f"{signed(as_percent(nats_per_token), 1)} %"


def interval_words(difference: Difference) -> str:
    """The interval as changes of perplexity in per cent."""
    if difference.low is None or difference.high is None:
        return "too few documents"
    return f"{signed(as_percent(difference.low), 1)} … {signed_percent(difference.high)}"


def row_name(corpus: CorpusComparison) -> str:
    names = {"held-out": "held-out text", "general": "general text", "train": "training text"}
    names["tainted"] = "  tainted"
    names["source"] = f"  {corpus.corpus}"
    return names.get(corpus.kind, corpus.corpus)


def _text_words(corpus: CorpusComparison) -> str:
    return f"unseen text of {corpus.corpus}" if corpus.kind == "held-out" else corpus.corpus


def signed(value: float, decimals: int) -> str:
    """A number with its sign, a real minus; what rounds to zero has none."""
    shown = f"{value:+.{decimals}f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]
