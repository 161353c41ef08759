"""One file to its text or its rows: bytes, UTF-8, and the formats of tables; no string of them is changed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_toolkit.errors import FtError

TEXT_ENDINGS = (".txt", ".md")
TABLE_ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")


def ending_of(path: Path) -> str:
    """Its file ending, .gz apart."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def decode(path: Path) -> str:
    """The text of a file.

    raises   FtError naming the first byte that is not UTF-8
    """
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if _is_cp949(data):
            fix = f"Convert it: iconv -f CP949 -t UTF-8 {path.name} > new.txt"
            raise FtError(path, "UTF-8", "CP949, the encoding of Korean Windows", fix) from None
        where, byte = f"{path}, byte {error.start}", f"0x{data[error.start]:02x}"
        raise FtError(where, "UTF-8", byte, "Convert the file, for example with iconv -t UTF-8.") from None


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table by its columns' names; cells of text formats are the exact strings."""
    ending = ending_of(path)
    if ending == ".parquet":
        yield from _parquet_rows(path)
    elif ending == ".jsonl":
        # split on line feeds only: a JSON string may hold U+2028, which splitlines would break at
        for number, line in enumerate(decode(path).split("\n"), start=1):
            if line.strip():
                yield _json_row(line, f"{path}, line {number}")
    else:
        csv.field_size_limit(sys.maxsize)
        reader = csv.DictReader(
            io.StringIO(decode(path), newline=""),
            delimiter="," if ending == ".csv" else "\t",
            strict=True,  # else a stray quote swallows lines, and "a" b loses its quotes
        )
        try:
            for columns in reader:
                if None in columns:
                    where = f"{path}, line {reader.line_num}"
                    raise FtError(where, f"{len(reader.fieldnames or ())} fields", "more", "Quote the field.")
                yield {key: "" if value is None else value for key, value in columns.items()}
        except csv.Error as error:
            raise FtError(f"{path}, line {reader.line_num}", "a table row", error, "Mend the row.") from None


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError, PermissionError) as error:
        raise FtError(path, "a readable file", error, "Check the file.") from None


def _is_cp949(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 are Korean text: every one decodes, and most letters are Hangul."""
    try:
        text = data.decode("cp949")
    except UnicodeDecodeError:
        return False
    beyond = [character for character in text if character > "\x7f"]
    hangul = sum("\uac00" <= character <= "\ud7a3" for character in beyond)
    return hangul > len(beyond) / 2


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)  # numbers as they stand
    except ValueError as error:
        raise FtError(where, "one JSON object", error, "Mend the line.") from None
    if not isinstance(row, dict):
        raise FtError(where, "one JSON object", type(row).__name__, "Write an object such as {'text': '…'}.")
    return row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(_bytes(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise FtError(path, "a Parquet file", str(error).splitlines()[0], "Check the file.") from None
    for batch in table.to_batches():
        yield from batch.to_pylist()
