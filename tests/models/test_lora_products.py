"""Training's own LoRA products against PEFT's forward: the same mathematics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import move_b
from torch import Tensor, nn

from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.lora_products import RoundedOnce, fewer_passes, plain_lora_layers
from ft_toolkit.sections import Adapter


def adapted(folder: Path, **plan: object) -> nn.Module:
    """A base with an adapter that changes it."""
    base = load_base(str(folder))
    model = attach_adapter(base, Adapter.model_validate(plan), seed=1)
    move_b(model, std=0.1)
    return model


def loss_and_gradients(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Of PEFT's own forward: a smooth function of all logits, and its gradients."""
    ids = torch.randint(5, 95, (2, 12), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    loss = model(input_ids=ids).logits.double().tanh().square().mean()
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_loss_and_gradients_are_those_of_pefts_own_forward(
    checkpoints: dict[str, Path], name: str, method: str
) -> None:
    model = adapted(checkpoints[name], method=method).double()
    layers = plain_lora_layers(model)
    expected = loss_and_gradients(model)
    with fewer_passes(layers, RoundedOnce()):
        found = loss_and_gradients(model)
    assert len(layers) == len(expected) // 2  # every adapted matrix
    for key, value in expected.items():
        assert (found[key] - value).norm() <= 1e-12 * value.norm(), key


def test_the_layers_are_pefts_again_when_the_block_ends(checkpoints: dict[str, Path]) -> None:
    model = adapted(checkpoints["gpt2"])
    layers = plain_lora_layers(model)
    with pytest.raises(KeyboardInterrupt), fewer_passes(layers, RoundedOnce()):
        raise KeyboardInterrupt
    assert all("forward" not in vars(layer) for layer in layers)


def test_a_switched_off_adapter_is_off_here_too(checkpoints: dict[str, Path]) -> None:
    model = adapted(checkpoints["gpt2"])
    ids = torch.arange(12)[None] + 5
    with torch.no_grad(), model.disable_adapter():
        expected = model(input_ids=ids).logits
        with fewer_passes(plain_lora_layers(model), RoundedOnce()):
            assert torch.equal(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    "plan", [{"method": "dora"}, {"dropout": 0.1}, {"method": "ia3"}, {"method": "full"}]
)
def test_what_is_not_plain_is_left_to_peft(checkpoints: dict[str, Path], plan: dict[str, object]) -> None:
    assert plain_lora_layers(adapted(checkpoints["gpt2"], **plan)) == []


def test_in_bfloat16_gradients_are_no_further_from_float32_than_pefts(checkpoints: dict[str, Path]) -> None:
    model = adapted(checkpoints["bert"])
    layers, rounded = plain_lora_layers(model), RoundedOnce()
    errors = {"ours": 0.0, "peft": 0.0}
    for seed in range(6):  # which way a rounding falls is chance
        exact = loss_and_gradients(model, seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sides = {"peft": loss_and_gradients(model, seed)}
            with fewer_passes(layers, rounded):
                sides["ours"] = loss_and_gradients(model, seed)
        for side, found in sides.items():
            errors[side] += sum(float((found[key] - value).square().sum()) for key, value in exact.items())
    assert 0 < errors["ours"] < 2 * errors["peft"]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trainable(model).values())


def test_a_frozen_weight_is_rounded_once(checkpoints: dict[str, Path]) -> None:
    weight = plain_lora_layers(adapted(checkpoints["bert"]))[0].base_layer.weight
    rounded = RoundedOnce()
    assert rounded(weight) is weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounded(weight).dtype == torch.bfloat16
        assert rounded(weight) is rounded(weight)


def test_a_weight_that_is_trained_is_never_rounded_once() -> None:
    weight, rounded = nn.Parameter(torch.ones(2, 2)), RoundedOnce()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounded(weight) is weight
