"""Corpora made to harm, or by mistake: one line that names the file, soon, and in little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from documents import MADE, tar_of, zip_of, zst
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft_toolkit.errors import LINE_CHARACTERS, FtError, Unreadable
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora, read_source
from ft_toolkit.text.packed import ALWAYS_UNPACKED_BYTES, UNPACKED_RATIO

MOST_SECONDS, MOST_BYTES = 5, 2**30
MEGABYTE = "a " * 2**19


def fault(source: Path | str, text: str = "text") -> str:
    """The one line that reading ends with."""
    started, before = time.monotonic(), peak_bytes()
    with pytest.raises(FtError) as refused:
        read_source(str(source), text)
    assert time.monotonic() - started < MOST_SECONDS
    assert peak_bytes() - before < MOST_BYTES
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) <= LINE_CHARACTERS
    assert refused.value.exit_code == 2
    return line


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gzip_of(megabytes: int) -> bytes:
    return gzip.compress(MEGABYTE.encode()) * megabytes  # a gzip file may have many members


def parquet_of(column: pyarrow.Array, compression: str = "zstd") -> bytes:
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), packed, compression=compression)
    return packed.getvalue()


def copies(text: str, rows: int) -> pyarrow.Array:
    """A text so many times, which Parquet writes once."""
    return pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "text": ("a.txt.gz", lambda: gzip_of(40)),
    "text of gigabytes": ("a.txt.gz", lambda: gzip_of(2048)),
    "rows of text": ("a.csv.gz", lambda: gzip.compress(b"text\n" + b"soup\n" * 10**7)),
    "packed twice": ("a.parquet.gz", lambda: gzip.compress(parquet_of(copies(MEGABYTE, 40), "none"))),
    "a page that is one text": ("a.parquet", lambda: parquet_of(pyarrow.array([MEGABYTE * 40]))),
    "one text in many rows": ("a.parquet", lambda: parquet_of(copies(MEGABYTE, 5_000))),
    "many rows of nothing": ("a.parquet", lambda: parquet_of(pyarrow.nulls(10**7, pyarrow.string()))),
    "many rows of a word": ("a.parquet", lambda: parquet_of(copies("soup", 10**6))),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unpacks_to_far_more_than_lies_on_the_disk_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    name, make = BOMBS[kind]
    (tmp_path / name).write_bytes(make())
    assert f"{name}: expected at most " in fault(tmp_path)


def test_a_small_file_may_repeat_itself_and_a_large_one_may_shrink_to_a_fiftieth(tmp_path: Path) -> None:
    repeated = b"a " * (ALWAYS_UNPACKED_BYTES // 2)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(repeated))
    assert read_source(str(tmp_path)).documents[0].text.encode() == repeated
    log = b"".join(b"%d: the soup boils, and the soup boils over\n" % n for n in range(450_000))
    packed = gzip.compress(log)
    assert len(packed) * 4 < len(log) < len(packed) * UNPACKED_RATIO
    (tmp_path / "a.txt.gz").write_bytes(packed)
    assert read_source(str(tmp_path)).documents[0].text.encode() == log


def test_a_list_of_ten_million_in_another_column_stays_packed(tmp_path: Path) -> None:
    items = pyarrow.ListArray.from_arrays([0, 10**7], copies("soup" * 1000, 10**7).indices)
    table = pyarrow.table({"text": ["Salt."], "items": items})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [document.text for document in read_source(str(tmp_path)).documents] == ["Salt."]
    assert "a.parquet, row 0: items: expected text, found list" in fault(tmp_path, "items")


# --- one file that is not what it seems --------------------------------------------------------------


@pytest.mark.parametrize("brackets", ["[" * 200_000, '{"text": ' * 200_000])
def test_brackets_nested_too_deep_are_named_by_their_line(tmp_path: Path, brackets: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{{"other": {brackets}\n')
    assert "a.jsonl, line 2: expected one JSON object, found brackets nested too deep" in fault(tmp_path)


def test_a_number_of_five_thousand_digits_is_a_text_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": {"9" * 5000}}}\n')
    assert read_source(str(tmp_path)).documents[0].text == "9" * 5000


@pytest.mark.parametrize(
    "template", ["{title!r}", "{title:>10000000}", "{title:{title}}", "{title!s:5}", "{title.__class__}"]
)
def test_a_template_names_columns_and_nothing_else(tmp_path: Path, template: str) -> None:
    (tmp_path / "a.csv").write_text("title\n5\n")
    assert fault(tmp_path, template).startswith("corpus.text: expected plain column names in braces, found ")


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path, name: str, separator: str) -> None:
    (tmp_path / name).write_text(separator.join(["id", "text", "text"]) + "\n" + separator * 2 + "\n")
    assert f"{name}: expected columns of different names, found text twice" in fault(tmp_path)


def test_a_parquet_file_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet: expected columns of different names, found text twice" in fault(tmp_path)


@pytest.mark.parametrize("name", ["A.TXT", "b.Md", "c.TXT.GZ", "d.JSONL", "e.CSV"])
def test_an_ending_counts_in_capitals_too(tmp_path: Path, name: str) -> None:
    data = b'{"text": "Salt."}\n' if "JSON" in name else b"text\nSalt.\n"
    (tmp_path / name).write_bytes(gzip.compress(data) if "GZ" in name else data)
    assert "Salt." in read_source(str(tmp_path)).documents[0].text
    assert "Salt." in read_source(str(tmp_path / name)).documents[0].text


# --- where text comes from ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "./x", "../x", "/etc", "~/x", "x", "csv", "buckets/a/b", "a//b", "a/.."]
)
def test_a_dataset_of_the_hub_is_named_by_owner_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "train.csv").write_text("text\nplanted\n")
    (tmp_path / "train.csv").write_text("text\nplanted\n")
    monkeypatch.chdir(tmp_path)
    assert f"corpus hf:{name}: expected hf:owner/name of the Hub, found " in fault(f"hf:{name}")


@pytest.mark.parametrize(
    "source", ["x" * 5000, "x" * 300, f"{'x' * 300}/*.txt", "a\0b", f"hf:a/{'x' * 5000}"]
)
def test_a_source_that_no_file_system_holds_is_named(source: str) -> None:
    assert "corpus" in fault(source)


@pytest.mark.parametrize("source", ["", "/*", "/**/*"])
def test_a_link_that_leaves_the_corpus_folder_is_not_followed(tmp_path: Path, source: str) -> None:
    corpus, secret = tmp_path / "corpus", tmp_path / "secret.txt"
    corpus.mkdir()
    secret.write_text("a private key")
    (corpus / "a.txt").write_text("Salt.")
    (corpus / "b.txt").symlink_to(secret)
    line = fault(f"{corpus}{source}")
    assert "b.txt: expected a file inside the corpus folder, found a link to " in line


def test_a_folder_that_a_glob_reaches_by_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.txt").write_text("a private key")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "notes").symlink_to(tmp_path / "private")
    assert "a.txt: expected a file inside the corpus folder" in fault(f"{tmp_path}/corpus/*/*.txt")


def test_a_link_inside_the_folder_and_one_that_is_named_itself_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Salt.")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "b.txt").write_text("Water.")
    (tmp_path / "corpus" / "c.txt").symlink_to("b.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "linked").symlink_to(tmp_path / "corpus")
    reading = read_source(str(tmp_path / "linked"))
    assert ([d.text for d in reading.documents], reading.copies) == (["Water."], 1)
    assert [d.text for d in read_source(str(tmp_path / "link.txt")).documents] == ["Salt."]


# --- made files: each is read, or named on one line --------------------------------------------------

WHOLE: dict[str, Callable[[], bytes]] = MADE | {
    ".txt": lambda: "Salt. 감기 🙂\r\nOil.\r".encode(),
    ".jsonl": lambda: b'{"text": "Salt."}\n{"text": "Oil.", "other": [1, {"a": null}]}\n',
    ".csv": lambda: 'text,other\n"Salt,\n""oil"".",1\n감기,2\n'.encode(),
    ".parquet": lambda: parquet_of(pyarrow.array(["Salt.", "감기", None])),
    ".zip": lambda: zip_of({"a.txt": b"Salt.", "b/c.jsonl": b'{"text": "Oil."}'}),
    ".tar": lambda: tar_of({"a.txt": b"Salt.", "b/c.html": b"<p>Oil."}),
    ".tgz": lambda: gzip.compress(tar_of({"a.txt": b"Salt."})),
    ".txt.gz": lambda: gzip.compress(b"Salt. " * 50),
    ".txt.bz2": lambda: bz2.compress(b"Salt. " * 50),
    ".txt.xz": lambda: lzma.compress(b"Salt. " * 50),
    ".txt.zst": lambda: zst(b"Salt. " * 50),
}
PIECES = (
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff\0\0",
    b"\r\r\n\n\r",
    b"\xed\xa0\x80",  # half a surrogate pair, as no UTF-8 may have it
    b"\\ud800",
    b"\xc0\xaf\xf8\x88",
    b"\xe2\x80\xa8\xc2\x85\x0c\x1c",
    b"[" * 5000,
    b'{"text": ' * 3000,
    b"\x1b]0;x\x07",
    b'"' * 3,
    b"<div>" * 3000,
    b"<!ENTITY a 'b'>&a;&#0;&#xD800;",
    b"a" * 100_000,
    b"../../etc/passwd",
    b"99999999999 0 obj << /Length 99999999 >> stream",
)


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's name and its bytes: random, or a whole document with pieces changed, cut or put in."""
    ending = draw(st.sampled_from(sorted(WHOLE)))
    data = bytearray(WHOLE_BYTES.setdefault(ending, WHOLE[ending]()))
    if draw(st.integers(0, 9)) == 0:
        data = bytearray(draw(st.binary(max_size=300)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[place:place] = draw(st.sampled_from(PIECES))
            case 1:
                del data[place:]
            case 2:
                del data[place : place + draw(st.integers(1, 40))]
            case 3 if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case _:
                data[place : place + 20] = draw(st.binary(max_size=20))
    return f"file{ending}", bytes(data)


WHOLE_BYTES: dict[str, bytes] = {}
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.sampled_from(["text", "other", "{text}!", "{text", "\0"]),
        "documents": st.sampled_from([None, "file", "paragraph", "line", "row"]),
        "encoding": st.sampled_from([None, "cp949", "utf-16", "cp1252", "utf-7"]),
        "redact": st.booleans(),
        "skip_unreadable": st.booleans(),
    },
)


