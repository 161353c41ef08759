"""A split moves nobody, keeps what belongs together in one part, and leaves enough in each."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_toolkit.errors import FtError
from ft_toolkit.judging.statistics import TOO_FEW_DOCUMENTS
from ft_toolkit.sections import Corpus, Split
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import (
    LEAST,
    LEAST_TEST,
    LEAST_TRAIN,
    LEAST_VALIDATION,
    Parts,
    document_rows,
    read_parts,
    sample,
    split,
)


def numbered(count: int) -> list[Document]:
    return [TextDocument(f"{n}.txt", 0, f"document number {n}") for n in range(count)]


def place_of(parts: Parts) -> dict[str, str]:
    return {document.id: part for part, documents in parts for document in documents}


def sizes(parts: Parts) -> tuple[int, int, int]:
    return len(parts.train), len(parts.validation), len(parts.test)


def test_every_document_is_in_exactly_one_part() -> None:
    documents = numbered(300)
    found = [document for _, held in split(documents, Split()) for document in held]
    assert Counter(document.id for document in found) == Counter(document.id for document in documents)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(added=st.lists(st.integers(0, 90), max_size=5), at=st.integers(0, 60), reverse=st.booleans())
def test_adding_or_moving_documents_moves_no_other(added: list[int], at: int, reverse: bool) -> None:
    documents = numbered(60)
    before = place_of(split(documents, Split()))
    new = [TextDocument(f"new{i}", 0, f"document number {n}") for i, n in enumerate(added)]  # copies too
    more = documents[:at] + new + documents[at:]
    after = place_of(split(list(reversed(more)) if reverse else more, Split()))
    assert {document.id: after[document.id] for document in documents} == before


def test_texts_that_differ_by_a_final_newline_share_a_part() -> None:
    documents = numbered(200)
    copies = [TextDocument(f"copy of {d.source}", 7, f"{d.text}\n") for d in documents]
    place = place_of(split(documents + copies, Split()))
    assert all(place[a.id] == place[b.id] for a, b in zip(documents, copies, strict=True))


def test_all_pieces_of_a_file_share_a_part(tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / f"{n}.txt").write_text("\n\n".join(f"paragraph {k} of file {n}" for k in range(5)))
    parts = split(read_source(str(tmp_path), unit="paragraph").documents, Split())
    assert sum(sizes(parts)) == 300
    for _, held in parts:
        assert set(Counter(document.source for document in held).values()) == {5}


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.25, 0.25), (0.05, 0.6)])
def test_shares_are_near_those_asked_for(validation: float, test: float) -> None:
    parts = split(numbered(2000), Split(validation=validation, test=test))
    # four standard errors of a share of 2000 draws are at most 0.045
    assert len(parts.validation) / 2000 == pytest.approx(validation, abs=0.045)
    assert len(parts.test) / 2000 == pytest.approx(test, abs=0.045)


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    documents = numbered(300)
    first, again, other = (place_of(split(documents, Split(seed=seed))) for seed in (0, 0, 1))
    assert first == again
    # two independent draws of 0.7, 0.1, 0.2 agree for 0.49 + 0.01 + 0.04 of the documents
    assert sum(first[key] == other[key] for key in first) / 300 == pytest.approx(0.54, abs=0.12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [20, 25, 40])
def test_a_persons_20_to_40_notes_give_every_part_its_least_number(count: int, seed: int) -> None:
    documents = numbered(count)
    parts = split(documents, Split(seed=seed))
    train, validation, test = sizes(parts)
    assert train >= LEAST_TRAIN and validation >= LEAST_VALIDATION and test >= LEAST_TEST
    random.Random(seed).shuffle(documents)
    assert place_of(split(documents, Split(seed=seed))) == place_of(parts)


def test_the_least_number_to_judge_on_gives_an_interval() -> None:
    assert LEAST_TEST == TOO_FEW_DOCUMENTS
    assert LEAST == 20


def test_the_documents_of_the_nearest_hashes_are_moved_and_no_others() -> None:
    # with seed 0 and many documents the hash alone decides; the first 20 of them may be moved
    documents = numbered(400)
    by_hash, few = place_of(split(documents, Split())), place_of(split(documents[:20], Split()))
    moved = {(by_hash[key], few[key]) for key in few if by_hash[key] != few[key]}
    assert moved <= {("train", "validation"), ("validation", "test"), ("train", "test")}
    assert 0 < sum(by_hash[key] != few[key] for key in few) <= LEAST_TEST + LEAST_VALIDATION


def refusal(documents: list[Document], copies: int = 0) -> str:
    with pytest.raises(FtError) as caught:
        split(documents, Split(), copies)
    line = str(caught.value)
    assert "…" not in line  # nothing had to be left out
    assert line.startswith("corpus: expected at least 20 ")
    return line


def test_three_notes_are_told_how_many_more_are_needed() -> None:
    assert "found 3. Add 17 more." in refusal(numbered(3))


def test_copies_of_one_text_are_told_that_they_are_one() -> None:
    line = refusal(numbered(1), copies=29)
    assert "found 1, without 29 copies. Add 19 more; a copy is no second document." in line


def test_a_book_in_one_file_is_told_to_be_cut_into_chapters() -> None:
    book = [TextDocument("book.txt", 0, "It was a dark and stormy night. " * 5000)]
    assert "Cut it, one file a chapter (documents: paragraph keeps a file in one part)." in refusal(book)


def test_pieces_of_one_file_are_told_why_they_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(f"paragraph {n}" for n in range(300)))
    line = refusal(read_source(str(tmp_path), unit="paragraph").documents)
    assert "20 files" in line and "found 1, of 300 pieces" in line and ".jsonl" in line


def test_a_sample_is_chosen_by_text_and_not_by_the_order_of_files() -> None:
    documents = numbered(200)
    chosen = sample(documents, 64)
    assert sample(list(reversed(documents)), 64) == chosen
    assert len({document.sha256 for document in chosen}) == 64
    assert sample(documents, 12) == chosen[:12]
    # the first hundred files are one topic: 64 draws of 200 without replacement, four standard errors
    assert sum(int(d.source.removesuffix(".txt")) < 100 for d in chosen) == pytest.approx(32, abs=14)
    assert sample(documents[:3], 64) == sample(documents[:3], 3)


# --- near-duplicates and split.group ------------------------------------------------------------------


def story(number: int) -> str:
    """A text of sixty words that no other has."""
    draw = random.Random(number)
    return " ".join(f"word{draw.randrange(10**9)}" for _ in range(60))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def write_twins(folder: Path) -> str:
    """A hundred texts, each of the first forty with three near-duplicates and a copy."""
    edits = ("{} with an end", "A beginning, {}", "{}!!")
    rows = [{"text": edit.format(story(n))} for edit in edits for n in range(40)]
    copies = [{"text": story(n)} for n in range(40)]
    return write_rows(folder, [*({"text": story(n)} for n in range(100)), *rows, *copies])


def numbers(documents: list[Document]) -> list[int]:
    """Which story each document tells."""
    of_words = {story(n).split()[30]: n for n in range(100)}
    return [
        next(of_words[word] for word in document.text.split() if word in of_words) for document in documents
    ]


def test_near_duplicates_never_straddle_parts_and_count_once_in_training(tmp_path: Path) -> None:
    reading, parts = read_parts(Corpus(source=write_twins(tmp_path)))
    train, validation, test = (numbers(held) for _, held in parts)
    assert not set(train) & set(validation) and not set(train) & set(test) and not set(validation) & set(test)
    assert reading.copies == 40
    assert len(train) == len(set(train))
    assert parts.near_duplicates == 100 + 120 - len(train) - len(validation) - len(test) > 0
    assert Counter(numbers(parts.test)).most_common(1)[0][1] == 4  # each is judged, as one group
    rows = list(document_rows(parts))
    assert len({row["group"] for row in rows}) == 100
    again = read_parts(Corpus(source=str(tmp_path / "rows.jsonl"), near_duplicates=None))[1]
    everywhere = [set(numbers(held)) for _, held in again]
    assert everywhere[0] & everywhere[2]  # what screening is for


def test_kept_duplicates_are_trained_on_and_still_never_straddle(tmp_path: Path) -> None:
    reading, parts = read_parts(Corpus(source=write_twins(tmp_path), keep_duplicates=True))
    train, validation, test = (Counter(numbers(held)) for _, held in parts)
    assert reading.copies == parts.near_duplicates == 0
    assert max(train.values()) == 5 and max(test.values()) == 4  # a held-out copy counts once
    assert not train.keys() & test.keys() and not train.keys() & validation.keys()


def test_documents_without_near_duplicates_are_split_as_ever(tmp_path: Path) -> None:
    source = write_rows(tmp_path, [{"text": story(n)} for n in range(100)])
    plain = place_of(split(read_source(source).documents, Split()))
    assert place_of(read_parts(Corpus(source=source))[1]) == plain
    some = [{"text": f"{story(n)} {end}"} for n in range(100, 140) for end in ("one", "two")]
    more = write_rows(tmp_path, [*({"text": story(n)} for n in range(100)), *some])
    beside = place_of(read_parts(Corpus(source=more))[1])
    assert {key: beside[key] for key in plain} == plain  # twins of others move nobody


def test_the_rows_of_a_patient_never_straddle_parts(tmp_path: Path) -> None:
    rows = [{"text": story(n), "patient_id": str(n % 50)} for n in range(300)]
    corpus = Corpus(source=write_rows(tmp_path, rows), split=Split(group="patient_id"))
    parts = read_parts(corpus)[1]
    patients = [{rows[document.row]["patient_id"] for document in held} for _, held in parts]
    assert sum(sizes(parts)) == 300 and sum(map(len, patients)) == 50
    assert all(len(row["group"]) == 64 for row in document_rows(parts))  # a hash, no name
    for row in rows[::7]:
        row["patient_id"] = ""  # no patient: by its own text
    write_rows(tmp_path, rows)
    assert len({row["group"] for row in document_rows(read_parts(corpus)[1])}) == 50 + len(rows[::7])


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = write_rows(tmp_path, [{"text": story(n), "patient": "7"} for n in range(30)])
    with pytest.raises(
        FtError, match=r"row 0: corpus\.split\.group: expected column patient_id, found columns"
    ):
        read_parts(Corpus(source=source, split=Split(group="patient_id")))
    with pytest.raises(FtError, match=r"20 values of patient .* found 1, of 30 rows"):
        read_parts(Corpus(source=source, split=Split(group="patient")))
    (tmp_path / "note.txt").write_text("a note")
    with pytest.raises(FtError, match=r"corpus\.split\.group: expected a table with a column patient, found"):
        read_parts(Corpus(source=str(tmp_path / "note.txt"), split=Split(group="patient")))


def test_near_duplicates_are_told_that_they_are_one(tmp_path: Path) -> None:
    source = write_rows(tmp_path, [{"text": f"{story(n // 3)} {n}"} for n in range(30)])
    with pytest.raises(FtError, match=r"found 10, since 30 documents have near-duplicates\. Add 10 more"):
        read_parts(Corpus(source=source))


def test_the_verdict_is_about_no_more_test_documents_than_asked_for() -> None:
    test = [TextDocument("a", n, f"text {n}", corpus="ab"[n % 3 == 0]) for n in range(60)]
    tainted = frozenset(document.id for document in test[:20])
    validation = [TextDocument("v", n, f"held {n}") for n in range(9)]
    parts = Parts([], validation, test, tainted=tainted)
    few = replace(parts, most_judged=10)
    assert parts.clean_test == test[20:] and parts.tainted_test == test[:20]
    assert len(few.clean_test) == len(few.tainted_test) == 10
    assert [document.row for document in few.clean_test] == sorted(d.row for d in few.clean_test)
    assert sum(document.corpus == "a" for document in few.clean_test) == 5  # as many of each source
    more = replace(few, test=[*test, *(TextDocument("new", n, f"{n} new") for n in range(3))])
    assert len({d.id for d in more.clean_test} & {d.id for d in few.clean_test}) >= 5  # chosen by hash
    rows = list(document_rows(few, keep_text=True))
    assert sum(row["text"] is not None for row in rows) == 9 + 10 + 10
    assert not any(row["text"] for row in document_rows(few))
