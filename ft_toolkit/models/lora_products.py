"""LoRA's own products in training: the same mathematics as PEFT's forward, in fewer and faster passes.

    y = x W + b + s (x A^T) B^T

PEFT scales and adds whole outputs for the adapter's part; here it is added into the base's output in place,
and each gradient is the product of the shape that a matrix library is fast at (docs/log.md). W is frozen: it
has no gradient, and where training rounds to bfloat16 it is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ft_toolkit.models.float_products import add_product, product

Matrix = Callable[[torch.dtype], Tensor]  # precision → a frozen matrix, (in, out)


class RoundedOnce:
    """Frozen weights in the precision of autocast, each rounded at its first use.

    autocast itself rounds a weight without gradient again at every use.
    """

    def __init__(self) -> None:
        # by id; the weight is held, so its id stays its own
        self._rounded: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight as the next product reads it; one that is trained, or no autocast: itself."""
        device = weight.device.type
        if weight.requires_grad or not torch.is_autocast_enabled(device):
            return weight
        return self.to(weight, torch.get_autocast_dtype(device))

    def to(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A frozen weight in a precision."""
        if weight.dtype == dtype:
            return weight
        if id(weight) not in self._rounded:
            self._rounded[id(weight)] = weight, weight.detach().to(dtype)
        return self._rounded[id(weight)][1]


def plain_lora_layers(model: nn.Module) -> list[lora.Linear]:
    """The adapted matrices whose update is s B A alone: no DoRA, dropout, bias or second adapter."""
    return [module for module in model.modules() if type(module) is lora.Linear and _is_plain(module)]


def _is_plain(layer: Any) -> bool:
    names = layer.active_adapters
    if len(names) != 1 or names[0] not in layer.lora_A or layer.merged:
        return False
    name, base = names[0], layer.base_layer
    is_matrix = type(base) in (nn.Linear, Conv1D) and not base.weight.requires_grad
    is_bare = isinstance(layer.lora_dropout[name], nn.Identity) and layer.lora_B[name].bias is None
    return is_matrix and is_bare and name not in layer.lora_variant


@contextmanager
def fewer_passes(layers: Sequence[lora.Linear], rounded: RoundedOnce) -> Iterator[None]:
    """PEFT's layers compute as this room does, until the block ends."""

    def forward(layer: Any, x: Tensor) -> Tensor:
        if layer.disable_adapters:
            return type(layer).forward(layer, x)  # type: ignore[no-any-return]  # PEFT types modules so
        (name,) = layer.active_adapters
        base, a, b = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
        matrix = getattr(base, "kept", None) or partial(_matrix, base, rounded)
        return _Product.apply(x, matrix, base.bias, a * layer.scaling[name], b)  # type: ignore[no-any-return, no-untyped-call]  # torch types no autograd.Function

    method: Callable[..., Tensor] = forward
    for layer in layers:
        layer.forward = MethodType(method, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _matrix(base: Any, rounded: RoundedOnce, dtype: torch.dtype) -> Tensor:
    """A base's matrix as (in, out), which is how Conv1D holds it."""
    weight = rounded.to(base.weight, dtype)  # autocast is off where this is called
    return weight if isinstance(base, Conv1D) else weight.T


def product_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in: autocast's choice, else x's own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Product(torch.autograd.Function):
    """x W + bias + (x A^T) B^T for x (…, in), W (in, out) and bias frozen, A (rank, in), B (out, rank).

    W is given as a function of the precision that everything is computed in, called in both directions: it
    may be kept in fewer bits (kept_weights.py). The gradients of A and B are in their own precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Matrix, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            rows, low_a, b_rows = (
                x.reshape(-1, x.shape[-1]).to(dtype),
                a.to(dtype),
                b.T.to(dtype).contiguous(),
            )
            low = product(rows, low_a.T)  # (n, rank)
            y = product(rows, matrix(dtype), None if bias is None else bias.to(dtype))
            add_product(y, low, b_rows)
        ctx.save_for_backward(rows, low, low_a, b_rows)
        ctx.matrix, ctx.shape, ctx.dtypes = matrix, x.shape, (x.dtype, a.dtype, b.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, a, b_rows = ctx.saved_tensors
        of_x, of_a, of_b = ctx.dtypes
        with torch.autocast(rows.device.type, enabled=False):
            of_y = outer[0].reshape(-1, b_rows.shape[1]).to(rows.dtype)
            # (n, out) @ (out, rank) with the right side read by columns: the fast of the two layouts
            of_low = product(of_y, b_rows.T)
            of_b_rows = product(low.T, of_y)  # (rank, out)
            gradient_a = product(of_low.T, rows)
            gradient_x = None
            if ctx.needs_input_grad[0]:
                of_rows = product(of_y, ctx.matrix(rows.dtype).T)
                gradient_x = add_product(of_rows, of_low, a).view(ctx.shape).to(of_x)
        return gradient_x, None, None, gradient_a.to(of_a), of_b_rows.T.to(of_b)
