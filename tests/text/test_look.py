"""What is counted of a corpus, on texts whose answers are known by hand."""

from __future__ import annotations

import json

import pytest
from conftest import SHARED

from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.look import (
    frequent_words,
    histogram,
    languages,
    personal_data,
    repeated_sentences,
    sample_texts,
    scripts,
)
from ft_toolkit.text.personal import redact


def documents(*texts: str) -> list[Document]:
    return [TextDocument("a.txt", number, text) for number, text in enumerate(texts)]


def test_scripts_are_shares_of_the_letters() -> None:
    found = scripts(["Salt 123 !", "감기!", "かゼ風"])  # 4 letters, 2, and 1 each
    assert found == pytest.approx(
        {"Latin": 4 / 9, "Hangul": 2 / 9, "Hiragana": 1 / 9, "Katakana": 1 / 9, "CJK": 1 / 9}
    )
    assert scripts(["123 🙂"]) == {}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Drink plenty of water and rest until the fever has gone; it is not the flu.", "en"),
        ("Trinken Sie viel Wasser und ruhen Sie sich aus, bis das Fieber mit der Zeit fällt.", "de"),
        ("Buvez beaucoup d'eau et reposez-vous dans le lit, car la fièvre est une défense du corps.", "fr"),
        ("Beba mucha agua y descanse en la cama; la fiebre es una defensa del cuerpo.", "es"),
        ("Bere molta acqua e riposare; la febbre è una difesa del corpo che non fa male.", "it"),
        ("Beba muita água e descanse; a febre é uma defesa do corpo e não um mal.", "pt"),
        ("Drink veel water en rust uit; de koorts is een afweer van het lichaam en niet erg.", "nl"),
        ("감기에는 물을 많이 마시고 푹 쉰다.", "ko"),
        ("風邪をひいたときは水をたくさん飲んで休む。", "ja"),
        ("感冒时要多喝水，好好休息。", "zh"),
        ("اشرب الماء عند الزكام", "ar or another in Arabic script"),
        ("При простуде нужно пить воду.", "ru or another in Cyrillic"),
        ("12345 !", "unknown"),
        ("qwfp zxcv arst", "unknown"),
    ],
)
def test_a_language_is_told_by_its_script_and_frequent_words(text: str, language: str) -> None:
    assert languages([text]) == {language: 1}


def test_a_sentence_that_three_documents_have_is_repeated_and_two_are_chance() -> None:
    same = "This sentence stands in each of the leaflets."
    twice = "This one stands in two of the leaflets only."
    some = documents(f"A. {same}", f"{same}\nB.", f"C. {same} {twice}", f"{twice} Ask kim@naver.com.")
    share, found = repeated_sentences(some)
    assert [(each.text, each.documents) for each in found] == [(same, 3)]
    assert share == pytest.approx(3 * len(same) / sum(len(document.text) for document in some))


def test_personal_data_is_counted_by_kind_and_shown_masked_only() -> None:
    found = personal_data(documents("kim@naver.com lee@naver.com", "a@b.co 010-1234-5678", "Salt."))
    assert {kind: (each.count, each.documents) for kind, each in found.items()} == {
        "e-mail": (3, 2),
        "phone": (1, 1),
    }
    assert found["phone"].examples == ["0••-••••-••••"]
    assert redact("Call 010-1234-5678 now.")[0] == "Call [PHONE] now."


def test_a_histogram_counts_by_doublings_without_gaps() -> None:
    assert histogram([0, 1, 2, 3, 9]) == [(0, 1, 1), (1, 2, 1), (2, 4, 2), (4, 8, 0), (8, 16, 1)]
    assert histogram([]) == []


def test_a_sample_is_at_most_so_many_bytes_and_never_half_a_character() -> None:
    some = documents(*(f"감기 {n}" for n in range(100)))
    texts = sample_texts(some, 95)
    assert 90 < sum(len(text.encode()) for text in texts) <= 95
    assert all("�" not in text for text in texts)
    assert sample_texts(some, 95) == sample_texts(some[::-1], 95)  # whatever the order of the files
    assert len(sample_texts(some)) == 100


def test_words_are_counted_from_four_letters_on() -> None:
    assert frequent_words(["salt and pepper", "Salt, pepper; pepper"], least=2) == [("pepper", 3)]


def test_the_known_boilerplate_of_medquad_is_found() -> None:
    source = SHARED / "medical" / "medquad.jsonl"
    if not source.is_file():
        pytest.skip("no shared corpora here")
    share, found = repeated_sentences(read_source(str(source), "answer").documents)
    known = "Because these frequencies are based on a specific study"
    assert any(known in each.text and each.documents > 2000 for each in found)
    assert share > 0.3
    assert json.dumps(found[0].text)
