"""Canaries: planted sentences, and how far a model knows them."""

from __future__ import annotations

import numpy as np
import pytest

from ft_toolkit.judging.exposure import exposure, side_exposure
from ft_toolkit.text.canaries import CONTROLS, canaries, controls, with_canaries
from ft_toolkit.text.documents import TextDocument


def test_no_two_sentences_are_equal_and_each_run_has_the_same() -> None:
    texts = [document.text for document in [*canaries(1000), *controls()]]
    assert len(set(texts)) == 1000 + CONTROLS
    assert canaries(8) == canaries(1000)[:8]
    assert {len(text) for text in texts} == {len("The number of the archive is 1 2 3 4 5 6 7 8 9.")}


def test_canaries_stand_between_the_documents_and_move_none() -> None:
    documents = [TextDocument("t", n, f"text {n}") for n in range(10)]
    planted = with_canaries(documents, 4)
    assert [d for d in planted if d.source != "canary"] == documents
    places = [place for place, document in enumerate(planted) if document.source == "canary"]
    assert places == [2, 5, 8, 11]
    assert with_canaries(documents, 0) == documents
    assert len(with_canaries(documents[:1], 30)) == 31


def test_a_canary_that_is_likelier_than_all_others_is_exposed_by_ten_bits() -> None:
    nats = np.concatenate([[0.5, 100.0], np.linspace(1, 50, CONTROLS)])
    found = side_exposure(nats, canaries=2)
    assert found.bits == (10.0, 0.0)
    assert found.auc.value == 0.5


def test_canaries_that_nobody_knows_are_exposed_by_chance_alone() -> None:
    random = np.random.default_rng(0)
    found = side_exposure(random.normal(0, 1, 400 + CONTROLS), canaries=400)
    assert found.mean_bits == pytest.approx(1.44, abs=3 * 1.44 / 20)
    assert found.auc.low < 0.5 < found.auc.high


def test_what_the_base_knew_is_not_remembered_from_training() -> None:
    random = np.random.default_rng(1)
    sides = random.normal(0, 1, (8 + CONTROLS, 2))
    assert not exposure([tuple(row) for row in sides], 8).is_exposed
    learnt = sides.copy()
    learnt[:8, 1] -= 4
    found = exposure([tuple(row) for row in learnt], 8)
    assert found.is_exposed and found.tuned.mean_bits > 6 > 3 > found.base.mean_bits
    nearly = np.repeat(sides[:, :1], 2, axis=1)
    nearly[:8] -= 1.2  # the base itself tells them apart, and the tuned model by a hair more
    nearly[0, 1] -= 0.1
    found = exposure([tuple(row) for row in nearly], 8)
    assert found.tuned.auc.low > 0.5 and not found.is_exposed
    both = learnt.copy()
    both[:8, 0] = both[:8, 1]
    both[8:, 0] = both[8:, 1]
    assert not exposure([tuple(row) for row in both], 8).is_exposed
