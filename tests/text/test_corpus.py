"""Sources to documents: nothing of a file's text is changed or lost, and a copy of a text counts once."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.sections import Corpus
from ft_toolkit.text.corpus import read_corpora, read_source
from ft_toolkit.text.documents import TextDocument, identity

# what a careless reader turns into a date, a missing value, 7 or 100000.0
AWKWARD = ["2024-01-01", "NA", "null", "007", "1e5", "", "True"]


def fault(action: Callable[[], object]) -> str:
    """The one line that the action fails with."""
    with pytest.raises(FtError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) <= 200
    return line


def texts(source: Path | str, text: str = "text", unit: str | None = None) -> list[str]:
    return [document.text for document in read_source(str(source), text, unit).documents]


def ids(source: Path | str, text: str = "text", unit: str | None = None) -> list[str]:
    return [document.id for document in read_source(str(source), text, unit).documents]


def table(ending: str, rows: list[dict[str, str]]) -> bytes:
    """Rows of strings in the format of a file ending."""
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ending == ".parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), delimiter="," if ending == ".csv" else "\t")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue().encode()


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_awkward_strings_survive_every_table_as_they_stand(tmp_path: Path, ending: str, gz: str) -> None:
    data = table(ending, [{"id": str(n), "text": text} for n, text in enumerate(AWKWARD)])
    path = tmp_path / f"rows{ending}{gz}"
    path.write_bytes(gzip.compress(data) if gz else data)
    reading = read_source(str(path))
    assert [document.text for document in reading.documents] == [text for text in AWKWARD if text]
    assert reading.empty_documents == 1
    # the empty row 5 is left out, yet counted: what follows keeps its number
    assert [document.row for document in reading.documents] == [0, 1, 2, 3, 4, 6]
    assert reading.documents[-1].id == f"rows{ending}{gz}#6"


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("ending", [".txt", ".md"])
def test_awkward_strings_survive_text_files(tmp_path: Path, ending: str, gz: str) -> None:
    for number, text in enumerate(AWKWARD):
        data = text.encode()
        (tmp_path / f"{number}{ending}{gz}").write_bytes(gzip.compress(data) if gz else data)
    reading = read_source(str(tmp_path))
    assert [document.text for document in reading.documents] == [text for text in AWKWARD if text]
    assert reading.empty_documents == 1


@pytest.mark.parametrize("number", ["7", "1e5", "1E5", "0.10", "-0", "12345678901234567890.0", "NaN"])
def test_a_json_number_is_the_text_that_stands_there(tmp_path: Path, number: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": {number}}}\n')
    assert texts(path) == [number]


def test_a_parquet_integer_is_its_digits(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [7, -12345]}), tmp_path / "rows.parquet")
    assert texts(tmp_path / "rows.parquet") == ["7", "-12345"]


@pytest.mark.parametrize(
    ("row", "kind"), [('{"text": true}', "bool"), ('{"text": ["a"]}', "list"), ('{"text": {}}', "dict")]
)
def test_a_column_that_is_no_text_is_refused_by_its_type(tmp_path: Path, row: str, kind: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "fine"}}\n{row}\n')
    line = fault(lambda: texts(tmp_path / "rows.jsonl"))
    assert f"found {kind}" in line
    assert "rows.jsonl, row 1: text" in line


def test_json_null_and_blank_text_are_empty_documents(tmp_path: Path) -> None:
    rows = ['{"text": null}', '{"text": " \\n\\t"}', '{"text": "a"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    reading = read_source(str(tmp_path / "rows.jsonl"))
    assert reading.empty_documents == 2
    assert reading.documents == [TextDocument("rows.jsonl", 2, "a")]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".txt", ".md"])
def test_a_byte_order_mark_is_removed(tmp_path: Path, ending: str) -> None:
    is_text = ending in (".txt", ".md")
    data = b"Ciao" if is_text else table(ending, [{"text": "Ciao"}])
    path = tmp_path / f"file{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + data)
    assert texts(path) == ["Ciao"]


@pytest.mark.parametrize("unit", ["file", "paragraph", "line"])
def test_windows_and_old_mac_line_ends_become_line_feeds(tmp_path: Path, unit: str) -> None:
    plain = "uno\ndue\n\ntre\n"
    for name, line_end in (("a.txt", "\n"), ("b.txt", "\r\n"), ("c.txt", "\r")):
        (tmp_path / name).write_bytes(plain.replace("\n", line_end).encode())
    expected = texts(tmp_path / "a.txt", unit=unit)
    assert texts(tmp_path / "b.txt", unit=unit) == expected
    assert texts(tmp_path / "c.txt", unit=unit) == expected


def test_crlf_inside_table_cells_becomes_a_line_feed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\r\n"uno\r\ndue"\r\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "uno\\r\\ndue"}\r\n')
    assert texts(tmp_path / "a.csv") == texts(tmp_path / "b.jsonl") == ["uno\ndue"]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", ["uno\ndue\n\n \ntre\n"]),
        ("paragraph", ["uno\ndue", "tre"]),
        ("line", ["uno\n", "due\n", "tre\n"]),
    ],
)
def test_a_document_is_a_file_a_paragraph_or_a_line(tmp_path: Path, unit: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text("uno\ndue\n\n \ntre\n")
    assert texts(tmp_path, unit=unit) == expected


def test_rows_of_lines_count_from_0_and_include_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("uno\n\n\ndue\n")
    reading = read_source(str(tmp_path), unit="line")
    assert [document.id for document in reading.documents] == ["deep/a.txt#0", "deep/a.txt#3"]
    assert reading.empty_documents == 2


def test_u2028_breaks_neither_a_json_row_nor_a_line(tmp_path: Path) -> None:
    text = "uno\u2028due\u2029tre\x0bquattro\x85cinque"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8")
    (tmp_path / "b.txt").write_text(text, "utf-8")
    assert texts(tmp_path / "a.jsonl") == [text]
    assert texts(tmp_path / "b.txt", unit="line") == [text]


def test_a_quoted_csv_cell_may_hold_line_feeds_commas_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"uno,\n\n""due"""\n2,tre\n')
    assert texts(tmp_path / "a.csv") == ['uno,\n\n"due"', "tre"]


