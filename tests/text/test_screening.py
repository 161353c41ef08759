"""Near-duplicates share a group, and repeated lines are told from what one document has alone."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash

from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.screening import (
    LEAST_RECALL,
    SEED,
    SIGNATURE_VALUES,
    bands,
    outside_repeated_lines,
    repeated_lines,
    screen,
    shingle_set,
    signatures_of,
)

BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "twins.py"))  # the same test, larger
WORDS = " ".join(f"word{n}" for n in range(60))  # 56 runs of five words


def documents(*texts: str) -> list[Document]:
    return [TextDocument(f"{n}.txt", 0, text) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a\nb", "b\nc"], {"b"}),
        (["a\n  b\t", "b"], {"b"}),  # surrounding blanks do not make another line
        (["a\na\na", "b"], set()),  # thrice in one document is that document's own
        (["a\n\n \nb", "c\n\n \nd"], set()),  # blank lines belong to nobody
        (["a b", "a  b"], set()),  # blanks inside do
        (["a", "a", "a"], {"a"}),
        ([], set()),
    ],
)
def test_a_line_is_repeated_when_two_documents_have_it(texts: list[str], expected: set[str]) -> None:
    assert repeated_lines(documents(*texts)) == expected


@pytest.mark.parametrize(
    ("text", "repeated", "fresh"),
    [
        ("ab\ncd", {"cd"}, [True, True, True, False, False]),
        ("ab\ncd", {"ab"}, [False, False, False, True, True]),  # the line feed goes with the line it ends
        ("ab\ncd", set(), [True] * 5),
        ("a\n\nb", {"a", "b"}, [False, False, True, False]),  # the empty line is nobody's
        (" a \nb", {"a"}, [False, False, False, False, True]),
        ("a\n", {"a"}, [False, False]),
        ("a b\na", {"a"}, [True, True, True, True, False]),  # a line counts whole, not in part
    ],
)
def test_each_character_knows_whether_its_line_is_repeated(
    text: str, repeated: set[str], fresh: list[bool]
) -> None:
    ends = np.arange(1, len(text) + 1)  # as if each character were a token
    assert outside_repeated_lines(text, ends, frozenset(repeated)).tolist() == fresh


def test_a_token_across_lines_goes_with_its_last_character() -> None:
    ends = np.array([2, 4, 5])  # "ab", "\nc", "d"
    assert outside_repeated_lines("ab\ncd", ends, frozenset({"cd"})).tolist() == [True, False, False]


def test_a_token_of_no_characters_is_placed_where_it_stands() -> None:
    assert outside_repeated_lines("ab", np.array([0, 2]), frozenset({"ab"})).tolist() == [False, False]


def test_no_tokens_have_no_answers() -> None:
    assert outside_repeated_lines("ab", np.array([], dtype=np.int64), frozenset()).tolist() == []


# --- near-duplicates ----------------------------------------------------------------------------------


def test_of_planted_twins_those_from_the_threshold_on_are_united_and_no_others() -> None:
    planted, twins = BENCH["planted"](900, 300)
    found = set(BENCH["united"](planted))
    similarity = {pair: BENCH["exact"](planted[pair[0]], planted[pair[1]]) for pair in twins}
    near = {pair for pair, value in similarity.items() if value >= 0.8}
    assert len(near) > 150 and len(twins) - len(near) > 80
    assert len(found & near) >= 0.99 * len(near)
    assert found <= near  # every candidate is checked by its exact similarity


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_the_bands_find_a_pair_at_the_threshold_as_often_as_they_promise(threshold: float) -> None:
    count, values = bands(threshold)
    assert count * values <= SIGNATURE_VALUES
    draw = np.random.default_rng(0)  # each value of two signatures is equal as often as the sets are alike
    equal = draw.random((20_000, count, values)) < threshold
    assert equal.all(axis=2).any(axis=1).mean() >= LEAST_RECALL - 0.002


def test_signatures_are_those_of_datasketch_shingle_by_shingle() -> None:
    texts = documents(WORDS, f"{WORDS} again", "too short")
    for signature, document in zip(signatures_of(texts), texts, strict=True):
        plain = MinHash(SIGNATURE_VALUES, SEED, hashfunc=lambda shingle: int(shingle) >> 32)
        for shingle in shingle_set(document):
            plain.update(shingle)
        assert signature.tolist() == plain.hashvalues.tolist()


def groups(*texts: str, threshold: float | None = 0.8) -> list[str]:
    """The group of each text, named by the letters of the alphabet in their order."""
    names: dict[str, str] = {}
    return [
        names.setdefault(document.group, chr(ord("a") + len(names)))
        for document in screen(documents(*texts), threshold).documents
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([WORDS, WORDS.upper() + "!"], "aa"),  # case and punctuation are no difference
        ([WORDS, f"{WORDS} and some more words"], "aa"),  # 56 of 60 runs
        ([WORDS, " ".join(WORDS.split()[:49])], "aa"),  # 45 of 56 runs: 0.804
        ([WORDS, " ".join(WORDS.split()[:48])], "ab"),  # 44 of 56: 0.786
        ([WORDS, " ".join(reversed(WORDS.split()))], "ab"),  # the order counts
        (["one two", "One  two\n", "one two!"], "aab"),  # short texts are compared whole
        (["1 + 1", "1 - 1"], "ab"),
        (
            ["人人生而自由在尊严和权利上一律平等", "人人生而自由在尊严和权利上一律平等他"],
            "aa",
        ),  # 13 of 14 runs
        (["…", "!!!", "🙂", "🙂 🙂"], "abcd"),
        ([WORDS], "a"),
        ([], ""),
    ],
)
def test_two_texts_are_one_group_from_four_fifths_of_their_runs_of_five_words(
    texts: list[str], expected: str
) -> None:
    assert "".join(groups(*texts)) == expected
    assert "".join(groups(*texts, threshold=None)) == "abcdefgh"[: len(texts)]


def test_near_duplicates_hang_together_through_others() -> None:
    chain = [" ".join(WORDS.split()[: 60 - 6 * n]) for n in range(4)]  # each has 50/56 and more of the next
    assert groups(*chain) == ["a", "a", "a", "a"]
    assert groups(chain[0], chain[3]) == ["a", "b"]


def test_a_group_bears_the_name_of_one_of_its_own_in_any_order_and_company() -> None:
    twins = documents(WORDS, f"{WORDS} again", f"{WORDS} {WORDS.split()[0]}")
    others = [TextDocument(f"other{n}.txt", 0, f"{n} is another text of a few words") for n in range(50)]
    mixed = [*others, *twins]
    random.Random(0).shuffle(mixed)
    alone = {document.group for document in screen(twins, 0.8).documents}
    beside = {document.id: document.group for document in screen(mixed, 0.8).documents}
    assert alone == {beside[document.id] for document in twins} == {min(d.sha256 for d in twins)}
    assert all(beside[document.id] == document.sha256 for document in others)


def pieces(*files: list[str]) -> list[Document]:
    """Paragraphs of files."""
    return [
        TextDocument(f"{n}.txt", row, text, f"file {n}")
        for n, file in enumerate(files)
        for row, text in enumerate(file)
    ]


def test_a_near_duplicate_in_another_file_is_left_out_and_the_files_stay_apart() -> None:
    found = screen(pieces([WORDS, "first file"], [WORDS.upper(), "second file"], ["third file"]), 0.8)
    assert found.left_out == 1
    assert {document.group for document in found.documents} == {"file 0", "file 1", "file 2"}
    assert [document.text.lower() for document in found.documents].count(WORDS) == 1
    kept = screen(
        pieces([WORDS, "first file"], [WORDS.upper(), "second file"], ["third file"]), 0.8, keep=True
    )
    assert kept.left_out == 0
    assert [document.group for document in kept.documents] == ["file 0"] * 4 + ["file 2"]


def test_near_duplicates_in_one_file_count_once() -> None:
    found = screen(pieces([WORDS, WORDS.upper()], ["second file"]), 0.8)
    assert found.left_out == 0 and len(found.documents) == 3
    assert len(found.second) == 1
