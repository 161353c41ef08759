"""Rows with columns to text: a column, or a template of several; and the column that rows are grouped by."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from ft_toolkit.errors import FtError


def template(text: str) -> Callable[[dict[str, Any], str], str]:
    """A column name, or a template whose {names} are columns, as a function of one row."""
    try:
        parsed = [field[1:] for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise FtError("corpus.text", "a template like {title}", text, f"Fix it: {error}.") from None
    fields = [name for name, _, _ in parsed if name is not None]
    # {title:>10000000} and {title!r} would produce text that is in no file
    if any(spec or conversion or not (name or "").isidentifier() for name, spec, conversion in parsed):
        raise FtError("corpus.text", "plain column names in braces", text, "Write {column}; {{ for a brace.")
    columns: Sequence[str] = fields or [text]

    def fill(row: dict[str, Any], where: str) -> str:
        values = {name: _cell(row, name, where) for name in columns}
        return text.format_map(values) if fields else values[text]

    return fill


def group_sha256(row: dict[str, Any], column: str | None, where: str) -> str | None:
    """A hash of what rows that belong together share, so that no name of a patient is in the run folder."""
    value = "" if column is None else _cell(row, column, where, "corpus.split.group").strip()
    return sha256(f"split.group {value}".encode()).hexdigest() if value else None


def _cell(row: dict[str, Any], column: str, where: str, key: str = "corpus.text") -> str:
    if column not in row:
        present = ", ".join(str(name) for name in row)
        raise FtError(f"{where}: {key}", f"column {column}", f"columns {present}", f"Set {key}.")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise FtError(f"{where}: {column}", "text", type(value).__name__, "Store the column as text.")
