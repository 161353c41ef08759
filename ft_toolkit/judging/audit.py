"""What a run's token scores say besides its gain: memorised or learnt, and where. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ft_toolkit.judging.attacks import Membership, Rate, attack
from ft_toolkit.judging.bands import Band, Bands, Influence, TokenType, bands, influences
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.judging.verbatim import EXTRACTED_TOKENS, Continuations, Verbatim, verbatim
from ft_toolkit.judging.verdict import (
    TOLD_APART_LITTLE_AUC,
    TOLD_APART_MUCH_AUC,
    interval_words,
    signed,
    signed_percent,
)
from ft_toolkit.judging.vocabulary import Vocabulary, read_vocabulary
from ft_toolkit.run import Run

SCHEMA = 1
NO_GUARANTEE = "An attack that fails proves no privacy: a better one may succeed."
_NAMES = {"held-out": "held-out text", "general": "general text"}


@dataclass(frozen=True)
class Memorisation:
    """What may be said of a run's training text; None for what could not be measured."""

    membership: Membership | None
    verbatim: Verbatim | None

    @property
    def words(self) -> str:
        return membership_words(self.membership)

    def as_dict(self) -> dict[str, Any]:
        """The numbers alone: nothing in it is text of a corpus."""
        return {
            "words": self.words,
            "told_apart": self.membership and told_apart_words(self.membership),
            "verbatim_words": self.verbatim and verbatim_words(self.verbatim),
            "limits": NO_GUARANTEE.rstrip("."),
            "membership": self.membership and self.membership.as_dict(),
            "verbatim": self.verbatim and self.verbatim.as_dict(),
        }


@dataclass(frozen=True)
class Audit:
    """Everything that ft audit tells of a run from its scores.

    unread   why the base's vocabulary could not be read, so that kinds of tokens are unknown; None: it was
    """

    name: str
    memorisation: Memorisation
    bands: Sequence[Bands]
    unread: str | None

    def as_dict(self) -> dict[str, Any]:
        """The numbers; tokens that gained and lost are text of the corpora."""
        memorised = self.memorisation.as_dict()
        return {"name": self.name} | memorised | {"bands": [corpus.as_dict() for corpus in self.bands]}


def memorisation(scores: TokenScores) -> Memorisation:
    """Membership attacks and verbatim continuations."""
    return Memorisation(attack(scores), verbatim(scores))


def audit_scores(scores: TokenScores, vocabulary: Vocabulary | str) -> Audit:
    """vocabulary: of the base, or why there is none."""
    readable = None if isinstance(vocabulary, str) else vocabulary
    unread = vocabulary if isinstance(vocabulary, str) else None
    return Audit(scores.subject.name, memorisation(scores), bands(scores, readable), unread)


# --- words --------------------------------------------------------------------------------------------


def membership_words(found: Membership | None) -> str:
    """Memorised only if a document's own loss gives it away; no sign only if no telling AUC is left."""
    if found is None:
        return "not measured: too few training or held-out documents"
    strongest = found.memorised
    if strongest is None:
        own = [each.tuned.high for each in found.attacks if not each.needs_base]
        said = "no sign" if max(own) < TOLD_APART_LITTLE_AUC else "cannot tell"
        return f"{said} (an AUC of {found.smallest_visible_auc:.2f} would have shown)"
    auc = strongest.tuned
    word = "slightly" if auc.value < TOLD_APART_LITTLE_AUC else "somewhat"
    if auc.value >= TOLD_APART_MUCH_AUC:
        word = "much"
    return f"{word}: the {strongest.name} attack tells training from held-out documents, AUC {auc.words}"


def told_apart_words(found: Membership) -> str | None:
    """What an attacker can tell who has the base, too; None where that was not tried."""
    if not any(each.needs_base for each in found.attacks):
        return None
    strongest = found.told_apart
    if strongest is None:
        return "with the base at hand no attack tells training from held-out documents"
    return (
        f"with the base at hand the {strongest.name} attack tells training from held-out documents, "
        f"AUC {strongest.tuned.words}"
    )


def verbatim_words(found: Verbatim) -> str:
    train, held_out = found.tuned_train, found.tuned_held_out
    return (
        f"longest verbatim continuation {train.longest_tokens} tokens in training text, "
        f"{held_out.longest_tokens} in held-out text; {EXTRACTED_TOKENS} tokens and more in "
        f"{train.extracted} of {train.documents} and {held_out.extracted} of {held_out.documents} documents"
    )


def influence_lines(found: Iterable[tuple[Bands | CorpusScores, Influence | None]]) -> list[str]:
    """A sentence for each text whose change hangs on a handful of token types."""
    lines = []
    for corpus, influence in found:
        if influence is None or not (influence.rests_on_few or influence.hides_loss):
            continue
        names = ", ".join(repr(one.text) for one in influence.most)
        without = f"{signed_percent(influence.without.nats_per_token)} ({interval_words(influence.without)})"
        said = "hide a loss" if influence.hides_loss else "make more than half of the gain"
        lines.append(f"{_name(corpus)}: ten token types {said}, {names}; without them {without}")
    return lines


