"""corpus.most_documents: which documents of files and folders are read, and which files are never opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documents import zip_of

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import Reading, read_corpora

BROKEN = b"\xff\xfe\xff broken"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven documents: a.jsonl has three and an empty one, b/c.txt one, d.zip two, e.txt one."""
    rows = ["Salt.", "Oil.", " ", "Rice."]
    (tmp_path / "e.txt").write_text("Tea.")
    (tmp_path / "d.zip").write_bytes(zip_of({"z.txt": b"Flour.", "a.txt": b"Eggs."}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text("Water.")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    return tmp_path


def read(source: Path, most: int, *, skip: bool = False) -> Reading:
    return read_corpora(Corpus(source=str(source), most_documents=most, skip_unreadable=skip))


def texts(reading: Reading) -> list[str]:
    return [document.text for document in reading.documents]


ALL = ["Salt.", "Oil.", "Rice.", "Water.", "Flour.", "Eggs.", "Tea."]


@pytest.mark.parametrize(("most", "count"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (7, 6), (8, 7), (9, 7)])
def test_the_first_documents_in_the_order_of_names_are_read_and_an_empty_one_counts(
    folder: Path, most: int, count: int
) -> None:
    reading = read(folder, most)
    assert texts(reading) == ALL[:count]
    assert reading.empty_documents == (1 if most > 2 else 0)


def test_the_same_documents_are_read_as_one_longer_list_begins_with(folder: Path) -> None:
    whole = [d.id for d in read_corpora(Corpus(source=str(folder))).documents]
    for most in range(1, 9):
        some = [d.id for d in read(folder, most).documents]
        assert some == whole[: len(some)]


def test_a_copy_counts_as_the_document_that_it_repeats(tmp_path: Path) -> None:
    for name, text in (("a", "Salt."), ("b", "Salt."), ("c", "Oil.")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert (texts(read(tmp_path, 2)), read(tmp_path, 2).copies) == (["Salt."], 1)


def test_a_file_behind_the_last_document_is_never_opened(folder: Path) -> None:
    (folder / "c.txt").write_bytes(BROKEN)
    assert texts(read(folder, 5)) == ALL[:4]
    with pytest.raises(Unreadable, match=r"c\.txt"):
        read(folder, 6)


def test_a_file_that_is_left_out_counts_for_nothing(folder: Path) -> None:
    (folder / "0.txt").write_bytes(BROKEN)
    (folder / "f.txt").write_bytes(BROKEN)
    reading = read(folder, 5, skip=True)
    assert texts(reading) == ALL[:4]
    (line,) = reading.unreadable
    assert line.startswith(f"{folder / '0.txt'}, byte 0: expected UTF-8")
    assert len(read(folder, 9, skip=True).unreadable) == 2


def test_nothing_of_a_table_with_a_bad_row_is_read_even_where_its_first_rows_would_do(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "Salt."}\n{"text": "Oil."}\nbroken\n')
    (tmp_path / "b.txt").write_text("Water.")
    assert texts(read(tmp_path, 1, skip=True)) == ["Water."]
    assert texts(read(tmp_path, 1)) == ["Salt."]  # what is not left out is read no further than needed


def test_each_source_of_a_mixture_has_a_number_of_its_own(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"text": f"Page {n}."}) for n in range(9)))
    both = (
        Corpus(source=str(folder / "a.jsonl"), most_documents=1),
        Corpus(source=str(other), most_documents=2),
    )
    reading = read_corpora(*both)
    assert [(d.corpus, d.text) for d in reading.documents] == [
        ("a.jsonl", "Salt."),
        ("other.jsonl", "Page 0."),
        ("other.jsonl", "Page 1."),
    ]
    whole = read_corpora(both[0], Corpus(source=str(other)))
    assert len(whole.documents) == 1 + 9


def test_documents_that_are_all_empty_are_named(folder: Path) -> None:
    (folder / "0.txt").write_text(" \n")
    with pytest.raises(FtError, match="expected at least one document with text, found 1 empty documents"):
        read(folder, 1)
