"""Every word has a rule: each threshold is tested where it lies, and no number is dressed up."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from ft_toolkit.judging.comparison import Comparison, CorpusComparison, Kind
from ft_toolkit.judging.details import detail_lines
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.predictions import Divergence, TrueTokenChange
from ft_toolkit.judging.protocols import Protocol
from ft_toolkit.judging.statistics import Difference, Estimate, Gap, Method
from ft_toolkit.judging.totals import Totals
from ft_toolkit.judging.verdict import (
    DRIFTED_LITTLE_NATS,
    DRIFTED_MUCH_NATS,
    drift_words,
    forgotten_words,
    gain_words,
    gap_line,
    interval_words,
    judge,
    kl_words,
    memorised_words,
    signed_percent,
)
from ft_toolkit.judging.verdict_table import verdict_table

CAUSAL = Protocol("document", 256, stride_tokens=128)
MASKED = Protocol("covering", 128, groups=7)
A_BIT = 1e-9


def difference(
    nats: float,
    low: float | None = None,
    high: float | None = None,
    *,
    documents: int = 56,
    groups: int | None = None,
    method: Method = "bootstrap",
    visible: float | None = 0.01,
) -> Difference:
    return Difference(nats, low, high, method, documents, groups or documents, documents - 2, 2, visible, 0.5)


def certain(nats: float) -> Difference:
    """A difference whose interval excludes zero."""
    return difference(nats, nats - abs(nats) / 2, nats + abs(nats) / 2)


def drifted(nats: float, corpus: str = "samples of its base") -> Divergence:
    """Drift with an interval of a tenth on both sides."""
    kl_nats = Estimate(nats, 0.9 * nats, 1.1 * nats, "bootstrap")
    return Divergence(corpus, 32, 4096, kl_nats, Estimate(0.75, 0.7, 0.8, "bootstrap"))


TOO_FEW = difference(-0.5, documents=7, method="too few documents", visible=None)


def corpus(kind: Kind, change: Difference, outside: Difference | None = None) -> CorpusComparison:
    base = Totals(4000.0, 1000, 5000, 800)
    adapter = Totals(4000.0 + 1000 * change.nats_per_token, 1000, 5000, 800)
    share = 0.2 if outside else 0.0
    return CorpusComparison("italian-cooking", kind, base, adapter, change, None, outside, share, 1.0, 0.0)


def comparison(
    protocol: Protocol = CAUSAL,
    held_out: Difference | None = None,
    general: Difference | None = None,
    gap: Gap | None = None,
    drift: Divergence | None = None,
) -> Comparison:
    parts = [corpus("held-out", held_out or certain(-0.5))]
    parts += [corpus("general", general)] if general else []
    parts += [corpus("train", certain(-0.6))] if gap else []
    return Comparison("cooking", "starter/gpt2", "abc", None, True, protocol, parts, gap, drift)


def shown(whole: Comparison) -> str:
    """Everything that a person reads, as one text."""
    verdict = judge(whole)
    screen = io.StringIO()
    Console(file=screen, width=200).print(verdict_table(whole, verdict))
    words = [verdict.headline, verdict.forgotten, verdict.memorised, *verdict.caveats]
    return "\n".join([*words, gap_line(whole, verdict), screen.getvalue()])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (difference(-0.5, -0.6, -0.4), "39 % lower perplexity than its base"),
        (difference(0.5, 0.4, 0.6), "65 % higher perplexity than its base"),
        (difference(-0.5, -1.0, -A_BIT), "39 % lower perplexity than its base"),
        (
            difference(-0.5, -1.0, 0.0),
            "cannot tell a difference from the base (one of 1.0 % would have shown)",
        ),
        (difference(0.5, A_BIT, 1.0), "65 % higher perplexity than its base"),
        (difference(0.5, 0.0, 1.0), "cannot tell a difference from the base (one of 1.0 % would have shown)"),
        (difference(0.0, 0.0, 0.0, visible=0.0), "cannot tell a difference from the base"),
        (difference(-0.004, -0.005, -0.003), "0.4 % lower perplexity than its base"),
        (difference(-0.00004, -0.00005, -0.00003), "0.004 % lower perplexity than its base"),
        (difference(0.0487, 0.04, 0.06), "5 % higher perplexity than its base"),
        (TOO_FEW, "cannot tell: 7 documents are too few for an interval"),
    ],
)
def test_better_and_worse_are_said_only_when_the_interval_excludes_zero(
    found: Difference, words: str
) -> None:
    assert gain_words(found, "perplexity").startswith(words)


def test_a_gain_that_cannot_be_told_names_the_smallest_one_that_would_have_shown() -> None:
    unclear = difference(-0.01, -0.05, 0.03, visible=math.log(1 / 0.95))
    assert "one of 5.0 % would have shown" in gain_words(unclear, "perplexity")


@pytest.mark.parametrize(
    ("percent", "words"),
    [
        (-5.0, "nothing forgotten"),
        (0.1, "a little forgotten"),
        (3.0 - A_BIT, "a little forgotten"),
        (3.0 + A_BIT, "some forgotten"),
        (10.0 - A_BIT, "some forgotten"),
        (10.0 + A_BIT, "much forgotten"),
        (80.0, "much forgotten"),
    ],
)
def test_forgotten_a_little_under_3_per_cent_much_from_10(percent: float, words: str) -> None:
    assert forgotten_words(certain(math.log1p(percent / 100))) == words


@pytest.mark.parametrize(("percent", "words"), [(3.0, "some forgotten"), (10.0, "much forgotten")])
def test_a_loss_that_is_the_threshold_itself_gets_the_stronger_word(percent: float, words: str) -> None:
    nats = math.log1p(percent / 100)
    while as_percent(nats) < percent:  # the first float at the threshold
        nats = math.nextafter(nats, 1.0)
    assert as_percent(nats) == pytest.approx(percent, abs=1e-12)
    assert forgotten_words(certain(nats)) == words
    below = nats
    while as_percent(below) >= percent:
        below = math.nextafter(below, 0.0)
    assert forgotten_words(certain(below)) != words


@pytest.mark.parametrize(
    "unclear", [difference(0.5, -0.1, 1.1), difference(0.5, 0.0, 1.0), difference(-0.5, -1.0, 0.0), TOO_FEW]
)
def test_nothing_is_called_forgotten_that_the_interval_does_not_carry(unclear: Difference) -> None:
    assert forgotten_words(unclear).startswith("cannot tell")


def test_forgetting_that_cannot_be_told_names_the_smallest_that_would_have_shown() -> None:
    unclear = difference(-0.001, -0.025, 0.023, visible=math.log(1.034))
    assert forgotten_words(unclear) == "cannot tell (3.4 % would have shown)"
    assert forgotten_words(TOO_FEW) == "cannot tell"


@pytest.mark.parametrize(
    ("excess", "words"),
    [
        (0.01, "slightly"),
        (0.1 - A_BIT, "slightly"),
        (0.1, "somewhat"),
        (0.5 - A_BIT, "somewhat"),
        (0.5, "much"),
        (2.0, "much"),
        (-0.2, "no sign"),
    ],
)
def test_memorised_slightly_under_a_tenth_of_a_nat_much_from_a_half(excess: float, words: str) -> None:
    assert memorised_words(Gap(excess, 0.0, excess - A_BIT, excess + A_BIT)) == words


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap(0.7, 0.0, 0.0, 1.4), "cannot tell"),
        (Gap(0.7, 0.0, -0.1, 1.5), "cannot tell"),
        (Gap(0.0, 0.7, -1.5, 0.1, 1.1), "cannot tell (an excess of 1.100 would have shown)"),
        (Gap(0.7, 0.0, A_BIT, 1.4), "much"),
        (Gap(0.9, 0.9, -0.1, 0.1), "cannot tell"),  # a gap that the base has too is the corpus's own
        (Gap(0.1, 0.9, -1.1, -0.5, 0.4), "no sign"),
        (Gap(0.7, 0.65, 0.01, 0.09), "slightly"),
        (Gap(0.7, 0.0, None, None), "cannot tell"),
    ],
)
def test_memorised_is_the_excess_over_the_bases_own_gap_if_its_interval_excludes_zero(
    gap: Gap, words: str
) -> None:
    assert memorised_words(gap) == words


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        (0.0, "not at all"),
        (A_BIT, "hardly"),
        (math.nextafter(DRIFTED_LITTLE_NATS, 0), "hardly"),
        (DRIFTED_LITTLE_NATS, "somewhat"),
        (math.nextafter(DRIFTED_MUCH_NATS, 0), "somewhat"),
        (DRIFTED_MUCH_NATS, "far"),
        (5.0, "far"),
    ],
)
def test_drifted_hardly_below_the_lower_threshold_and_far_from_the_upper_one(nats: float, words: str) -> None:
    assert drift_words(drifted(nats)) == words


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        (0.0, ("0", "0.0000 … 0.0000")),
        (0.00123, ("0.0012", "0.0011 … 0.0014")),
        (0.0512, ("0.051", "0.046 … 0.056")),
        (0.512, ("0.51", "0.46 … 0.56")),
    ],
)
def test_a_drift_has_as_many_decimals_as_it_needs(nats: float, words: tuple[str, str]) -> None:
    assert kl_words(drifted(nats).kl_nats) == words


def test_the_verdict_gains_one_row_by_the_drift_beside_the_general_text() -> None:
    parts = {"general": certain(0.05), "gap": Gap(0.5, 0.2, 0.1, 0.5)}
    without, whole = (comparison(**parts, drift=drift) for drift in (None, drifted(0.512)))  # type: ignore[arg-type]
    rows = [line for line in shown(whole).splitlines() if line.strip()]
    assert len(rows) == len([line for line in shown(without).splitlines() if line.strip()]) + 1
    (place,) = (i for i, row in enumerate(rows) if row.startswith("drift"))
    assert rows[place - 1].startswith("general text") and rows[place + 1].startswith("training text")
    assert re.sub(" +", " ", rows[place]).strip() == (
        "drift 0.51 nats 0.46 … 0.56 a token from its base (32 samples): far"
    )
    masked = comparison(MASKED, drift=replace(drifted(0.02, "general-probe"), documents=50))
    assert "a token from its base (50 documents): " in shown(masked)
    assert judge(without).drifted == "not measured" and "drift" not in shown(without)


def test_the_details_give_divergence_and_the_true_tokens_probability() -> None:
    estimate = Estimate(-0.0123, -0.02, -0.004, "bootstrap")
    change = TrueTokenChange(
        estimate, {"50": estimate, "95": Estimate(0.25, None, None, "too few documents")}
    )
    whole = comparison(drift=drifted(0.512))
    (held_out,) = whole.corpora
    whole = replace(whole, corpora=[replace(held_out, true_token=change, divergence=drifted(0.3, "cooking"))])
    lines = detail_lines(whole)
    assert lines[3:] == [
        "  probability of the true token, in points: mean −1.23 (−2.00 … −0.40)",
        "  percentiles 50 % −1.23 (−2.00 … −0.40), 95 % +25.00",
        "  beginnings of 32 documents, 4,096 tokens: KL 0.30 nats a token (0.27 … 0.33), "
        "same likeliest word 75.0 % (70.0 … 80.0 %)",
        "drift from its base, on samples of its base:",
        "  32 documents, 4,096 tokens: KL 0.51 nats a token (0.46 … 0.56), "
        "same likeliest word 75.0 % (70.0 … 80.0 %)",
    ]


def test_the_headline_names_run_gain_metric_and_text() -> None:
    verdict = judge(comparison())
    assert (
        verdict.headline == "cooking: 39 % lower perplexity than its base on unseen text of italian-cooking"
    )
    assert verdict.forgotten == "not measured: no general text"
    assert verdict.memorised == "not measured: no training sample"


def test_another_text_is_named_without_calling_it_unseen() -> None:
    whole = replace(comparison(), corpora=[corpus("other", certain(-0.5))])
    assert judge(whole).headline.endswith("than its base on italian-cooking")


def test_the_tainted_part_stands_beside_the_clean_one_and_is_no_part_of_the_result() -> None:
    clean, tainted = (
        corpus("held-out", certain(-0.1)),
        corpus("tainted", replace(certain(-0.9), documents=12)),
    )
    tainted = replace(tainted, base=Totals(400.0, 100, 500, 80))
    whole = replace(comparison(), corpora=[clean, tainted])
    said = shown(whole)
    assert judge(whole).headline == judge(comparison(held_out=certain(-0.1))).headline
    assert (
        f"Tainted: 12 of {12 + clean.difference.documents} test documents mostly stand in the training"
        in said
    )
    assert "the result is without them" in said and "  tainted " in said
    assert "ainted" not in shown(comparison())
    all_seen = replace(whole, corpora=[clean, replace(tainted, base=clean.base)])
    assert "Tainted: all 12 test documents" in shown(all_seen)


def test_the_verdict_admits_that_it_knows_nothing_of_training_luck() -> None:
    assert any("another seed" in caveat for caveat in judge(comparison()).caveats)


def test_documents_that_share_groups_are_counted_in_groups() -> None:
    pieces = difference(-0.5, -0.6, -0.4, documents=90, groups=12, method="t, few documents")
    caveats = judge(comparison(held_out=pieces)).caveats
    assert any("Few groups" in caveat for caveat in caveats)
    assert any("interval is over groups" in caveat for caveat in caveats)
    few = difference(-0.5, documents=90, groups=3, method="too few documents", visible=None)
    assert gain_words(few, "perplexity") == "cannot tell: 3 groups are too few for an interval"
    assert "90 documents in 12 groups" in detail_lines(comparison(held_out=pieces))[0]


@pytest.mark.parametrize(("bytes_per_token", "fits"), [(1.0, False), (1.49, False), (1.5, True), (3.2, True)])
def test_a_tokenizer_that_cuts_text_into_bytes_is_said(bytes_per_token: float, fits: bool) -> None:
    whole = comparison()
    (held_out,) = whole.corpora
    sampled = replace(  # a tenth of the tokens was scored: the text's bytes are those of all
        held_out, base=replace(held_out.base, bytes=round(10_000 * bytes_per_token)), scored_fraction=0.1
    )
    caveats = judge(replace(whole, corpora=[sampled])).caveats
    assert any("tokenizer does not fit" in caveat for caveat in caveats) is not fits


def test_few_documents_are_a_caveat() -> None:
    few = replace(certain(-0.5), method="t, few documents", documents=12, groups=12)
    assert any("Few documents" in caveat for caveat in judge(comparison(held_out=few)).caveats)
    assert not any("Few documents" in caveat for caveat in judge(comparison()).caveats)


def test_too_few_documents_are_said_in_the_headline_and_in_the_table() -> None:
    text = shown(comparison(held_out=TOO_FEW))
    assert "cannot tell: 7 documents are too few for an interval" in text
    assert "too few documents" in text.splitlines()[-1]
    assert not re.search(r"lower|higher", text)


@pytest.mark.parametrize("held_out", [certain(-0.5), certain(0.5), difference(0.1, -0.1, 0.3), TOO_FEW])
def test_a_masked_model_has_a_pseudo_perplexity_wherever_it_is_spoken_of(held_out: Difference) -> None:
    whole = comparison(MASKED, held_out, certain(0.02), Gap(0.3, 0.1, 0.1, 0.3))
    text = shown(whole).lower()
    assert "pseudo-perplexity" in text
    assert "perplexity" not in text.replace("pseudo-perplexity", "")
    assert "covering(7): comparable only with itself" in text


def test_a_causal_model_has_no_pseudo_perplexity() -> None:
    assert "pseudo" not in shown(comparison(CAUSAL, certain(-0.5), certain(0.02), Gap(0.3, 0.1, 0.1, 0.3)))


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        (-0.5, "−39.3 %"),
        (0.02, "+2.0 %"),
        (-0.00001, "0.0 %"),
        (0.00001, "0.0 %"),
        (0.0, "0.0 %"),
        (-0.0, "0.0 %"),
        (math.log(0.9995) - A_BIT, "−0.1 %"),
        (1.0, "+171.8 %"),
    ],
)
def test_a_change_has_a_sign_unless_it_rounds_to_nothing(nats: float, words: str) -> None:
    assert signed_percent(nats) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (math.log(0.5), math.log(0.75), "−50.0 … −25.0 %"),
        (math.log(0.5), math.log(1.25), "−50.0 … +25.0 %"),
        (math.log(1.25), math.log(1.5), "+25.0 … +50.0 %"),
        (-1e-6, 1e-6, "0.0 … 0.0 %"),
        (0.0, 0.0, "0.0 … 0.0 %"),
        (None, None, "too few documents"),
    ],
)
def test_an_interval_is_two_changes_in_per_cent(low: float | None, high: float | None, words: str) -> None:
    assert interval_words(difference(0.0, low, high)) == words


def test_the_memorisation_line_shows_the_numbers_that_it_rests_on() -> None:
    whole = comparison(gap=Gap(-0.125, 0.25, -0.5, -0.25))
    assert gap_line(whole, judge(whole)) == (
        "memorised?  train 30.0, held-out 33.1: gap −0.125 nats a token, the base's own +0.250, "
        "excess −0.375, 95 % CI −0.500 … −0.250: no sign"
    )


def test_the_memorisation_line_without_an_interval_or_a_sample_says_so() -> None:
    whole = comparison(gap=Gap(0.3, 0.1, None, None))
    assert gap_line(whole, judge(whole)).endswith("excess +0.200: cannot tell")
    assert gap_line(comparison(), judge(comparison())) == "memorised?  not measured: no training sample"


def test_no_hyphen_stands_for_a_minus() -> None:
    for whole in (
        comparison(CAUSAL, certain(-0.5), difference(-0.01, -0.05, 0.03), Gap(-0.3, 0.1, -0.6, -0.2)),
        comparison(MASKED, difference(-0.1, -0.3, 0.1), certain(-0.02), Gap(0.3, -0.1, -0.1, 0.9)),
    ):
        assert not re.search(r"(?<![\w-])-\d", shown(whole))


def test_the_table_has_a_line_for_each_corpus_and_one_outside_repeated_lines() -> None:
    whole = replace(
        comparison(),
        corpora=[
            corpus("held-out", certain(-0.5), outside=difference(-0.25, -0.3, -0.2, documents=50)),
            corpus("general", certain(0.02), outside=certain(0.01)),
        ],
    )
    screen = io.StringIO()
    Console(file=screen, width=200).print(verdict_table(whole, judge(whole)))
    header, held_out, outside, general = screen.getvalue().splitlines()
    assert header.split() == ["perplexity", "change", "95", "%", "CI", "documents"]
    assert " ".join(held_out.split()) == ("held-out text 54.6 → 33.1 −39.3 % −52.8 … −22.1 % 54 of 56 better")
    assert " ".join(outside.split()) == (
        "outside repeated lines 80 % of tokens −22.1 % −25.9 … −18.1 % 48 of 50 better"
    )
    assert general.startswith("general text")


@pytest.mark.parametrize("columns", [60, 72, 90, 110])
def test_the_table_says_the_same_at_any_width_and_breaks_no_figure(columns: int) -> None:
    whole = comparison(general=certain(-0.04), drift=drifted(0.23))
    whole.corpora[0] = corpus("held-out", certain(-0.5), outside=certain(-0.4))
    table = verdict_table(whole, judge(whole))
    screen = io.StringIO()
    Console(file=screen, width=columns).print(table)
    lines = screen.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert all(any(cell in line for line in lines) for row in table.rows for cell in row[:-1])
    words = " ".join(screen.getvalue().split())
    if columns == 60:  # a row's words below its figures
        assert all(" ".join(row[-1].split()) in words for row in table.rows)
        figures = next(place for place, line in enumerate(lines) if table.rows[1][2] in line)
        assert (
            lines[figures - 1] == "  outside repeated lines" and lines[figures + 1] == "    54 of 56 better"
        )


def test_the_details_give_sizes_figures_and_tests_of_each_text() -> None:
    # 4,000 nats over 1,000 tokens, 800 words and 5,000 bytes: e^4, e^5, 4000 / (5000 ln 2)
    assert detail_lines(comparison(held_out=certain(-0.5))) == [
        "held-out text: 56 documents, 1,000 tokens scored, 5,000 bytes, 800 words",
        "  perplexity 54.60 → 33.12, word perplexity 148.4 → 79.4, bits per byte 1.1542 → 1.0099",
        "  −0.5000 nats a token, 95 % CI −0.7500 … −0.2500 (bootstrap), p 0.5, 54 better, 2 worse, "
        "0.0100 would have shown",
    ]


def test_the_details_of_a_masked_model_name_no_bits_and_no_word_perplexity() -> None:
    lines = "\n".join(detail_lines(comparison(MASKED)))
    assert "pseudo-perplexity 54.60" in lines
    assert "bits" not in lines
    assert "word perplexity" not in lines


def test_the_details_of_too_few_documents_claim_no_interval() -> None:
    lines = "\n".join(detail_lines(comparison(held_out=TOO_FEW)))
    assert "CI" not in lines
    assert "would have shown" not in lines
