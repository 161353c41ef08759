"""Repeated lines: what two documents share is told from what one has alone."""

from __future__ import annotations

import numpy as np
import pytest

from ft_toolkit.text.corpus import Document
from ft_toolkit.text.screening import outside_repeated_lines, repeated_lines


def documents(*texts: str) -> list[Document]:
    return [Document(f"{n}.txt", 0, text) for n, text in enumerate(texts)]


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
