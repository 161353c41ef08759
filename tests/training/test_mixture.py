"""A mixture's epoch holds each source's tokens in proportion to its weight."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ft_toolkit.sections import Training
from ft_toolkit.text.blocks import Row
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


def tokens_of(rows: list[Row]) -> Counter[str]:
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
