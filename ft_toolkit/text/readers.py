"""Read one file as text or as rows: a reader is one function in one table.

No string of a plain text file or a table is changed.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import IO, Any

from ft_toolkit.errors import Unreadable
from ft_toolkit.text.documents import line_feeds
from ft_toolkit.text.encodings import decode
from ft_toolkit.text.html import html_text
from ft_toolkit.text.office import docx_text, epub_text, odt_text
from ft_toolkit.text.packed import ARCHIVE_ENDINGS, File, damaged, ending_of, named
from ft_toolkit.text.reader_process import read_apart

ROW_BYTES = 64  # memory of an empty row
_PIECE_BYTES = 2**20
Row = dict[str, Any]


def _plain_text(file: File, encoding: str | None) -> str:
    return decode(file.data, file.place, encoding)


def _jsonl_rows(file: File, encoding: str | None) -> Iterator[Row]:
    for number, line in enumerate(_lines(file, encoding), start=1):
        if line.strip():
            yield _json_row(line, f"{file.place}, line {number}")


def _lines(file: File, encoding: str | None) -> Iterator[str]:
    """Split on line feeds only: a JSON string may hold U+2028, which splitlines would break at."""
    if encoding is None:
        yield from _utf8(file, "\n")
    else:
        yield from decode(file.data, file.place, encoding).split("\n")


def _utf8(file: File, newline: str | None) -> IO[str]:
    """The lines of a file in UTF-8, decoded one after the other: a large file is never held as text.

    newline   as for open()
    raises    Unreadable at once, wherever in the file it is no UTF-8
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with file.stream() as stream:
            while piece := stream.read(_PIECE_BYTES):
                decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        decode(file.data, file.place)  # names the byte of the file, and the encoding that it looks like
    return io.TextIOWrapper(file.stream(), "utf-8-sig", newline=newline)


def _json_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)  # numbers as they stand
    except ValueError as error:
        raise Unreadable(where, "one JSON object", error, "Fix the line.") from None
    except RecursionError:
        raise Unreadable(where, "one JSON object", "brackets nested too deep", "Fix the line.") from None
    if not isinstance(row, dict):
        raise Unreadable(
            where, "one JSON object", type(row).__name__, "Write an object such as {'text': '…'}."
        )
    return row


def _csv_rows(file: File, encoding: str | None) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    is_utf8 = encoding is None
    reader = csv.DictReader(
        _utf8(file, "") if is_utf8 else io.StringIO(decode(file.data, file.place, encoding), newline=""),
        delimiter="," if ending_of(file.name) == ".csv" else "\t",
        strict=True,  # otherwise a stray quote swallows lines, and "a" b loses its quotes
    )
    try:
        _refuse_twins(file.place, reader.fieldnames or ())
        for columns in reader:
            if None in columns:
                where = f"{file.place}, line {reader.line_num}"
                raise Unreadable(where, f"{len(reader.fieldnames or ())} fields", "more", "Quote the field.")
            yield {key: "" if value is None else value for key, value in columns.items()}
    except csv.Error as error:
        where = f"{file.place}, line {reader.line_num}"
        raise Unreadable(where, "a table row", error, "Fix the row.") from None


