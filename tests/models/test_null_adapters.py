"""Null adapters: the same size and norm as what was trained, another direction, and everything put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ft_toolkit.errors import FtError
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.null_adapters import random_directions
from ft_toolkit.sections import Adapter


def trained_pair(folder: Path, method: str) -> ModelPair:
    base = load_base(str(folder))
    model = attach_adapter(base, Adapter(method=method), seed=0)  # type: ignore[arg-type]
    drawn = torch.Generator().manual_seed(1)
    for parameter in trainable(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=drawn)
    return ModelPair(base, base.with_model(model))


def updates(pair: ModelPair) -> dict[str, Tensor]:
    """What the tuned model adds to each matrix of its base, or to each factor of 1."""
    found: dict[str, Tensor] = {}
    for name, module in pair.tuned.model.named_modules():
        layer: Any = module
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            found[name] = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        if hasattr(layer, "ia3_l") and "default" in layer.ia3_l:
            found[name] = layer.ia3_l["default"] - 1
    if not found:
        base = dict(pair.base.model.named_parameters())
        found = {name: p - base[name] for name, p in pair.tuned.model.named_parameters()}
    return {name: update.detach().clone() for name, update in found.items()}


@pytest.mark.parametrize("method", ["lora", "rslora", "ia3", "full"])
def test_every_update_keeps_its_norm_and_loses_its_direction(
    method: str, checkpoints: dict[str, Path]
) -> None:
    pair = trained_pair(checkpoints["gpt2"], method)
    before = updates(pair)
    with random_directions(pair, seed=0):
        inside = updates(pair)
    with random_directions(pair, seed=1):
        other = updates(pair)
    after = updates(pair)
    assert before.keys() == inside.keys() and len(before) >= 4
    cosines = []
    for name, update in before.items():
        assert torch.equal(update, after[name])  # bitwise
        assert inside[name].norm() == pytest.approx(update.norm().item(), rel=1e-4)
        assert not torch.equal(inside[name], other[name])
        if update.numel() >= 256:
            cosines.append(float((update * inside[name]).sum() / update.norm() ** 2))
    assert not cosines or max(map(abs, cosines)) < 0.5


def test_the_same_seed_draws_the_same_adapter(checkpoints: dict[str, Path]) -> None:
    pair = trained_pair(checkpoints["bert"], "lora")
    drawn = []
    for _ in range(2):
        with random_directions(pair, seed=3):
            drawn.append(updates(pair))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_what_was_trained_is_put_back_also_where_scoring_fails(checkpoints: dict[str, Path]) -> None:
    pair = trained_pair(checkpoints["gpt2"], "lora")
    before = updates(pair)
    with pytest.raises(RuntimeError, match="no memory"), random_directions(pair, seed=0):
        raise RuntimeError("no memory")
    assert all(torch.equal(update, before[name]) for name, update in updates(pair).items())


def test_an_adapter_that_changes_nothing_stays_one(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    pair = ModelPair(base, base.with_model(attach_adapter(base, Adapter(), seed=0)))
    with random_directions(pair, seed=0):
        assert all(not update.any() for update in updates(pair).values())


def test_a_method_with_more_than_directions_is_refused(checkpoints: dict[str, Path]) -> None:
    pair = trained_pair(checkpoints["gpt2"], "dora")
    with pytest.raises(FtError, match="a LoRA or"), random_directions(pair, seed=0):
        pass