def influence_details(scores: TokenScores, run: Run | None) -> list[str]:
    """The same for ft compare --details; without a run the types bear their numbers."""
    vocabulary = None if run is None else read_vocabulary(run, scores)
    return influence_lines(influences(scores, None if isinstance(vocabulary, str) else vocabulary))


# --- tables -------------------------------------------------------------------------------------------


def shown(audit: Audit) -> list[RenderableType]:
    """Sentences and tables, in the order in which they are read."""
    found: list[RenderableType] = [f"{audit.name}: memorised?  {audit.memorisation.words}"]
    if audit.memorisation.membership is not None:
        membership = audit.memorisation.membership
        found += [words] if (words := told_apart_words(membership)) else []
        found += [_attack_table(membership), *_too_few(membership), NO_GUARANTEE]
    if audit.memorisation.verbatim is not None:
        found += [_verbatim_table(audit.memorisation.verbatim)]
    for corpus in audit.bands:
        found += [_band_table(corpus), *_type_lines(corpus)]
    found += influence_lines((corpus, corpus.influence) for corpus in audit.bands)
    if audit.unread is not None:
        found.append(f"kinds of tokens are not known: {audit.unread}")
    if not audit.bands:
        found.append("where it learnt is not known: it reads text with a tokenizer of its own")
    return found


def _table(title: str, *columns: str) -> Table:
    """The first column is words, the others are figures."""
    table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _attack_table(found: Membership) -> Table:
    documents = f"{found.train_documents} training and {found.held_out_documents} held-out documents"
    table = _table(
        f"attacks on {documents}; true positives at 1 and 0.1 % false ones",
        *("attack", "AUC of the base", "tuned", "p (Holm)", "at 1 %", "at 0.1 %"),
    )
    for each in found.attacks:
        base = "–" if each.base is None else each.base.words
        rates = (_rate_words(rate) for rate in each.rates)
        table.add_row(each.name, base, each.tuned.words, f"{each.holm_p_value:.2g}", *rates)
    return table


def _too_few(found: Membership) -> list[str]:
    """What the documents are too few to tell."""
    missing = [
        f"true positives at {100 * rate.false_positives:g} % need {rate.needed_documents:,}"
        for rate in found.attacks[0].rates
        if rate.true_positives is None
    ]
    return [f"of {found.held_out_documents} held-out documents: {', '.join(missing)}"] if missing else []


def _verbatim_table(found: Verbatim) -> Table:
    interval = f"95 % CI {signed(found.low, 1)} … {signed(found.high, 1)}"
    table = _table(
        f"verbatim continuations: {signed(found.excess_tokens, 1)} tokens on training text ({interval}), "
        "beyond the base and beyond held-out text",
        *("", "longest, base", "tuned", "mean, base", "tuned", f"of {EXTRACTED_TOKENS}+ tokens, tuned"),
    )
    rows: tuple[tuple[str, Continuations, Continuations], ...] = (
        ("training text", found.base_train, found.tuned_train),
        ("held-out text", found.base_held_out, found.tuned_held_out),
    )
    for name, base, tuned in rows:
        longest = (f"{side.longest_tokens} tokens" for side in (base, tuned))
        means = (f"{side.mean_tokens:.1f}" for side in (base, tuned))
        table.add_row(name, *longest, *means, f"{tuned.extracted} of {tuned.documents} documents")
    return table


def _band_table(corpus: Bands) -> Table:
    title = f"where it changed: {_name(corpus)}"
    table = _table(title, "", "tokens", "nats in all", "change of perplexity", "95 % CI")
    table.add_row("all", *_cells(corpus.whole, corpus.whole))
    divisions = (
        (f"how often {corpus.counted_in} has the token", corpus.frequency),
        ("place in the document", corpus.position),
        ("kind of token", corpus.token_kind),
    )
    for title, division in divisions:
        if division is not None:
            table.add_row(title, style="dim")
            for band in division:
                table.add_row(f"  {band.name}", *_cells(band, corpus.whole))
    influence = corpus.influence
    if influence is not None:
        without = influence.without
        cells = signed_percent(without.nats_per_token), interval_words(without)
        table.add_row("without the ten most influential types", "", "", *cells)
    return table


def _cells(band: Band, whole: Band) -> tuple[str, str, str, str]:
    share = f"{band.tokens:,} ({100 * band.tokens / whole.tokens:.0f} %)"
    change = band.difference
    figures = signed(-band.gain_nats, 1), signed_percent(change.nats_per_token)
    return share, *figures, interval_words(change)


def _type_lines(corpus: Bands) -> list[str]:
    both = (("gained most", corpus.gained_most), ("lost most", corpus.lost_most))
    return [f"  {words}: {_types(types)}" for words, types in both if types]


def _types(types: Sequence[TokenType]) -> str:
    """Quoted, since a corpus may hold what a terminal would obey; nats of all occurrences together."""
    return ", ".join(f"{one.text!r} {one.count}× {signed(-one.gain_nats, 1)}" for one in types)


def _name(corpus: Bands | CorpusScores) -> str:
    return _NAMES.get(corpus.kind, corpus.corpus)


def _rate_words(rate: Rate) -> str:
    if rate.true_positives is None or rate.low is None or rate.high is None:
        return "cannot tell"
    return f"{100 * rate.true_positives:.1f} % ({100 * rate.low:.1f} … {100 * rate.high:.1f})"