def _parquet_rows(file: File, encoding: str | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    source, limit, unpacked = pyarrow.BufferReader(file.data), file.allowance.limit, 0
    too_large = file.allowance.exceeded
    try:
        schema = pyarrow.parquet.read_schema(source)
        _refuse_twins(file.place, schema.names)
        # lists and structs hold no text: only their type is reported, they are not unpacked
        nested: Row = {field.name: [] for field in schema if pyarrow.types.is_nested(field.type)}
        texts = [field.name for field in schema if str(field.type) in ("string", "large_string")]
        # strings stay dictionary-encoded until they are counted: a million copies of a page take one page
        parquet = pyarrow.parquet.ParquetFile(source, read_dictionary=texts)
        if _announced_bytes(parquet.metadata) > limit:
            raise too_large
        for batch in parquet.iter_batches(
            8192, columns=[name for name in schema.names if name not in nested]
        ):
            unpacked += ROW_BYTES * batch.num_rows + sum(_text_bytes(column) for column in batch.columns)
            if unpacked > limit:
                raise too_large
            whole = [c.dictionary_decode() if hasattr(c, "dictionary") else c for c in batch.columns]
            for row in pyarrow.RecordBatch.from_arrays(whole, batch.schema.names).to_pylist():
                yield row | nested
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is no UTF-8
        raise damaged(file.place, "a Parquet file", error) from None


def _announced_bytes(metadata: Any) -> int:
    """The size a Parquet file declares: its rows and its bytes before compression."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return metadata.num_rows * ROW_BYTES + sum(group.total_byte_size for group in groups)  # type: ignore[no-any-return]


def _text_bytes(column: Any) -> int:
    """How many bytes of text an Arrow array stands for, also where it names a text and does not repeat it."""
    import pyarrow.compute

    if not hasattr(column, "dictionary") or "string" not in str(column.type.value_type):
        return int(column.nbytes)
    lengths = pyarrow.compute.binary_length(column.dictionary)
    return int(pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0)


def _refuse_twins(place: str, names: Sequence[str]) -> None:
    """Refuse two columns of one name: the first would be lost."""
    twin = next((name for name, count in Counter(names).items() if count > 1), None)
    if twin is not None:
        raise Unreadable(place, "columns of different names", f"{twin} twice", "Rename one.")


def _notebook_text(file: File, encoding: str | None = None) -> str:
    """The sources of a notebook's cells, text and code; no outputs."""
    text = decode(file.data, file.place)
    with named(file.place, "a Jupyter notebook"):
        return "\n\n".join(_cells(json.loads(text)))


def _cells(notebook: Any) -> Iterator[str]:
    sheets = [notebook] if "cells" in notebook else notebook["worksheets"]  # before version 4
    for sheet in sheets:
        for cell in sheet["cells"]:
            source = cell["source"] if "source" in cell else cell["input"]
            text = source if isinstance(source, str) else "".join(source)
            if text.strip():
                yield text.strip("\n")


_TEXTS: dict[str, Callable[[File, str | None], str]] = {
    ".txt": _plain_text,
    ".md": _plain_text,
    ".rst": read_apart,
    ".html": html_text,
    ".htm": html_text,
    ".epub": epub_text,
    ".docx": docx_text,
    ".odt": odt_text,
    ".pdf": read_apart,
    ".ipynb": _notebook_text,
}
_TABLES: dict[str, Callable[[File, str | None], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
_PLAIN = tuple(ending for ending, read in _TEXTS.items() if read is _plain_text)
TEXT_ENDINGS, TABLE_ENDINGS = tuple(_TEXTS), tuple(_TABLES)
ENDINGS = (*TEXT_ENDINGS, *TABLE_ENDINGS, *ARCHIVE_ENDINGS)


def is_readable(name: str | PurePath) -> bool:
    """Whether a file of this name has a reader, also compressed; or is an archive."""
    return ending_of(name) in ENDINGS


def is_table(name: str | PurePath) -> bool:
    return ending_of(name) in TABLE_ENDINGS


def read_text(file: File, encoding: str | None = None) -> str:
    """A file as one text; of a plain text file exactly its characters.

    encoding   of text files and tables; None: UTF-8
    raises     Unreadable naming the file, and the byte where it is known
    """
    return _TEXTS[ending_of(file.name)](file, encoding)


def text_lines(file: File, encoding: str | None = None) -> Iterator[str]:
    """The lines of a text with their line feeds; those of plain text in UTF-8 are read one after the other.

    raises     as read_text
    """
    if ending_of(file.name) in _PLAIN and encoding is None:
        return iter(_utf8(file, None))
    return io.StringIO(line_feeds(read_text(file, encoding)))


def table_rows(file: File, encoding: str | None = None) -> Iterator[Row]:
    """The rows of a table by its columns' names; cells of text formats are the exact strings."""
    return _TABLES[ending_of(file.name)](file, encoding)
