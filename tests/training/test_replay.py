"""Replay rows: the base's own predictions, as many as were asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from two_processes import bench, texts_of_unequal_length

from ft_toolkit.judging.protocols import SEED
from ft_toolkit.material import gathered
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.sampling import sample_ids
from ft_toolkit.sections import Recipe, Training
from ft_toolkit.text.blocks import NO_TARGET
from ft_toolkit.text.rows import Row
from ft_toolkit.training import replay
from ft_toolkit.training.replay import replay_rows

TinyRecipe = Callable[..., Recipe]


def tokens(rows: list[Row]) -> int:
    return sum(len(row.input_ids) for row in rows)


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt", "bert", "distilbert"])
def test_replay_is_the_share_of_the_tokens_that_was_asked_for_to_a_row(
    checkpoints: dict[str, Path], family: str
) -> None:
    ready = bench(checkpoints[family], texts_of_unequal_length())
    made = replay_rows(load_base(str(checkpoints[family])), ready.rows, 0.25, 32, 0, 0.15)
    off = tokens(made) - 0.25 * (tokens(made) + tokens(ready.rows))
    assert abs(off) <= 32
    assert {name for row in made for name in row.documents} <= {f"replay#{n}" for n in range(1000)}


def test_the_rows_of_a_causal_base_are_what_it_writes(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    with torch.no_grad():  # always the same word, whatever stands before
        bias = torch.full((base.config.vocab_size,), 0.0)
        bias[77] = 50.0
        base.model.lm_head.bias = torch.nn.Parameter(bias)
    rows = replay_rows(base, bench(checkpoints["gpt2"], texts_of_unequal_length()).rows, 0.2, 32, 0, 0.15)
    assert {int(target) for row in rows for target in row.targets} == {77}


def test_the_targets_of_a_masked_base_are_its_own_predictions(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["bert"]))
    with torch.no_grad():
        base.model.cls.predictions.bias[77] = 50.0
    rows = replay_rows(base, bench(checkpoints["bert"], texts_of_unequal_length()).rows, 0.3, 32, 0, 0.15)
    targets = np.concatenate([row.targets for row in rows])
    asked = targets != NO_TARGET
    assert set(targets[asked].tolist()) == {77}
    assert 0.08 < asked.mean() < 0.25  # of masked text, a share near the 15 % of training
    assert all(row.is_masked for row in rows)


def test_masked_replay_rows_keep_their_targets_in_every_epoch(checkpoints: dict[str, Path]) -> None:
    ready = bench(checkpoints["bert"], texts_of_unequal_length())
    ready.rows = replay_rows(load_base(str(checkpoints["bert"])), ready.rows, 0.3, 32, 0, 0.15)
    lines: list[dict[str, object]] = []
    ready.train(
        Training(epochs=2, block_tokens=32, batch_tokens=4096, learning_rate=0.01), record=lines.append
    )
    count = sum(int((row.targets != NO_TARGET).sum()) for row in ready.rows)
    assert [line["targets"] for line in lines] == [count, count]


def test_the_same_seed_gives_the_same_rows(checkpoints: dict[str, Path]) -> None:
    ready = bench(checkpoints["bert"], texts_of_unequal_length())
    first, second, other = (
        replay_rows(load_base(str(checkpoints["bert"])), ready.rows, 0.2, 32, seed, 0.15)
        for seed in (0, 0, 1)
    )
    assert [row.targets.tolist() for row in first] == [row.targets.tolist() for row in second]
    assert [row.targets.tolist() for row in first] != [row.targets.tolist() for row in other]


def test_no_row_is_text_that_the_drift_is_measured_on(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    rows = replay_rows(base, bench(checkpoints["gpt2"], texts_of_unequal_length()).rows, 0.3, 32, SEED, 0.15)
    written = {tuple(row.targets[row.targets != NO_TARGET][:6].tolist()) for row in rows}
    measured = {tuple(ids[:6].tolist()) for ids in sample_ids(base, 32, 32, SEED)}
    assert len(written) > 3
    assert not written & measured


@pytest.mark.parametrize(("given", "share"), [("5%", 0.05), (0.05, 0.05), ("0.5 %", 0.005)])
def test_a_share_is_written_in_per_cent_or_as_a_number(
    tiny_recipe: TinyRecipe, given: object, share: float
) -> None:
    assert tiny_recipe(training={"replay": given}).training.replay_share == pytest.approx(share)


@pytest.mark.parametrize("given", ["5", "100%", -0.1, "some"])
def test_a_share_that_is_none_is_refused(tiny_recipe: TinyRecipe, given: object) -> None:
    with pytest.raises(ValidationError):
        tiny_recipe(training={"replay": given})


def test_fresh_weights_have_nothing_to_forget(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(ValidationError, match="nothing to forget"):
        tiny_recipe(training={"replay": 0.1}, adapter={"method": "scratch"})


def test_by_default_a_causal_base_replays_and_a_masked_one_or_fresh_weights_do_not(
    tiny_recipe: TinyRecipe,
) -> None:
    device, shares = torch.device("cpu"), {}
    for family, method in (("gpt2", "lora"), ("gpt2", "full"), ("gpt2", "scratch"), ("bert", "lora")):
        it = gathered(tiny_recipe(family, training={"replay": "auto"}, adapter={"method": method}), device)
        tokens = [len(row.input_ids) for row in it.rows]
        replayed = sum(
            n for n, row in zip(tokens, it.rows, strict=True) if row.documents[0].startswith("replay")
        )
        shares[family, method] = replayed / sum(tokens)
        assert it.recipe.training.replay_share == pytest.approx(shares[family, method], abs=0.02)
    assert shares["gpt2", "lora"] == shares["gpt2", "full"] > 0.03
    assert shares["gpt2", "scratch"] == shares["bert", "lora"] == 0


def test_a_base_writes_only_so_much_and_more_replay_is_the_same_again(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ready = load_base(str(checkpoints["gpt2"])), bench(checkpoints["gpt2"], texts_of_unequal_length())
    monkeypatch.setattr(replay, "MOST_TOKENS", 64)
    made = replay_rows(base, ready.rows, 0.5, 32, 0, 0.15)
    tokens = sum(len(row.input_ids) for row in made)
    assert tokens == pytest.approx(sum(len(row.input_ids) for row in ready.rows), abs=32)
    assert tokens > 4 * 64
    assert len({row.input_ids.tobytes() for row in made}) < len(made) / 2