def test_a_csv_row_with_too_many_fields_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,fine\n2,salt, pepper\n")
    line = fault(lambda: texts(tmp_path / "a.csv"))
    assert "a.csv, line 3" in line
    assert "2 fields" in line


@pytest.mark.parametrize("row", ['"Ciao" he said', '"never closed\nnext'])
def test_a_csv_quote_that_would_change_the_text_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{row}\n")
    assert "a.csv, line " in fault(lambda: texts(tmp_path / "a.csv"))


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_missing_column_names_those_present(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(table(ending, [{"question": "Why?", "answer": "Because."}]))
    line = fault(lambda: texts(path))
    assert "question, answer" in line
    assert "corpus.text" in line


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_template_joins_columns(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(table(ending, [{"question": "{Why}?", "answer": "1e5"}]))
    assert texts(path, "{question}\n{answer}") == ["{Why}?\n1e5"]  # braces in a cell are text
    assert texts(path, "{{{answer}}}") == ["{1e5}"]
    assert texts(path, "answer") == ["1e5"]


@pytest.mark.parametrize("template", ["{question", "{0}", "{a.b}", "{}"])
def test_a_template_of_anything_but_columns_is_refused(tmp_path: Path, template: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "Why?"}\n')
    assert fault(lambda: texts(tmp_path / "a.jsonl", template)).startswith("corpus.text: ")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_bad_utf_8_names_the_file_and_the_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text\ncrem\xe9 brulee\n")
    assert f"{name}, byte 9: expected UTF-8, found Windows-1252" in fault(lambda: texts(tmp_path / name))
    (tmp_path / name).write_bytes(b"text\nabc\x81 \xff\n")  # which no encoding has in a word
    line = fault(lambda: texts(tmp_path / name))
    assert f"{name}, byte 8" in line
    assert "0x81" in line


def test_a_nul_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "a\\u0000b"}\n')
    (tmp_path / "b.txt").write_bytes(b"\0\0\1")
    assert "a.jsonl, row 1: expected text, found a NUL" in fault(lambda: texts(tmp_path / "a.jsonl"))
    assert "b.txt, row 0: expected text, found a NUL" in fault(lambda: texts(tmp_path / "b.txt"))


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83c\\udf55"}\n{"text": "\\ud83c!"}\n')
    assert "row 1: expected text, found half a surrogate" in fault(lambda: texts(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83c\\udf55"}\n')
    assert texts(tmp_path / "a.jsonl") == ["🍕"]


@pytest.mark.parametrize(
    ("content", "found"), [('{"text": "a"}\n{"text": \n', "line 2"), ('"text"\n', "str"), ("[1]\n", "list")]
)
def test_a_line_that_is_no_json_object_names_itself(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    line = fault(lambda: texts(tmp_path / "a.jsonl"))
    assert "one JSON object" in line
    assert found in line


def damaged(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + b"\xff" * length + data[start + length :]


ZIPPED = gzip.compress(b"buon giorno " * 500, mtime=0)  # the same bytes at any time of day
PARQUET = table(".parquet", [{"text": f"buon giorno {n}"} for n in range(100)])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt.gz", b"not gzip at all"),
        ("a.txt.gz", ZIPPED[:-12]),
        ("a.txt.gz", damaged(ZIPPED, 12, 6)),
        ("a.txt.gz", damaged(ZIPPED, len(ZIPPED) - 8, 4)),
        ("a.parquet", b"not Parquet at all"),
        ("a.parquet", PARQUET[:60]),
        ("a.parquet", damaged(PARQUET, 4, 40)),
        ("a.parquet", damaged(PARQUET, len(PARQUET) - 60, 40)),
    ],
    ids=[f"{kind} {fault}" for kind in ("gzip", "parquet") for fault in ("alien", "cut", "begin", "end")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert f"{name}: expected " in fault(lambda: texts(tmp_path / name))


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a.txt", "README.md", "c/c/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    expected = ["README.md#0", "a/z.md#0", "a.txt#0", "b.txt#0", "c/c/c.txt#0"]
    assert ids(tmp_path) == expected  # a README is a document like any other
    assert ids(tmp_path) == ids(f"{tmp_path}/")


def test_hidden_files_and_foreign_endings_are_left_alone(tmp_path: Path) -> None:
    for name in (".hidden.txt", ".git/a.txt", "a/.b/c.txt", "photo.jpg", "data.json", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert ids(tmp_path) == ["a.txt#0"]


def test_a_link_back_into_a_folder_repeats_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert ids(tmp_path) == ["a.txt#0"]


def test_a_corpus_below_a_hidden_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "corpus"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("text")
    assert ids(folder) == ["a.txt#0"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["a.txt#0"]),
        ("*/note.md", ["x/note.md#0", "y/note.md#0"]),
        ("**/*.md", ["x/note.md#0", "y/note.md#0"]),
        ("[xz]/*", ["x/note.md#0"]),
        ("x/not?.md", ["note.md#0"]),  # the root is what stands before the first wildcard
    ],
)
def test_a_glob_reads_what_it_matches(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.txt", "x/note.md", "y/note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert ids(f"{tmp_path}/{pattern}") == expected


def test_a_relative_source_gives_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes" / "x").mkdir(parents=True)
    (tmp_path / "notes" / "x" / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    for source in ("notes", "./notes", "notes/*/a.txt", "notes/**/*.txt", str(tmp_path / "notes")):
        assert ids(source) == ["x/a.txt#0"]


def test_a_single_file_is_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("uno")
    (tmp_path / "b.txt").write_text("due")
    assert read_source(str(tmp_path / "a.txt")).documents == [TextDocument("a.txt", 0, "uno")]


def test_an_unsupported_ending_lists_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("text")
    line = fault(lambda: texts(tmp_path / "a.mp3"))
    assert "a.mp3" in line
    assert ".txt .md .rst .html" in line
    assert ".pdf .ipynb .jsonl .csv .tsv .parquet .zip" in line


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: None,
        lambda folder: (folder / "photo.jpg").write_text("text"),
        lambda folder: (folder / "blank.txt").write_text(" \n"),
    ],
    ids=["nothing", "no text file", "no text in it"],
)
def test_a_folder_without_text_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    assert f"{tmp_path.name}: expected " in fault(lambda: texts(tmp_path))


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.txt", "http://example.org/a.txt"])
def test_a_source_that_is_not_there_is_named(source: str) -> None:
    assert f"corpus {source}" in fault(lambda: texts(source))


@pytest.mark.parametrize(("name", "unit"), [("a.jsonl", "line"), ("a.csv", "file"), ("a.txt", "row")])
def test_rows_belong_to_tables_and_lines_to_text(tmp_path: Path, name: str, unit: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n')
    assert "corpus.documents" in fault(lambda: texts(tmp_path / name, unit=unit))


def test_a_packaged_corpus_is_read_by_its_name() -> None:
    reading = read_corpora(Corpus(source="package:italian-cooking"))
    assert len(reading.documents) >= 120
    assert reading.empty_documents == 0
    assert "carbonara" in " ".join(document.text.lower() for document in reading.documents)
    assert all("/" not in document.id and document.id.endswith(".md#0") for document in reading.documents)


def test_an_unknown_packaged_corpus_lists_those_there_are() -> None:
    line = fault(lambda: texts("package:cooking"))
    assert "everyday-medicine, general-probe, italian-cooking" in line


def test_a_dataset_of_the_hub_is_never_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)  # load_dataset would take it for the Hub's
    (tmp_path / "owner" / "name" / "train.jsonl").write_text('{"text": "planted"}\n')
    monkeypatch.chdir(tmp_path)
    assert "hf:owner/name: expected a dataset on the Hub" in fault(lambda: texts("hf:owner/name"))


def test_a_dataset_that_is_neither_cached_nor_reachable_is_named() -> None:
    assert "corpus hf:no-such/dataset: " in fault(lambda: texts("hf:no-such/dataset"))


KOREAN = [
    "감기에는 물을 많이 마시고 푹 쉰다. 열이 나면 해열제를 먹는다.\n",
    "\u1100\u1161\u11b7\u1100\u1175",  # 감기 in jamo, as macOS decomposes it
    "韓醫學에서는 感氣라고 한다 🙂👩\u200d⚕️ ㅋㅋㅋ 값이 싸다\n\n둘째 문단.",
]


def test_korean_text_comes_through_byte_for_byte(tmp_path: Path) -> None:
    for number, text in enumerate(KOREAN):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    (tmp_path / "rows").mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in KOREAN)
    (tmp_path / "rows" / "rows.jsonl").write_text(rows)
    (tmp_path / "rows" / "rows.csv").write_bytes(table(".csv", [{"text": text} for text in KOREAN]))
    for source in (tmp_path / "*.txt", tmp_path / "rows" / "rows.jsonl", tmp_path / "rows" / "rows.csv"):
        assert [text.encode() for text in texts(source)] == [text.encode() for text in KOREAN]


def test_text_in_parts_is_counted_and_never_put_together(tmp_path: Path) -> None:
    for number, text in enumerate([*KOREAN, "café", "cafe\u0301"]):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    reading = read_source(str(tmp_path))
    assert reading.not_nfc_documents == 1
    assert "\u1100\u1161\u11b7\u1100\u1175" in {document.text for document in reading.documents}


# --- copies and pieces ------------------------------------------------------------------------------

SAME = [
    "caf\u00e9\nnero\n",
    "caf\u00e9\nnero",
    "cafe\u0301\nnero",
    "\n caf\u00e9  \nnero \n\n",
    "caf\u00e9\r\nnero",
]


@pytest.mark.parametrize("text", SAME[1:])
def test_texts_that_differ_by_line_ends_outer_blanks_or_letters_in_parts_are_one_text(text: str) -> None:
    assert identity(text) == identity(SAME[0])


@pytest.mark.parametrize(
    "text", ["caf\u00e9 nero", "cafe\nnero", "Caf\u00e9\nnero", "caf\u00e9\n\nnero", "caf\u00e9\n nero"]
)
def test_texts_that_differ_otherwise_are_two(text: str) -> None:
    assert identity(text) != identity(SAME[0])


def test_the_first_of_several_copies_is_read_as_it_stands_and_the_others_are_counted(tmp_path: Path) -> None:
    for number, text in enumerate([*SAME, "another"]):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    reading = read_source(str(tmp_path))
    assert [document.text for document in reading.documents] == [SAME[0], "another"]
    assert (reading.copies, reading.empty_documents) == (4, 0)


def test_what_a_model_reads_is_hashed_apart_from_what_a_text_is() -> None:
    one, other = TextDocument("a.txt", 0, "text\n"), TextDocument("b.txt", 0, "text")
    assert one.sha256 == other.sha256
    assert one.text_sha256 != other.text_sha256


def test_pieces_of_a_file_are_one_group_and_rows_and_files_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("uno\n\ndue\n")
    (tmp_path / "b.txt").write_text("tre\n\nquattro\n")
    (tmp_path / "c.jsonl").write_text('{"text": "cinque"}\n{"text": "sei"}\n')
    by_file = {d.text: d.group for d in read_source(str(tmp_path)).documents}
    assert len(set(by_file.values())) == 4  # two files, two rows
    groups = {d.text: d.group for d in read_source(str(tmp_path / "*.txt"), unit="paragraph").documents}
    assert groups["uno"] == groups["due"] != groups["tre"] == groups["quattro"]


def test_a_group_is_known_by_what_its_file_says_and_not_by_where_it_is(tmp_path: Path) -> None:
    for name in ("here/a.txt", "there/b.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("uno\n\ndue\n" if name[0] == "h" else "uno\r\n\r\ndue")
    here, there = (read_source(str(tmp_path / place), unit="line").documents for place in ("here", "there"))
    assert {d.group for d in here} == {d.group for d in there}


def test_a_paragraph_that_several_files_have_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("shared\n\nuno\n")
    (tmp_path / "b.txt").write_text("due\n\nshared\n")
    reading = read_source(str(tmp_path), unit="paragraph")
    assert [document.id for document in reading.documents] == ["a.txt#0", "a.txt#1", "b.txt#0"]
    assert reading.copies == 1
