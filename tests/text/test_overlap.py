"""What held-out text shares with training text is counted by its n-grams, exactly."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from ft_toolkit.sections import Corpus
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.overlap import marked, overlaps
from ft_toolkit.text.splitting import Parts, read_parts


def documents(*texts: str) -> list[Document]:
    return [TextDocument(f"{n}.txt", 0, text) for n, text in enumerate(texts)]


def words(count: int, start: int = 0) -> str:
    return " ".join(f"word{n}" for n in range(start, start + count))


def test_shares_are_those_of_plain_sets_of_words() -> None:
    draw = random.Random(0)
    train = [[f"w{draw.randrange(500)}" for _ in range(draw.randrange(1, 120))] for _ in range(60)]
    held = []
    for _ in range(40):  # half made of pieces of training text, half new
        held.append([f"w{draw.randrange(500)}" for _ in range(draw.randrange(1, 60))])
        for _ in range(draw.randrange(3)):
            source, size = draw.choice(train), draw.randrange(5, 40)
            start = draw.randrange(len(source))
            held[-1] += source[start : start + size]
    found = overlaps(
        documents(*map(" ".join, train)), {"test": documents(*map(" ".join, held)), "general": []}
    )
    for size in (8, 13):
        seen = {tuple(text[n : n + size]) for text in train for n in range(len(text) - size + 1)}
        own = [{tuple(text[n : n + size]) for n in range(len(text) - size + 1)} for text in held]
        shares = [len(grams & seen) / len(grams) if grams else 0.0 for grams in own]
        assert found["test"].fractions[size].tolist() == pytest.approx(shares)
        assert 0 < sum(share > 0 for share in shares) < len(held)
    assert found["general"].as_dict() == {
        "documents": 0,
        "copies": 0,
        "with_8gram": 0,
        "with_13gram": 0,
        "tainted": 0,
    }


@pytest.mark.parametrize(("shared_words", "is_tainted"), [(13, False), (14, True), (17, True)])
def test_a_document_is_tainted_from_seven_tenths_of_its_8_grams_on(
    shared_words: int, is_tainted: bool
) -> None:
    # 17 words are ten 8-grams; 13 and 14 words of them hold six and seven
    train = documents(f"{words(shared_words)} {words(40, start=1000)}")
    assert overlaps(train, {"test": documents(words(17))})["test"].is_tainted.tolist() == [is_tainted]


def test_no_n_gram_reaches_from_one_training_document_into_the_next() -> None:
    train = documents(words(4), words(4, start=4))
    assert overlaps(train, {"test": documents(words(8))})["test"].fractions[8].tolist() == [0.0]


def test_a_text_of_few_words_is_tainted_as_a_copy_alone() -> None:
    found = overlaps(documents("three short words"), {"general": documents("three short words\n", "three")})
    assert found["general"].is_tainted.tolist() == [True, False]
    assert found["general"].as_dict()["copies"] == 1


def test_tainted_test_documents_are_apart_unless_all_of_them_are() -> None:
    train, test = documents(words(300)), documents(words(30, start=500), words(30), "too short")
    parts, found = marked(Parts(train, [], test))
    assert list(found) == ["test"]
    assert (parts.clean_test, parts.tainted_test) == ([test[0], test[2]], [test[1]])
    parts, _ = marked(Parts(train, [], test[1:2]))
    assert parts.clean_test == parts.tainted_test == test[1:2]  # the verdict then says so
    assert marked(Parts(train, [], []))[0].clean_test == []


def test_planted_sentences_in_training_are_found_in_every_test_document_that_has_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(120):
        text = " ".join(f"w{n}" for n in draw.integers(0, 10**9, 50))
        (tmp_path / f"{number}.txt").write_text(text)
    parts = read_parts(Corpus(source=str(tmp_path)))[1]
    planted = [document.text for document in parts.test[:10]]
    joined = [f"{' '.join(planted)} {words(400)}", *(document.text for document in parts.train)]
    parts, found = marked(Parts(documents(*joined), parts.validation, parts.test))
    assert [document.text for document in parts.tainted_test] == planted
    assert found["test"].as_dict()["with_13gram"] == 10 and found["validation"].as_dict()["tainted"] == 0
