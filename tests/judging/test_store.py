"""Base scores kept by content: read again, checked again, and made anew when they are stale or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ft_toolkit.judging.store import Store
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.corpus import Document

IDENTITY: dict[str, object] = {"weights": "a", "protocol": {"name": "document"}}


class Counted:
    """A scorer with known answers that remembers what it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.asked: list[str] = []
        self.shift = shift

    def __call__(self, documents: Sequence[Encoded]) -> list[TokenNll]:
        self.asked += [document.document.text for document in documents]
        return [np.arange(len(document.ids)) * 0.5 + self.shift for document in documents]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    said: list[str] = []
    store = Store(tmp_path / "cache" / "scores.sqlite", said.append)
    store.said = said  # type: ignore[attr-defined]
    return store


def document(name: str) -> Encoded:
    return Encoded(Document("t.txt", 0, name), *(np.arange(3, dtype=np.int32),) * 3)  # type: ignore[arg-type]


DOCUMENTS = [document(f"text {number}") for number in range(50)]


def test_a_second_reading_computes_the_sample_that_is_checked_and_no_more(store: Store) -> None:
    first, second = Counted(), Counted()
    before = store.scores(IDENTITY, DOCUMENTS, first)
    again = store.scores(IDENTITY, DOCUMENTS, second)
    assert len(first.asked) == 50
    assert 1 <= len(second.asked) <= 3
    assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))


def test_only_new_documents_are_computed_and_the_order_asked_for_is_kept(store: Store) -> None:
    store.scores(IDENTITY, DOCUMENTS[:20], Counted())
    counted = Counted()
    longer = Encoded(Document("t.txt", 0, "longer"), *(np.arange(9, dtype=np.int32),) * 3)  # type: ignore[arg-type]
    found = store.scores(IDENTITY, [longer, *DOCUMENTS[:20]], counted)
    assert "longer" in counted.asked
    assert len(counted.asked) <= 3
    assert [len(nll) for nll in found] == [9, *[3] * 20]


@pytest.mark.parametrize(
    "other", [{"weights": "b"}, {"protocol": {"name": "rolling"}}, {"precision": "bfloat16"}]
)
def test_another_base_protocol_or_precision_shares_nothing(store: Store, other: dict[str, object]) -> None:
    store.scores(IDENTITY, DOCUMENTS, Counted())
    counted = Counted()
    store.scores(IDENTITY | other, DOCUMENTS, counted)
    assert len(counted.asked) == 50


def test_stale_scores_are_noticed_named_and_made_anew(store: Store) -> None:
    store.scores(IDENTITY, DOCUMENTS, Counted())
    found = store.scores(IDENTITY, DOCUMENTS, Counted(shift=0.01))
    assert [nll[0] for nll in found] == [0.01] * 50
    assert "stale" in store.said[0]  # type: ignore[attr-defined]
    quiet = Counted(shift=0.01)
    store.scores(IDENTITY, DOCUMENTS, quiet)
    assert len(quiet.asked) <= 3  # what was made anew is kept


@pytest.mark.parametrize("damage", ["not a database", "flipped"])
def test_a_damaged_file_is_noticed_named_and_made_anew(store: Store, damage: str) -> None:
    store.scores(IDENTITY, DOCUMENTS, Counted())
    data = bytearray(store.path.read_bytes())
    if damage == "flipped":
        place = data.rfind(np.float64(0.5).tobytes())
        data[place + 6] ^= 1
    else:
        data[:100] = b"x" * 100
    store.path.write_bytes(data)
    counted = Counted()
    found = store.scores(IDENTITY, DOCUMENTS, counted)
    assert len(counted.asked) == 50
    assert "damaged" in store.said[0]  # type: ignore[attr-defined]
    assert all(np.array_equal(nll, [0.0, 0.5, 1.0]) for nll in found)


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    found = Store(tmp_path / "file" / "scores.sqlite", said.append).scores(IDENTITY, DOCUMENTS[:3], Counted())
    assert len(found) == 3
    assert "could not be kept" in said[0]


def test_size_is_told_and_clearing_forgets(store: Store) -> None:
    assert store.size_bytes() == 0
    store.scores(IDENTITY, DOCUMENTS, Counted())
    assert store.size_bytes() > 0
    store.clear()
    assert store.size_bytes() == 0
    counted = Counted()
    store.scores(IDENTITY, DOCUMENTS, counted)
    assert len(counted.asked) == 50
