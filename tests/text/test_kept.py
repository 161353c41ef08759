"""A large text is in a file: nothing about it changes but the memory."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.sections import Corpus
from ft_toolkit.text import kept, packed, scratch, sources
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.documents import Document, TextDocument, first_of_equal, identity, identity_of_lines
from ft_toolkit.text.kept import KeptDocument
from ft_toolkit.text.look import repeated_sentences
from ft_toolkit.text.overlap import marked
from ft_toolkit.text.splitting import document_rows, parted, screened_together

FIELDS = ("id", "source", "row", "text", "whole_sha256", "corpus", "sha256", "text_sha256", "group")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ft_toolkit" / "texts"


@pytest.fixture
def large(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text counts as a large one."""
    monkeypatch.setattr(kept, "KEPT_FROM_CHARACTERS", 100)
    monkeypatch.setattr(kept, "_BATCH_CHARACTERS", 500)
    monkeypatch.setattr(scratch, "LARGE_ARRAY_BYTES", 64)
    monkeypatch.setattr(sources, "KEYED_FROM_BYTES", 0)
    monkeypatch.setattr(packed, "MAPPED_FROM_BYTES", 10)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A table with copies, near-duplicates and an empty document."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(draw.choice(words, 60)) for _ in range(60)]
    texts[10:14] = [f"{text}. This sentence stands in four of them." for text in texts[10:14]]
    texts += [
        texts[0],
        f"{texts[1]} more",
        "",
        f"{texts[2]}\n",
        "감기 🫒\u2028x",
        *(t[:-3] for t in texts[5:9]),
    ]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Corpus(source=str(folder))


def look(corpora: list[Corpus]) -> tuple[list[object], ...]:
    """All that is said of a text."""
    reading = read_corpora(*corpora)
    parts = parted(screened_together(reading.documents, corpora), corpora, reading.copies)
    parts, overlap = marked(parts)
    shares = [(name, *map(list, o.fractions.values()), list(o.is_copy)) for name, o in overlap.items()]
    cells = [tuple(getattr(document, name) for name in FIELDS) for document in reading.documents]
    repeated = repeated_sentences(reading.documents)
    assert [(each.text, each.documents) for each in repeated[1]] == [
        ("This sentence stands in four of them.", 4)
    ]
    left_out = [reading.empty, reading.copied, reading.unreadable]
    return cells, left_out, list(document_rows(parts)), shares, [repeated]


def test_what_is_said_of_a_large_text_is_what_is_said_of_a_small_one(
    corpus: Corpus, request: pytest.FixtureRequest
) -> None:
    small = look([corpus])
    request.getfixturevalue("large")
    for turn in ("read", "read again from what was kept"):
        assert isinstance(read_corpora(corpus).documents[0], KeptDocument)
        for ours, told in zip(look([corpus]), small, strict=True):
            assert ours == told, turn


@pytest.mark.parametrize("unit", ["paragraph", "line"])
def test_a_large_text_file_is_cut_as_a_small_one(
    tmp_path: Path, unit: str, request: pytest.FixtureRequest
) -> None:
    text = "\ufeff\r\n One.\r\n\r\n\r\nTwo \x0b\x85 2.\r  \rThree.\u2028x\n" * 20 + "\n end \n\n"
    for name, data in (("a.txt", text.encode()), ("b.txt", text.encode()[3:] + b"more")):
        (tmp_path / name).write_bytes(data)
    corpus = Corpus(source=str(tmp_path / "*.txt"), documents=unit, keep_duplicates=True)
    small = [(d.id, d.text, d.whole_sha256) for d in read_corpora(corpus).documents]
    request.getfixturevalue("large")
    assert [(d.id, d.text, d.whole_sha256) for d in read_corpora(corpus).documents] == small
    assert small[0][2] == identity(text.removeprefix("\ufeff"))


def test_the_identity_of_lines_is_that_of_the_text() -> None:
    for text in (
        "",
        "\n\n",
        " a \n",
        "\n  a\n\n b\t\n",
        "e\u0301\n\u0301x",
        "a\r\nb\rc",
        "\x0c\na\x1c\nb\u2028",
    ):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert identity_of_lines(lines) == identity(text)
        assert identity_of_lines(f"{line}\n" for line in lines) == identity(text)


@pytest.mark.usefixtures("large")
def test_a_text_is_read_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "Text number {n} of many."}}\n' for n in range(40)))
    corpus = Corpus(source=str(path))
    read_corpora(corpus)
    texts = [document.text for document in read_corpora(corpus).documents]

    def forbidden(*args: object) -> Iterator[object]:
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr("ft_toolkit.text.corpus.raw_documents", forbidden)
        assert [document.text for document in read_corpora(corpus).documents] == texts
        assert read_corpora(corpus.model_copy(update={"license": "cc0-1.0"})).documents
        with pytest.raises(AssertionError, match="read again"):
            read_corpora(corpus.model_copy(update={"redact": True}))
    path.write_text(path.read_text() + '{"text": "One more."}\n')
    assert [document.text for document in read_corpora(corpus).documents] == [*texts, "One more."]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", ["cut", "bit", "no facts", "other facts", "no facts but a file"])
def test_a_damaged_file_is_made_anew(corpus: Corpus, cache: Path, damage: str) -> None:
    before = look([corpus])
    for path in [*cache.glob("*.arrow"), *cache.glob("*.npz")]:
        data, facts = path.read_bytes(), path.with_suffix(".json")
        if damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "bit":
            path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
        elif damage == "no facts":
            facts.unlink()
        elif damage == "other facts":
            facts.write_text(facts.read_text().replace("facts", "fact"))
        else:
            facts.write_bytes(b"\x00")
    assert look([corpus]) == before


