"""Texts with a label each, out of a table: what a probe tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft_toolkit import shipped
from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.references import parse_text
from ft_toolkit.text.packed import unpacked_file
from ft_toolkit.text.readers import Row, is_table, table_rows

COLUMNS = ("text", "label")


@dataclass(frozen=True)
class Labelled:
    """Texts that all differ, with a label each; `copies` counts the rows that only repeated one."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    copies: int


def read_labelled(source: str) -> Labelled:
    """Every row of a table with the columns text and label; further columns are ignored.

    source   a .csv, .tsv, .jsonl or .parquet file, or package:italian-cooking
    raises   FtError for a file that is missing, no table, not UTF-8 or lacks a column, for an empty cell, and
             for one text with two labels
    """
    where, wanted = f"--labels {source}", f"a table with the columns {' and '.join(COLUMNS)}"
    package = parse_text(source).package
    path = shipped.labelled(package) if package is not None else Path(source)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise FtError(where, wanted, found, "Give a .csv file.")
    if not is_table(path):
        raise FtError(where, wanted, f"a {path.suffix or 'nameless'} file", "Save it as .csv.")
    seen: dict[str, tuple[str, int]] = {}
    copies = 0
    for number, row in enumerate(_rows(path), start=1):
        text, label = (_cell(row, name, f"{where}, row {number}") for name in COLUMNS)
        earlier, place = seen.setdefault(text, (label, number))
        if earlier != label:
            found = f"{label!r}, and {earlier!r} in row {place}"
            raise FtError(f"{where}, row {number}", "one label a text", found, "Keep one of the rows.")
        copies += place != number
    if not seen:
        raise FtError(where, wanted, "no row", "Give a file with at least two labels.")
    return Labelled(tuple(seen), tuple(label for label, _ in seen.values()), copies)


def _rows(path: Path) -> list[Row]:
    try:
        return list(table_rows(unpacked_file(path, path.name)))
    except Unreadable as error:
        if error.expected != "UTF-8":
            raise
        # the reader's own cure is a key of the recipe
        raise Unreadable(error.where, error.expected, error.found, "Save the table as UTF-8.") from None


def _cell(row: Row, name: str, where: str) -> str:
    if name not in row:
        columns = ", ".join(map(repr, row)) or "none"
        raise FtError(where, f"a column {name!r}", f"the columns {columns}", "Name it in the first line.")
    cell = str("" if row[name] is None else row[name]).strip()
    if not cell:
        raise FtError(where, f"a {name}", "an empty cell", "Fill it in, or remove the row.")
    return cell
