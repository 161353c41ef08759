"""Base scores kept by content: read again, checked again, and made anew when they are stale or damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ft_toolkit.judging.store import Store
from ft_toolkit.judging.totals import Scored
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument

IDENTITY: dict[str, object] = {"weights": "a", "protocol": {"name": "document"}}


class Counted:
    """A scorer with known answers that remembers what it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.asked: list[str] = []
        self.shift = shift

    def __call__(self, documents: Sequence[Encoded]) -> list[Scored]:
        self.asked += [document.document.text for document in documents]
        counts = [np.arange(len(document.ids)) for document in documents]
        return [Scored(count * 0.5 + self.shift, count % 2 == 1) for count in counts]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    said: list[str] = []
    store = Store(tmp_path / "cache" / "scores.sqlite", said.append)
    store.said = said  # type: ignore[attr-defined]
    return store


def document(name: str) -> Encoded:
    return Encoded(TextDocument("t.txt", 0, name), *(np.arange(3, dtype=np.int32),) * 3)  # type: ignore[arg-type]


DOCUMENTS = [document(f"text {number}") for number in range(50)]


def test_a_second_reading_computes_the_sample_that_is_checked_and_no_more(store: Store) -> None:
    first, second = Counted(), Counted()
    before = store.scores(IDENTITY, DOCUMENTS, first)
    again = store.scores(IDENTITY, DOCUMENTS, second)
    assert len(first.asked) == 50
    assert 1 <= len(second.asked) <= 3
    assert all(np.array_equal(a.nats, b.nats) for a, b in zip(before, again, strict=True))
    assert all(one.is_top1.tolist() == [False, True, False] for one in again)


def test_another_list_of_documents_is_scored_whole_since_it_makes_other_batches(store: Store) -> None:
    store.scores(IDENTITY, DOCUMENTS[:20], Counted())
    for other in ([document("longer"), *DOCUMENTS[:20]], DOCUMENTS[19::-1], DOCUMENTS[:19]):
        counted = Counted()
        store.scores(IDENTITY, other, counted)
        assert counted.asked == [each.document.text for each in other]


def test_documents_of_every_length_come_back_in_the_order_asked_for(store: Store) -> None:
    lengths = [9, 1, 4, 4, 2]
    texts = [
        Encoded(TextDocument("t.txt", row, f"{row}"), *(np.arange(n, dtype=np.int32),) * 3)  # type: ignore[arg-type]
        for row, n in enumerate(lengths)
    ]
    store.scores(IDENTITY, texts, Counted())
    again = Counted()
    assert [len(each.nats) for each in store.scores(IDENTITY, texts, again)] == lengths
    assert len(again.asked) == 1
    assert store.scores(IDENTITY, [], again) == []


@pytest.mark.parametrize("part", ["ids", "word_ids"])
def test_the_same_text_in_other_tokens_or_words_is_another_key(store: Store, part: str) -> None:
    store.scores(IDENTITY, DOCUMENTS[:1], Counted())
    counted = Counted()
    other = replace(DOCUMENTS[0], **{part: np.arange(1, 4, dtype=np.int32)})
    store.scores(IDENTITY, [other], counted)
    assert len(counted.asked) == 1
    assert store.said == []  # type: ignore[attr-defined]


class Partly(Counted):
    """Leaves out each text's first token, and some more where it is asked for."""

    def __init__(self, shift: float = 0.0, left_out: int = 1) -> None:
        super().__init__(shift)
        self.left_out = left_out

    def __call__(self, documents: Sequence[Encoded]) -> list[Scored]:
        found = super().__call__(documents)
        for each in found:
            each.nats[: self.left_out] = np.nan
        return found


