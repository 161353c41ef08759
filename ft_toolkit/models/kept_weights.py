"""A frozen base kept in fewer bits while an adapter is trained on it; afterwards it is float32 again.

bfloat16   half the memory
4bit       an eighth, for the matrices of the layers: NF4 in blocks of 64 by bitsandbytes, on CUDA (Dettmers
           et al. 2023, arXiv:2305.14314); the embeddings in bfloat16

A matrix is widened for a product and again in its backward pass, so that no wide copy outlives either. The
products are those of any training: float32, or bfloat16 under autocast. Biases, norms and position embeddings
are small and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ft_toolkit.errors import FtError
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.lora_products import product_dtype
from ft_toolkit.runtime import give_back_memory
from ft_toolkit.sections import BasePrecision

_MATRICES = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class Kept:
    """A frozen matrix of a layer in fewer bits.

    parameter  holds them
    widen      from what the parameter holds to its shape, at some precision
    is_turned  (out, in), as nn.Linear has it; Conv1D has (in, out)
    """

    parameter: nn.Parameter
    widen: Callable[[Tensor], Tensor]
    is_turned: bool

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """(in, out), for one product."""
        wide = self.widen(self.parameter.detach()).to(dtype)
        return wide.T if self.is_turned else wide


@contextmanager
def kept_in(precision: BasePrecision, base: LanguageModel) -> Iterator[None]:
    """Until the block ends, a base and what is trained on top of it keep the base's frozen matrices so.

    At the end they are read from the checkpoint again, bitwise as before. A block that fails leaves the base
    without its float32 weights: its process has nothing left to compute.

    raises   FtError for 4bit without CUDA or without bitsandbytes, or a checkpoint that has changed meanwhile
    """
    if precision == "float32":
        yield
        return
    refuse_four_bits(precision, base.device.type)
    model = base.model
    embeddings: Any = model.get_input_embeddings()
    output: Any = model.get_submodule(base.family.output)
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if type(layer) in _MATRICES and layer is not output and not layer.weight.requires_grad
    ]
    narrow = {id(embeddings.weight), id(output.weight)}  # often one: they are tied
    for layer in layers:
        is_small = precision == "bfloat16" or id(layer.weight) in narrow
        layer.kept = _kept(layer, _bfloat16 if is_small else _nf4)
        layer.forward = MethodType(_forward, layer)
    _bfloat16(embeddings.weight)
    _bfloat16(output.weight)
    # the small ones may be pieces of the file in memory, and hold all of it
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32:
            parameter.data = parameter.data.clone()
    embeddings.forward = MethodType(_wide_rows, embeddings)
    try:
        yield
    finally:
        for changed in (*layers, embeddings):
            del changed.forward
        for layer in layers:
            del layer.kept
    _restore(base)


def refuse_four_bits(precision: BasePrecision, device: str) -> None:
    """raises   FtError where a base cannot be kept in 4 bits: another device than cuda, or no bitsandbytes"""
    where = "adapter.base_precision: 4bit"
    if precision == "4bit" and device != "cuda":
        fix = "Use bfloat16, which halves the base on any device."
        raise FtError(where, "a CUDA device", device, fix)
    if precision == "4bit" and find_spec("bitsandbytes") is None:
        fix = "Run pip install 'ft-toolkit[4bit]'."
        raise FtError(where, "the package bitsandbytes", "it is not installed", fix)


def _kept(layer: Any, narrow: Callable[[nn.Parameter], Callable[[Tensor], Tensor]]) -> Kept:
    return Kept(layer.weight, narrow(layer.weight), isinstance(layer, nn.Linear))


def _bfloat16(parameter: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Round a parameter in place; of tied ones each."""
    parameter.data = parameter.data.to(torch.bfloat16)
    return lambda held: held


def _nf4(parameter: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Quantise a parameter in place; returns the way back to its shape."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    parameter.data, state = quantize_4bit(parameter.data.contiguous(), quant_type="nf4")
    return lambda held: dequantize_4bit(held, state)


def _forward(layer: Any, x: Tensor) -> Tensor:
    return _Product.apply(x, layer.kept, layer.bias)  # type: ignore[no-any-return, no-untyped-call]  # torch types no autograd.Function


def _wide_rows(embeddings: Any, ids: Tensor) -> Tensor:
    """The rows of an embedding, as wide as the rest of the model computes."""
    found: Tensor = type(embeddings).forward(embeddings, ids)
    return found.float()


class _Product(torch.autograd.Function):
    """x W + bias, where both are frozen and W is kept in fewer bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Kept, bias: Tensor | None) -> Tensor:
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            rows, weight = x.reshape(-1, x.shape[-1]).to(dtype), matrix(dtype)
            y = rows @ weight if bias is None else torch.addmm(bias.to(dtype), rows, weight)
        ctx.matrix, ctx.dtype, ctx.shape, ctx.of_x = matrix, dtype, x.shape, x.dtype
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        with torch.autocast(outer[0].device.type, enabled=False):
            of_y = outer[0].reshape(-1, outer[0].shape[-1]).to(ctx.dtype)
            return (of_y @ ctx.matrix(ctx.dtype).T).view(ctx.shape).to(ctx.of_x), None, None


def _restore(base: LanguageModel) -> None:
    """The checkpoint's own values, into the parameters that every holder of the base has."""
    for parameter in base.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.new_empty(0)  # else both would be in memory at once
    give_back_memory()
    fresh = load_base(base.name, base.device)
    if fresh.weights_sha256 != base.weights_sha256:
        fix = "Put the checkpoint back, and repeat the command."
        raise FtError(f"base {base.name}", "the weights that training began with", "others", fix)
    values = dict(fresh.model.named_parameters(remove_duplicate=False))
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        value = values.get(name.replace("base_layer.", ""))
        if value is not None:  # the adapter's own have none
            parameter.data = value.data
