"""Documents of one template: who may be a near-duplicate is found without comparing each with each."""

from __future__ import annotations

from itertools import combinations
from random import Random
from unittest.mock import patch

import numpy as np
import pytest

from ft_toolkit.text import screening
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.prefixes import prefixes_of
from ft_toolkit.text.screening import screen

THRESHOLD = 0.8


def sets(seed: int, count: int = 150) -> list[np.ndarray]:
    """Sets that share from half to nearly all of a template, each with some elements of its own."""
    draw = np.random.default_rng(seed)
    template = draw.integers(0, 2**63, 100, dtype=np.uint64)
    found = []
    for _ in range(count):
        some = draw.permutation(template)[: draw.integers(50, 101)] if draw.random() < 0.3 else template
        own = draw.integers(0, 2**63, draw.integers(0, 60), dtype=np.uint64)
        found.append(np.unique(np.concatenate([some, own])))
    return found


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(set(one.tolist()) & set(other.tolist()))
    return shared / (len(one) + len(other) - shared)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_no_pair_at_the_threshold_is_lost_and_far_fewer_are_compared(threshold: float) -> None:
    found = sets(seed=int(100 * threshold))
    found += [each.copy() for each in found[:20]]
    numbers = np.arange(len(found))
    prefixes = prefixes_of(lambda: found, numbers, len(found), threshold)
    candidates = prefixes.among(numbers)
    together = {frozenset((one, other)) for one in range(len(found)) for other in candidates(one).tolist()}
    near = {
        frozenset(pair)
        for pair in combinations(range(len(found)), 2)
        if jaccard(found[pair[0]], found[pair[1]]) >= threshold
    }
    assert len(near) >= 20
    assert near <= together
    if threshold >= 0.8:
        assert len(together) < 0.7 * len(found) ** 2 / 2


def test_only_the_numbers_that_were_given_have_prefixes() -> None:
    found = sets(seed=1, count=10)
    numbers = np.array([2, 5, 7])
    prefixes = prefixes_of(lambda: [found[2], found[5], found[5]], numbers, 10, THRESHOLD)
    assert prefixes.among(numbers)(5).tolist() == [5, 7]
    assert prefixes.among(np.array([0, 1, 9]))(9).tolist() == []


def forms(count: int, filled_words: int) -> list[Document]:
    """One form of a hundred words, filled in differently each time."""
    draw = Random(0)
    form = [f"word{n}" for n in range(100)]
    return [
        TextDocument(
            "form.jsonl", row, " ".join([*form, *(f"own{draw.random()}" for _ in range(filled_words))])
        )
        for row in range(count)
    ]


def test_a_filled_form_is_compared_with_none_of_the_others() -> None:
    compared = 0

    def counted(one: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
        nonlocal compared
        compared += len(others)
        return jaccards(one, others)

    jaccards = screening.jaccards
    with patch.object(screening, "jaccards", counted):
        found = screen(forms(600, filled_words=25), THRESHOLD)  # Jaccard similarity 0.66
    assert not found.second
    assert compared == 0  # of 179,700 pairs


def test_a_form_with_little_filled_in_is_one_group() -> None:
    found = screen(forms(200, filled_words=5), THRESHOLD)  # Jaccard similarity 0.9
    assert len(found.second) == 199
    assert len({document.group for document in found.documents}) == 1