def is_read_or_named(file: tuple[str, bytes], keys: dict[str, Any]) -> None:
    name, data = file
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        (Path(folder) / "other.txt").write_text("Flour.")
        try:
            reading = read_corpora(Corpus(source=folder, **keys))
        except FtError as error:
            line = str(error)
            assert "\n" not in line
            assert len(line) <= LINE_CHARACTERS
            assert not (keys.get("skip_unreadable") and isinstance(error, Unreadable))
        else:
            for document in reading.documents:
                document.text.encode()  # no half of a surrogate pair
                assert document.text.strip()
                assert "\0" not in document.text
                assert "\r" not in document.text
    assert time.process_time() - started < MOST_SECONDS


FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@FEW
@given(damaged_files(), KEYS)
def test_a_damaged_file_of_any_format_is_read_or_named(file: tuple[str, bytes], keys: dict[str, Any]) -> None:
    is_read_or_named(file, keys)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(damaged_files(), KEYS)
def test_five_thousand_damaged_files_are_read_or_named(file: tuple[str, bytes], keys: dict[str, Any]) -> None:
    is_read_or_named(file, keys)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("a.txt", b"%s"),
        ("a.jsonl", b'{"text": "%s"}'),
        ("a.csv", b'text\n"%s"\n'),
        ("a.html", b"<p>%s"),
        ("a.md", b"%s"),
    ],
)
def test_a_line_of_ten_megabytes_is_a_line_like_any_other(tmp_path: Path, name: str, frame: bytes) -> None:
    line = b"Salt and oil, 12 of each. " * 400_000
    (tmp_path / name).write_bytes(frame % line)
    started = time.process_time()
    (document,) = read_source(str(tmp_path)).documents
    assert time.process_time() - started < MOST_SECONDS
    assert document.text.strip() == line.decode().strip()
