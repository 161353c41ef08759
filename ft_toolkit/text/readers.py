"""Read one file as text or as rows: UTF-8 text and table formats; no string is changed.

A file that unpacks to far more than its size on disk is refused before it fills memory (docs/safety.md).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ft_toolkit.errors import FtError

TEXT_ENDINGS = (".txt", ".md")
TABLE_ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
UNPACKED_BYTES = 2**30  # upper limit for an unpacked file
UNPACKED_RATIO = 50  # and at most this many times its size on disk; prose reaches 5, log files 20
ALWAYS_UNPACKED_BYTES = (
    2**24
)  # a small file of one repeated sentence has a far higher ratio, and does no harm
ROW_BYTES = 64  # memory of an empty row


def ending_of(path: Path) -> str:
    """Its file ending in small letters, .gz apart."""
    return (path.with_suffix("") if _is_gzip(path) else path).suffix.lower()


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
            strict=True,  # otherwise a stray quote swallows lines, and "a" b loses its quotes
        )
        try:
            _refuse_twins(path, reader.fieldnames or ())
            for columns in reader:
                if None in columns:
                    where = f"{path}, line {reader.line_num}"
                    raise FtError(where, f"{len(reader.fieldnames or ())} fields", "more", "Quote the field.")
                yield {key: "" if value is None else value for key, value in columns.items()}
        except csv.Error as error:
            raise FtError(f"{path}, line {reader.line_num}", "a table row", error, "Fix the row.") from None


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if not _is_gzip(path):
            return data
        limit, unpacked = _limit(len(data)), 0
        with gzip.open(io.BytesIO(data)) as file:  # counted before it is kept
            while piece := file.read(2**20):
                unpacked += len(piece)
                if unpacked > limit:
                    raise _bomb(path, limit, "If it is a text that you trust, gunzip it.")
        return gzip.decompress(data)
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
        raise FtError(where, "one JSON object", error, "Fix the line.") from None
    except RecursionError:
        raise FtError(where, "one JSON object", "brackets nested too deep", "Fix the line.") from None
    if not isinstance(row, dict):
        raise FtError(where, "one JSON object", type(row).__name__, "Write an object such as {'text': '…'}.")
    return row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    data = _bytes(path)
    limit, unpacked = _limit(path.stat().st_size), 0
    too_large = _bomb(path, limit, "If you trust it, save it as .jsonl.")
    try:
        schema = pyarrow.parquet.read_schema(io.BytesIO(data))
        _refuse_twins(path, schema.names)
        # lists and structs hold no text: only their type is reported, they are not unpacked
        nested: dict[str, Any] = {field.name: [] for field in schema if pyarrow.types.is_nested(field.type)}
        texts = [field.name for field in schema if str(field.type) in ("string", "large_string")]
        # strings stay dictionary-encoded until they are counted: a million copies of a page take one page
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data), read_dictionary=texts)
        if _announced_bytes(file.metadata) > limit:
            raise too_large
        for batch in file.iter_batches(8192, columns=[name for name in schema.names if name not in nested]):
            unpacked += ROW_BYTES * batch.num_rows + sum(_text_bytes(column) for column in batch.columns)
            if unpacked > limit:
                raise too_large
            whole = [c.dictionary_decode() if hasattr(c, "dictionary") else c for c in batch.columns]
            for row in pyarrow.RecordBatch.from_arrays(whole, batch.schema.names).to_pylist():
                yield row | nested
    except (pyarrow.ArrowException, OSError) as error:
        raise FtError(path, "a Parquet file", str(error).splitlines()[0], "Check the file.") from None


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


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name: the first would be lost."""
    twin = next((name for name, count in Counter(names).items() if count > 1), None)
    if twin is not None:
        raise FtError(path, "columns of different names", f"{twin} twice", "Rename one.")


def _limit(packed_bytes: int) -> int:
    """The largest size that a file of so many bytes may have once it is unpacked."""
    return min(UNPACKED_BYTES, max(ALWAYS_UNPACKED_BYTES, UNPACKED_RATIO * packed_bytes))


def _bomb(path: Path, limit: int, fix: str) -> FtError:
    size = f"{limit / 2**20:,.0f} MiB"
    return FtError(path, f"at most {size} unpacked, {UNPACKED_RATIO} times its size", "more", fix)
