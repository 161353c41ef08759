"""Training text is known again with another newline, joined, or cut in another way; other text is not."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest

from ft_toolkit.text import known
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.known import KNOWN_FRACTION, known_fraction, word_runs

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen"
NONE: frozenset[str] = frozenset()


def documents(*texts: str) -> list[Document]:
    return [TextDocument("t", row, text) for row, text in enumerate(texts)]


def test_thirteen_words_are_one_run_and_twelve_are_none() -> None:
    assert len(word_runs(documents(SENTENCE))) == 1
    assert len(word_runs(documents(SENTENCE.removesuffix(" thirteen")))) == 0
    assert len(word_runs(documents(f"{SENTENCE} fourteen"))) == 2


@pytest.mark.parametrize(
    "same",
    [SENTENCE.upper(), SENTENCE.replace(" ", "\n"), f"- *{SENTENCE}*!", SENTENCE.replace(" five", ", five")],
)
def test_case_punctuation_and_line_breaks_change_no_run(same: str) -> None:
    assert list(word_runs(documents(same))) == list(word_runs(documents(SENTENCE)))


def test_the_order_of_the_words_counts() -> None:
    words = SENTENCE.split()
    swapped = " ".join([words[1], words[0], *words[2:]])
    assert known_fraction(swapped, NONE, word_runs(documents(SENTENCE))) == 0


def test_half_a_known_text_is_half_known() -> None:
    old = " ".join(f"w{n}" for n in range(112))  # 100 runs
    new = " ".join(f"v{n}" for n in range(88))  # joined: 188 runs, 100 of them known
    assert known_fraction(f"{old} {new}", NONE, word_runs(documents(old))) == 100 / 188


@pytest.mark.parametrize("joint", ["\n", "\n\n"])
def test_short_documents_joined_in_one_file_are_known(joint: str) -> None:
    trained = documents(*(f"note {n} says little" for n in range(30)))
    identities = frozenset(document.sha256 for document in trained)
    text = joint.join(document.text for document in trained)
    assert known_fraction(text, identities, word_runs(trained)) == 1
    others = joint.join(f"other {n} says little" for n in range(30))
    assert known_fraction(others, identities, word_runs(trained)) == 0


def test_chinese_text_has_runs_of_characters() -> None:
    text = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心"
    assert len(word_runs(documents(text))) == len(text) - 12
    assert known_fraction(text[5:], NONE, word_runs(documents(text))) == 1


def test_pieces_of_bundled_text_are_known_and_unseen_documents_of_the_same_corpus_are_not() -> None:
    found = read_source("package:everyday-medicine").documents
    trained, unseen = found[::2], found[1::2]
    runs = word_runs(trained)
    halves = [document.text[len(document.text) // 3 :] for document in trained]
    assert min(known_fraction(text, NONE, runs) for text in halves) > 0.9
    assert max(known_fraction(document.text, NONE, runs) for document in unseen) < 0.05 < KNOWN_FRACTION


def test_of_a_large_corpus_a_sample_of_runs_is_kept_that_estimates_the_share() -> None:
    draw = random.Random(0)
    texts = [" ".join(str(draw.random()) for _ in range(400)) for _ in range(50)]
    runs = word_runs(documents(*texts), most=2000)  # of some 39,000
    assert len(runs) == 2000
    assert list(runs) == sorted(set(runs))
    assert list(runs) == list(word_runs(documents(*reversed(texts)), most=2000))
    whole = " ".join(texts[:20])
    assert known_fraction(whole, NONE, runs, most=2000) > 0.99
    half = " ".join([*texts[:20], *(str(draw.random()) for _ in range(8000))])
    assert known_fraction(half, NONE, runs, most=2000) == pytest.approx(0.5, abs=0.08)
    assert known_fraction(SENTENCE, NONE, runs, most=2000) == 0  # too few of its runs are in the sample
    assert known.KEPT_RUNS * 8 <= 2**24  # 16 MB


def test_a_near_duplicate_of_training_text_is_known() -> None:
    bench = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "twins.py"))
    planted, twins = bench["planted"](400, 200)
    runs = word_runs(planted[:200])
    near = [second for first, second in twins if bench["exact"](planted[first], planted[second]) >= 0.8]
    assert len(near) > 100
    assert min(known_fraction(planted[number].text, NONE, runs) for number in near) >= KNOWN_FRACTION
