"""Personal data is found by its form, shown masked, and replaced before anything else sees it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from personal_sentences import MARK, measured, sentences

from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.personal import find, redact

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def test_precision_and_recall_are_those_that_the_docs_state() -> None:
    marked = [sentence for sentence in sentences() if MARK.search(sentence)]
    assert (len(sentences()), len(marked)) == (400, 200)
    result = measured()
    stated = re.search(r"precision (0\.\d+), recall (0\.\d+)", PAGE.read_text(encoding="utf-8"))
    assert stated is not None
    assert (float(stated[1]), float(stated[2])) == (round(result.precision, 3), round(result.recall, 3))


def test_other_draws_of_the_numbers_are_found_as_often() -> None:
    for seed in range(1, 6):
        result = measured(seed)
        assert result.precision > 0.94
        assert result.recall > 0.9


def test_the_same_is_found_in_a_long_text_as_in_each_sentence_alone() -> None:
    some = [MARK.sub(r"\1", sentence) for sentence in sentences()]
    alone = [each.text for sentence in some for each in find(sentence)]
    for between in ("\n", "\n" + "salt and oil " * 50 + "\n"):
        assert [each.text for each in find(between.join(some))] == alone


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a@b.co, 010-1234-5678", ["e-mail", "phone"]),
        ("078-05-1120", ["social security number"]),
        ("000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000", []),
        ("900101-1234567", ["resident number"]),
        ("901301-1234567 900230-1234567", []),  # no such days
        ("4111 1111 1111 1111", ["card"]),
        ("4111 1111 1111 1112", []),  # Luhn
        ("0000 0000 0000 0000", []),
        ("(212) 555-0123", ["phone"]),
        ("112-555-0123", []),  # no area code begins with 1
        ("MRN 1234567", ["record number"]),
    ],
)
def test_numbers_are_checked_as_far_as_their_form_can_be(text: str, kinds: list[str]) -> None:
    assert [found.kind for found in find(text)] == kinds


def test_a_match_is_shown_by_its_form_alone() -> None:
    text = "Mail kim@naver.com or call 010-1234-5678."
    assert [found.masked for found in find(text)] == ["k••@•••••.•••", "0••-••••-••••"]


def test_redacting_replaces_each_match_by_its_kind_and_nothing_else() -> None:
    text = "📞 010-1234-5678으로, 또는 kim@naver.com로.\nSSN 078-05-1120!"
    redacted, counts = redact(text)
    assert redacted == "📞 [PHONE]으로, 또는 [E-MAIL]로.\nSSN [SOCIAL SECURITY NUMBER]!"
    assert counts == {"phone": 1, "e-mail": 1, "social security number": 1}
    assert redact(redacted) == (redacted, {})


def test_nothing_else_of_a_corpus_sees_what_is_redacted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ask kim@naver.com about salt.")
    (tmp_path / "b.txt").write_text("Ask lee@naver.com about salt.")  # then a copy of the other
    (tmp_path / "c.jsonl").write_text('{"text": "Oil."}\n{"text": "Call (212) 555-0123."}\n')
    reading = read_corpora(Corpus(source=str(tmp_path), redact=True))
    assert [document.text for document in reading.documents] == [
        "Ask [E-MAIL] about salt.",
        "Oil.",
        "Call [PHONE].",
    ]
    assert reading.copies == 1
    assert reading.redacted == {"e-mail": 2, "phone": 1}
    assert not read_corpora(Corpus(source=str(tmp_path))).redacted


@pytest.mark.parametrize(
    "text",
    [
        "a@" * 100_000,
        "a." * 100_000 + "@",
        "x@" + "a." * 100_000,
        "tel-" * 50_000,
        "+" + "49 " * 60_000,
        "1" * 200_000,
        "12-" * 60_000,
        "010 " * 50_000,
        "a@b.co " * 20_000,
    ],
)
def test_no_text_makes_the_patterns_slow(text: str) -> None:
    started = time.process_time()
    find(text)
    assert time.process_time() - started < 2