@pytest.mark.usefixtures("large")
def test_what_is_kept_can_be_read_by_its_owner_alone(corpus: Corpus, cache: Path) -> None:
    look([corpus])
    files = [path for path in cache.iterdir() if path.is_file()]
    assert files
    if os.name == "posix":
        assert {path.stat().st_mode & 0o077 for path in files} == {0}


@pytest.mark.usefixtures("large")
def test_a_text_that_is_not_to_be_kept_is_gone_with_its_documents(corpus: Corpus, cache: Path) -> None:
    documents = read_corpora(corpus, keep_text=False).documents
    assert isinstance(documents[0], KeptDocument)
    assert not list(cache.glob("*.arrow"))
    del documents
    gc.collect()
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("large")
def test_a_document_in_a_file_cannot_be_changed(corpus: Corpus) -> None:
    (document, *_) = read_corpora(corpus).documents
    assert isinstance(document, KeptDocument)
    for name in ("source", "text", "near_group", "corpus"):
        with pytest.raises(AttributeError):
            setattr(document, name, "another")


@pytest.mark.usefixtures("large")
def test_a_text_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "Text number {n} of many."}}\n' for n in range(40)))
    whole = path.read_text()
    exact = kept.shelved

    def changed(*given: Any) -> list[Document]:
        found = exact(*given)
        path.write_text(whole + '{"text": "One more."}\n')
        return found

    with monkeypatch.context() as patched:
        patched.setattr("ft_toolkit.text.corpus.shelved", changed)
        read_corpora(Corpus(source=str(path)))
    assert not list(cache.glob("*.json"))


@pytest.mark.usefixtures("large")
def test_what_a_killed_process_left_is_removed_after_a_day(corpus: Corpus, cache: Path) -> None:
    (cache / "tmpkilled").mkdir(parents=True)
    (cache / "tmpkilled" / "documents.arrow").write_text("text")
    (cache / ".a.arrow.1.unfinished").write_text("text")
    read_corpora(corpus)
    assert (cache / "tmpkilled").exists()
    for path in (cache / "tmpkilled", cache / ".a.arrow.1.unfinished"):
        os.utime(path, (0, 0))
    kept.keep(next(cache.glob("*.arrow")), {})
    assert not (cache / "tmpkilled").exists() and not list(cache.glob(".*.unfinished"))


@pytest.mark.usefixtures("large")
def test_the_files_used_longest_ago_are_removed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f'{{"text": "{name} {n} {"x" * 50}"}}\n' for n in range(40)))
        read_corpora(Corpus(source=str(path)))
        for old in cache.glob("*"):
            os.utime(old, (old.stat().st_atime, old.stat().st_mtime - 100))
    first, *_ = sorted(cache.glob("*.arrow"), key=lambda path: path.stat().st_mtime)
    monkeypatch.setenv("FT_KEPT_GB", f"{2.5e-9 * first.stat().st_size:.12f}")
    read_corpora(Corpus(source=str(tmp_path / "b.jsonl")))
    kept.keep(sorted(cache.glob("*.arrow"))[0], {})
    assert not first.exists()
    assert len(list(cache.glob("*.arrow"))) == 2


@pytest.mark.usefixtures("large")
def test_without_a_place_to_keep_it_a_large_text_is_read_all_the_same(
    corpus: Corpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert isinstance(read_corpora(corpus).documents[0], KeptDocument)


@pytest.mark.usefixtures("large")
def test_a_full_disk_is_named_with_the_folder_and_the_cure(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ft_toolkit.artefacts.sync", full)
    with pytest.raises(FtError, match=r"room for a text .* No space left on device.* FT_CACHE"):
        read_corpora(corpus)


@pytest.mark.usefixtures("large")
def test_numbers_in_a_file_are_sorted_like_numbers_in_memory() -> None:
    draw = np.random.default_rng(1)
    arrays = [draw.integers(0, 2**63, size, dtype=np.uint64) for size in (0, 3, 1000, 1, 500)]
    numbers = scratch.Numbers()
    for array in arrays:
        numbers.add(array)
    assert numbers.sorted().tolist() == sorted(np.concatenate(arrays).tolist())
    assert scratch.Numbers().sorted().tolist() == []
    assert scratch.scratch((3, 1000), np.uint32).sum() == 0


def test_the_first_of_equal_texts_is_found_also_where_64_bits_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [TextDocument("a", n, text) for n, text in enumerate(["x", "y", "x ", "z", "y"])]
    assert first_of_equal(documents).tolist() == [0, 1, 0, 3, 1]
    monkeypatch.setattr("ft_toolkit.text.documents.first_bits", lambda some: np.full(len(list(some)), 7))
    assert first_of_equal(documents).tolist() == [0, 1, 0, 3, 1]
    assert first_of_equal([]).tolist() == []


def test_documents_in_a_file_are_equal_to_themselves_alone(large: None, corpus: Corpus) -> None:
    one, other, *_ = read_corpora(corpus).documents
    assert one == one and one != other and one != TextDocument(one.source, one.row, one.text)
    assert one.in_group("g").group == "g" and one.in_group("g") != one
    assert len({one, other, one}) == 2
    assert one.id in repr(one)
