"""Rows made one by one are those of a plain packer that lays out the whole text at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_toolkit.text.blocks import NO_TARGET, Encoded, token_keys
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Chosen, Joined, Row, outline_of

Frame = tuple[int | None, int | None]
PlainRow = dict[str, list[Any]]
SHORTEST = 16  # tokens of a masked piece, unless the document or the row has no more

exhaustive = settings(derandomize=True, deadline=None, max_examples=200)
sizes = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 90)), min_size=1, max_size=12)
frames = st.sampled_from([(None, None), (0, 0), (1, 2), (0, None), (None, 0)])
block_sizes = st.integers(8, 48)


def encoded(lengths: Sequence[int]) -> list[Encoded]:
    found, first = [], 100
    for number, size in enumerate(lengths):
        ids = np.arange(first, first + size, dtype=np.int32)
        document = TextDocument(f"{number}.txt", 0, f"document {number}")
        found.append(Encoded(document, ids, np.ones(size, np.bool_), np.arange(size, dtype=np.int32)))
        first += size
    return found


# --- the plain packer: lists, a token at a time ------------------------------------------------------


def row_of(cells: Sequence[tuple[int, int, int, Any, str]]) -> PlainRow:
    """Cells are (id, target, key, piece, document's name)."""
    positions: list[int] = []
    segments: list[int] = []
    for n, cell in enumerate(cells):
        is_new = n == 0 or cell[3] != cells[n - 1][3]
        positions.append(0 if is_new else positions[-1] + 1)
        segments.append(0 if n == 0 else segments[-1] + is_new)
    return {
        "input_ids": [cell[0] for cell in cells],
        "targets": [cell[1] for cell in cells],
        "token_keys": [cell[2] for cell in cells],
        "positions": positions,
        "segments": segments,
        "documents": list(dict.fromkeys(cell[4] for cell in cells)),
    }


def plain_causal(documents: Sequence[Encoded], frame: Frame, block: int) -> list[PlainRow]:
    cells = []
    for one in documents:
        stream = [*one.ids.tolist()]
        stream = [*([] if frame[0] is None else [frame[0]]), *stream]
        stream = [*stream, *([] if frame[1] is None else [frame[1]])]
        name = one.document.id
        cells += [(id_, target, 0, name, name) for id_, target in pairwise(stream)]
    return [row_of(cells[start : start + block]) for start in range(0, len(cells), block)]


def plain_masked(documents: Sequence[Encoded], frame: Frame, block: int) -> list[PlainRow]:
    rows: list[list[Any]] = [[]]
    specials = [value for value in frame if value is not None]
    for one in documents:
        queue = list(zip(one.ids.tolist(), token_keys(one).tolist(), strict=True))
        while queue:
            space = block - len(rows[-1]) - len(specials)
            if space < min(SHORTEST, len(queue), block - len(specials)):
                rows.append([])
                continue
            piece, queue = queue[:space], queue[space:]
            mark, name = len(queue), one.document.id  # what is left names the piece
            row = rows[-1]
            if frame[0] is not None:
                row.append((frame[0], NO_TARGET, 0, (name, mark), name))
            row.extend((id_, id_, key, (name, mark), name) for id_, key in piece)
            if frame[1] is not None:
                row.append((frame[1], NO_TARGET, 0, (name, mark), name))
    return [row_of(row) for row in rows if row]


def plain(
    documents: Sequence[Encoded], objective: str, frame: Frame, block: int, packed: bool
) -> list[PlainRow]:
    cut = plain_causal if objective == "causal" else plain_masked
    if packed:
        return cut(documents, frame, block)
    return sorted(
        (row for one in documents for row in cut([one], frame, block)), key=lambda row: len(row["input_ids"])
    )


def shown(row: Row) -> PlainRow:
    names = ("input_ids", "targets", "token_keys", "positions", "segments", "documents")
    return {name: [*np.asarray(getattr(row, name)).tolist()] for name in names}


# --- the promises -------------------------------------------------------------------------------------


@exhaustive
@given(sizes, block_sizes, frames, st.sampled_from(["causal", "masked"]), st.booleans())
def test_every_row_is_the_plain_packers(
    lengths: list[int], block: int, frame: Frame, objective: Any, packed: bool
) -> None:
    documents = encoded(lengths)
    rows = pack(documents, objective, *frame, block, packed=packed)
    expected = plain(documents, objective, frame, block, packed)
    assert [shown(row) for row in rows] == expected
    assert rows.outline.lengths.tolist() == [len(row["input_ids"]) for row in expected]
    assert {row.input_ids.dtype for row in rows} <= {np.dtype(np.int32)}
    assert {array.dtype.name for row in rows for array in (row.targets, row.positions, row.segments)} <= {
        "int32"
    }


def test_rows_are_found_by_any_place_in_any_order() -> None:
    rows = pack(encoded([70, 3, 40, 9]), "causal", 0, 0, 16)
    whole = [shown(row) for row in rows]
    assert shown(rows[-1]) == whole[-1] and shown(rows[np.int64(2)]) == whole[2]
    assert [shown(row) for row in rows[5:1:-2]] == whole[5:1:-2]
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_joined_and_chosen_rows_are_those_of_their_parts() -> None:
    first, second = (pack(encoded(lengths), "masked", 1, 2, 16) for lengths in ([30, 40], [20, 5, 9]))
    held = list(pack(encoded([17]), "masked", 1, 2, 16))
    joined = Joined([first, [], held, second])
    flat = [*first, *held, *second]
    assert [shown(row) for row in joined] == [shown(row) for row in flat]
    assert outline_of(joined).lengths.tolist() == outline_of(flat).lengths.tolist()
    places = np.array([4, 0, 0, len(flat) - 1])
    chosen = Chosen(joined, places, np.array([0, 0, 2, 0]))
    assert [row.input_ids.tolist() for row in chosen] == [flat[n].input_ids.tolist() for n in places]
    once, again = chosen[1], chosen[2]
    assert shown(once) == shown(flat[0])
    assert not (again.token_keys == once.token_keys).any()
