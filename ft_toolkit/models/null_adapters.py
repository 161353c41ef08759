"""Random directions in place of what was trained: what an adapter of this size does by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ft_toolkit.errors import FtError
from ft_toolkit.models.model_pair import ModelPair


@contextmanager
def random_directions(pair: ModelPair, seed: int) -> Iterator[None]:
    """Inside, every update of the tuned model has another direction, drawn from the seed, and its own norm.

    LoRA    A and B are drawn anew, A of the trained norm, B of the one that gives B A the trained one's norm
    (IA)³   the distance of the factors from 1
    full    the distance of each matrix from the base's

    raises   FtError for methods that change more than these (DoRA's magnitudes, trained token rows), and for
             a model from scratch, which is no update of its base
    """
    drawn = torch.Generator().manual_seed(seed)
    model = pair.tuned.model
    with torch.no_grad():
        if isinstance(model, PeftModel):
            changes = _adapter_changes(model, drawn)
        else:
            changes = _whole_changes(pair, drawn)
        before = {parameter: parameter.clone() for parameter in changes}
        for parameter, value in changes.items():
            parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)


def _adapter_changes(model: PeftModel, drawn: torch.Generator) -> dict[nn.Parameter, Tensor]:
    active = str(model.active_adapter)
    found: dict[nn.Parameter, Tensor] = {}
    for name, module in model.named_modules():
        layer: Any = module
        if getattr(layer, "lora_magnitude_vector", None) or getattr(layer, "trainable_tokens_delta", None):
            raise _unfit(name)
        if active in getattr(layer, "lora_A", {}):
            a, b = layer.lora_A[active].weight, layer.lora_B[active].weight
            other_a, other_b = _like(a, drawn), _like(b, drawn)
            norm, other = _product_norm(b, a), _product_norm(other_b, other_a)
            found[a] = other_a
            found[b] = other_b * (norm / other if other > 0 else 0.0)
        if active in getattr(layer, "ia3_l", {}):
            factors = layer.ia3_l[active]
            found[factors] = 1 + _like(factors - 1, drawn)
    if not found:
        raise _unfit("its layers")
    return found


def _whole_changes(pair: ModelPair, drawn: torch.Generator) -> dict[nn.Parameter, Tensor]:
    base = dict(pair.base.model.named_parameters())
    tuned = dict(pair.tuned.model.named_parameters())
    if base.keys() != tuned.keys() or any(base[name].shape != tuned[name].shape for name in base):
        raise _unfit("its vocabulary")
    return {parameter: base[name] + _like(parameter - base[name], drawn) for name, parameter in tuned.items()}


def _like(trained: Tensor, drawn: torch.Generator) -> Tensor:
    """A random tensor of the same shape and Frobenius norm."""
    random: Tensor = torch.randn(trained.shape, generator=drawn).to(trained)
    return random.mul_(trained.norm() / random.norm())


def _product_norm(b: Tensor, a: Tensor) -> float:
    """Frobenius norm of B A, (out, rank) times (rank, in), without the product."""
    b, a = b.double(), a.double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())


def _unfit(where: str) -> FtError:
    wanted = "a LoRA or (IA)³ adapter, or full weights"
    return FtError("--null", wanted, f"another method ({where})", "Leave --null out.")
