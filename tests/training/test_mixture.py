"""A mixture's epoch holds each source's tokens in proportion to its weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ft_toolkit.sections import Training
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.draws import scrambled
from ft_toolkit.text.packing import Layout, pack, packed_rows
from ft_toolkit.text.rows import Joined, Row, Source
from ft_toolkit.training.mixture import epoch_rows, shares
from ft_toolkit.training.schedule import batches, endless, planned_steps

LENGTHS = {"small": [32] * 7 + [5], "large": [32] * 200 + [11], "": [17]}
WEIGHTS = {"small": 3.0, "large": 1.0, "": None}
TOKENS = 7 * 32 + 5 + 200 * 32 + 11  # of the weighted sources
EPOCHS = 12


def row(corpus: str, number: int, length: int) -> Row:
    nothing = np.zeros(length, np.int32)
    keys = np.arange(length, dtype=np.uint64) + np.uint64(1000 * number)
    name = (f"{corpus}{number}",)
    return Row(nothing, nothing, nothing, nothing, keys, name, corpus=corpus, weight=WEIGHTS[corpus])


ROWS = [row(name, n, length) for name, lengths in LENGTHS.items() for n, length in enumerate(lengths)]


def tokens_of(rows: Sequence[Row]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in rows:
        counts[each.corpus] += len(each.input_ids)
    return counts


def test_every_epoch_shares_its_tokens_by_weight_to_one_row() -> None:
    for epoch in range(EPOCHS):
        found = tokens_of(epoch_rows(ROWS, 0, epoch))
        assert abs(found["small"] - TOKENS * 3 / 4) <= 32
        assert abs(found["large"] - TOKENS / 4) <= 32
        assert found[""] == 17  # no weight: once an epoch


@pytest.mark.parametrize("packed", [True, False])
def test_the_steps_of_an_epoch_hold_just_its_rows(packed: bool) -> None:
    plan = Training(block_tokens=32, batch_tokens=128, epochs=3)
    for epoch in range(3):
        taken = [each for batch in batches(ROWS, plan, packed, epoch) for each in batch]
        assert tokens_of(taken) == tokens_of(epoch_rows(ROWS, plan.seed, epoch))
    steps = planned_steps(ROWS, plan, packed)
    epochs = [epoch for _, (epoch, _) in zip(range(steps + 1), endless(ROWS, plan, packed), strict=False)]
    assert epochs[-2:] == [2, 3]  # the last step planned is the last of the third epoch


def test_over_a_training_every_row_of_a_source_is_read_equally_often() -> None:
    read = Counter(each.documents[0] for epoch in range(EPOCHS) for each in epoch_rows(ROWS, 0, epoch))
    for name in ("small", "large"):
        times = [read[f"{name}{number}"] for number in range(len(LENGTHS[name]))]
        assert max(times) - min(times) <= 1
    small, large = shares(ROWS)
    assert (small.tokens, large.tokens) == (229, 6411)
    assert small.passes == pytest.approx(TOKENS * 0.75 / 229)


def test_a_row_that_is_read_again_in_an_epoch_gets_other_masks() -> None:
    again = [each for each in epoch_rows(ROWS, 0, 0) if each.documents == ("small0",)]
    assert len(again) > 10
    assert len({each.token_keys.tobytes() for each in again}) == len(again)


def test_another_seed_draws_another_order_and_the_same_seed_the_same() -> None:
    names = [[each.documents for each in epoch_rows(ROWS, seed, 1)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


# --- rows that are made when asked for are those of a plain schedule over a list -----------------------


def plain_epoch(rows: Sequence[Row], seed: int, epoch: int) -> list[Row]:
    """Every row of the epoch in a list, drawn one by one."""
    weights = {row.corpus: row.weight for row in rows if row.weight is not None}
    tokens = {name: sum(len(row.input_ids) for row in rows if row.corpus == name) for name in weights}
    found = [row for row in rows if row.weight is None]
    for number, (name, weight) in enumerate(weights.items()):
        own = [row for row in rows if row.corpus == name]
        share = sum(tokens.values()) / sum(weights.values()) * weight
        begin, end, times = share * epoch, share * (epoch + 1), Counter[int]()
        for turn in range(int(begin // tokens[name]), int(end // tokens[name]) + 1):
            order = np.random.default_rng([seed, number, turn]).permutation(len(own)).tolist()
            behind = [0]
            for place in order:
                behind.append(behind[-1] + len(own[place].input_ids))
            first, last = (
                min(range(len(behind)), key=lambda n, e=edge: abs(behind[n] - (e - turn * tokens[name])))
                for edge in (begin, end)
            )
            for place in order[first:last]:
                keys = own[place].token_keys
                if times[place]:
                    keys = scrambled(keys, times[place])
                found.append(replace(own[place], token_keys=keys))
                times[place] += 1
    return found


def plain_batches(rows: Sequence[Row], plan: Training, packed: bool, epoch: int) -> list[list[Row]]:
    rows = plain_epoch(rows, plan.seed, epoch)
    draw = np.random.default_rng([plan.seed, epoch])
    order = draw.permutation(len(rows)).tolist()
    if packed:
        steps = math.ceil(len(rows) / (plan.batch_tokens // (plan.block_tokens or 1)))
        sizes = [len(rows) // steps + (n < len(rows) % steps) for n in range(steps)]
        return [[rows[order.pop(0)] for _ in range(size)] for size in sizes]
    order.sort(key=lambda place: len(rows[place].input_ids))
    total = sum(len(row.input_ids) for row in rows)
    steps, read, found = math.ceil(total / plan.batch_tokens), 0, dict[int, list[Row]]()
    for place in order:
        size = len(rows[place].input_ids)
        found.setdefault(int((read + size / 2) * steps // total), []).append(rows[place])
        read += size
    groups = list(found.values())
    return [groups[n] for n in draw.permutation(len(groups))]


def lazy_rows(objective: str, packed: bool, weighted: bool) -> Joined:
    """Two sources, a text of no source, and rows that were made before, as those of replay."""
    draw = np.random.default_rng(3)
    documents = [
        Encoded(TextDocument(f"{n}", 0, f"{n}"), ids, np.ones(len(ids), bool), np.arange(len(ids)))
        for n, size in enumerate(draw.integers(1, 60, 40))
        for ids in [draw.integers(9, 999, size).astype(np.int32)]
    ]
    layout = Layout(objective, 1, 2, 32, packed)  # type: ignore[arg-type]
    tokens = pack(documents, "causal", 1, 2, 32).tokens
    weights = (3.0, 0.5, None) if weighted else (None, None, None)
    parts: list[Sequence[Row]] = [
        packed_rows(tokens, layout, np.arange(n, 40, 3), Source(name, weight))
        for n, (name, weight) in enumerate(zip(("a", "b", ""), weights, strict=True))
    ]
    return Joined([*parts, list(parts[0])[:4] if not weighted else []])


def shown(row: Row) -> list[object]:
    arrays = (row.input_ids, row.targets, row.positions, row.segments, row.token_keys)
    return [*(array.tolist() for array in arrays), list(row.documents), row.corpus, row.weight]


@pytest.mark.parametrize("objective", ["causal", "masked"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_steps_of_rows_that_are_made_on_demand_are_those_of_a_list(
    objective: str, packed: bool, weighted: bool
) -> None:
    plan = Training(block_tokens=32, batch_tokens=160, epochs=3, seed=5)
    lazy = lazy_rows(objective, packed, weighted)
    expected = [
        (epoch, [shown(row) for row in batch])
        for epoch in range(3)
        for batch in plain_batches(list(lazy), plan, packed, epoch)
    ]
    assert planned_steps(lazy, plan, packed) == planned_steps(list(lazy), plan, packed) == len(expected)
    for done in (0, 7, len(expected) - 1):  # also of a training that is resumed
        taken = endless(lazy, plan, packed, done)
        found = [
            (epoch, [shown(row) for row in batch])
            for _, (epoch, batch) in zip(expected[done:], taken, strict=False)
        ]
        assert found == expected[done:]