@pytest.mark.parametrize(
    ("later", "is_stale"),
    [(Partly(), False), (Partly(shift=5e-5), False), (Partly(shift=0.01), True), (Partly(left_out=2), True),
     (Partly(left_out=0), True)],
    ids=["the same", "rounding", "other scores", "fewer tokens", "more tokens"],
)  # fmt: skip
def test_scores_with_tokens_left_out_are_checked_all_the_same(
    store: Store, later: Partly, is_stale: bool
) -> None:
    store.scores(IDENTITY, DOCUMENTS, Partly())
    found = store.scores(IDENTITY, DOCUMENTS, later)
    assert bool(store.said) is is_stale  # type: ignore[attr-defined]
    wanted = later if is_stale else Partly()
    for one, other in zip(found, wanted(DOCUMENTS), strict=True):
        assert np.array_equal(one.nats, other.nats, equal_nan=True)


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_a_file_that_another_process_holds_is_no_damage_and_is_left_alone(
    store: Store, statement: str
) -> None:
    store.scores(IDENTITY, DOCUMENTS, Counted())
    store.patience_seconds = 0.05
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute(statement)
    held = store.scores(IDENTITY, DOCUMENTS[:5], Counted())
    assert [len(each.nats) for each in held] == [3] * 5
    (said,) = store.said  # type: ignore[attr-defined]
    assert "locked" in said
    assert "damaged" not in said
    other.execute("ROLLBACK")
    other.close()
    counted = Counted()
    store.scores(IDENTITY, DOCUMENTS, counted)
    assert len(counted.asked) <= 3


def test_a_file_that_was_just_made_by_another_process_is_no_damage(store: Store) -> None:
    store.path.parent.mkdir(parents=True)
    sqlite3.connect(store.path).close()
    store.path.touch()
    store.scores(IDENTITY, DOCUMENTS, Counted())
    assert store.said == []  # type: ignore[attr-defined]


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
    assert [each.nats[0] for each in found] == [0.01] * 50
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
    assert all(np.array_equal(each.nats, [0.0, 0.5, 1.0]) for each in found)


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    found = Store(tmp_path / "file" / "scores.sqlite", said.append).scores(IDENTITY, DOCUMENTS[:3], Counted())
    assert len(found) == 3
    assert "could not be kept" in said[0]


def test_clearing_forgets(store: Store) -> None:
    store.scores(IDENTITY, DOCUMENTS, Counted())
    store.clear()
    assert not store.path.exists()
    counted = Counted()
    store.scores(IDENTITY, DOCUMENTS, counted)
    assert len(counted.asked) == 50


SAMPLES = [np.array(ids, dtype=np.int32) for ids in ([5, 0], [7], [1, 2, 3])]


def test_samples_are_drawn_once_and_come_back_in_their_lengths(store: Store) -> None:
    assert store.samples(IDENTITY, lambda: SAMPLES) is SAMPLES
    again = store.samples(IDENTITY, lambda: [])
    assert [ids.tolist() for ids in again] == [[5, 0], [7], [1, 2, 3]]
    assert {ids.dtype for ids in again} == {np.dtype(np.int32)}
    assert store.samples({"weights": "b"}, lambda: SAMPLES[:1]) == SAMPLES[:1]  # of another base
    assert store.said == []  # type: ignore[attr-defined]


def test_damaged_samples_are_drawn_anew(store: Store) -> None:
    store.samples(IDENTITY, lambda: SAMPLES)
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE scores SET nll = x'0100'")
    assert store.samples(IDENTITY, lambda: SAMPLES[:1]) == SAMPLES[:1]
    (said,) = store.said  # type: ignore[attr-defined]
    assert "damaged" in said


def test_samples_behind_a_lock_are_drawn_without_the_cache(store: Store) -> None:
    store.samples(IDENTITY, lambda: SAMPLES)
    store.patience_seconds = 0.01
    with sqlite3.connect(store.path) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert store.samples(IDENTITY, lambda: SAMPLES[1:]) == SAMPLES[1:]
    assert "cannot be read" in store.said[0]  # type: ignore[attr-defined]
    assert len(store.samples(IDENTITY, lambda: [])) == 3
