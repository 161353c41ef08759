"""Pairs of sentences in the form of CrowS-Pairs: one more, one less stereotyping, otherwise alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft_toolkit.errors import FtError
from ft_toolkit.text.packed import unpacked_file
from ft_toolkit.text.readers import is_table, table_rows

COLUMNS = ("sent_more", "sent_less", "bias_type", "stereo_antistereo")
DIRECTIONS = ("stereo", "antistereo")


@dataclass(frozen=True)
class BiasPair:
    """Two sentences about two groups.

    more, less   the more and the less stereotyping sentence, whatever the direction
    kind         of bias, such as gender
    direction    stereo: `more` shows a stereotype of a disadvantaged group; antistereo: `less` breaks one
    """

    more: str
    less: str
    kind: str
    direction: str


def read_pairs(path: Path) -> list[BiasPair]:
    """Every row of a CSV file (or another table); further columns are ignored.

    raises   FtError for a file that is missing, empty, no table or lacks a column, and for an empty cell
    source   Nangia et al. 2020, CrowS-Pairs, arXiv:2010.00133
    """
    where, wanted = f"--bias {path}", f"a table with the columns {', '.join(COLUMNS)}"
    if not path.is_file():
        raise FtError(where, wanted, "no such file", "Give a CSV file in the form of CrowS-Pairs.")
    if not is_table(path):
        raise FtError(where, wanted, f"a {path.suffix or 'nameless'} file", "Save it as .csv.")
    found = []
    for number, row in enumerate(table_rows(unpacked_file(path, path.name)), start=1):
        missing = next((name for name in COLUMNS if name not in row), None)
        if missing is not None:
            raise FtError(where, wanted, f"no column {missing}", "Name the columns in the first line.")
        cells = [str(row[name] or "").strip() for name in COLUMNS]
        empty = next((name for name, cell in zip(COLUMNS, cells, strict=True) if not cell), None)
        if empty is not None:
            raise FtError(f"{where}, row {number}", "a value in every column", f"no {empty}", "Fill it in.")
        if cells[3] not in DIRECTIONS:
            raise FtError(
                f"{where}, row {number}", "stereo or antistereo", cells[3], "Fix stereo_antistereo."
            )
        found.append(BiasPair(*cells))
    if not found:
        raise FtError(where, wanted, "no row", "Give a file with at least one pair.")
    return found
