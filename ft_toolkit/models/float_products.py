"""Matrix products in float32 through oneDNN, on AMD's processors.

torch multiplies float32 with MKL, which on AMD's processors leaves AVX-512 aside and is slower in AVX2 as
well. oneDNN, which torch brings along for other precisions, takes half to nine tenths of its time
(docs/log.md). On other processors nothing changes: nobody measured there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEWEST_PRODUCTS = 2**21  # of single numbers; below, its preparation takes longer than it saves
# oneDNN compiles a kernel for each shape, which takes a millisecond and half a megabyte: rows are filled up
# to a multiple of this, so that there are few shapes
ROWS_STEP = 64
PAGE_NUMBERS = 1024  # of float32, 4 KiB


@contextmanager
def products_through_onednn() -> Iterator[None]:
    """Inside, F.linear and torch.addmm, which all layers of matrices call, are computed by `product`."""
    if not onednn_is_faster():
        yield
        return
    with _Router():
        yield


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (n, in) @ matrix (in, out) + bias (out,), without gradients; (n, out)."""
    if _is_for_onednn(rows, matrix):
        return _onednn(rows, matrix.T, bias)
    return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)


def add_product(sums: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """sums (n, out) += rows (n, in) @ matrix (in, out), in place."""
    if _is_for_onednn(rows, matrix):
        return sums.add_(_onednn(rows, matrix.T, None))
    return sums.addmm_(rows, matrix)


class _Router(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and 2 <= len(args) <= 3 and not kwargs:
            x, weight, bias = args if len(args) == 3 else (*args, None)
            if weight.ndim == 2 and _is_for_onednn(x, weight.T):
                return _Routed.apply(x, weight.T, bias)  # type: ignore[no-untyped-call]  # torch types no autograd.Function
        if func is torch.addmm and len(args) == 3 and not kwargs:
            bias, x, matrix = args
            if bias.ndim == 1 and _is_for_onednn(x, matrix):
                return _Routed.apply(x, matrix, bias)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Routed(torch.autograd.Function):
    """x (…, in) @ matrix (in, out) + bias; only what is asked for has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, matrix)
        ctx.shape = x.shape
        return _onednn(x, matrix.T, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix = ctx.saved_tensors
        wants_x, wants_matrix, wants_bias = ctx.needs_input_grad
        of_y = outer[0].reshape(-1, outer[0].shape[-1])
        of_x = product(of_y, matrix.T).view(ctx.shape) if wants_x else None
        of_matrix = x.reshape(-1, x.shape[-1]).T @ of_y if wants_matrix else None
        return of_x, of_matrix, of_y.sum(0) if wants_bias else None


def _is_for_onednn(x: Tensor, matrix: Tensor) -> bool:
    is_plain = x.dtype == matrix.dtype == torch.float32 and x.device.type == matrix.device.type == "cpu"
    if x.ndim < 2 or not (is_plain and onednn_is_faster()) or torch.is_autocast_enabled("cpu"):
        return False
    has_few_shapes = x.shape[-1] % ROWS_STEP == 0 or x.shape[-1] < ROWS_STEP
    is_worth_it = has_few_shapes and x.numel() * matrix.shape[1] >= FEWEST_PRODUCTS
    return is_worth_it and not _is_far_apart(matrix)


def _is_far_apart(matrix: Tensor) -> bool:
    """Whether rows lie whole pages apart: with AVX2 all then fall into the same few places of the cache.

    oneDNN 3.12 sees that for powers of two alone, and copies those first.
    """
    apart = matrix.stride(0)
    return apart % PAGE_NUMBERS == 0 and apart & (apart - 1) != 0 and not _has_avx512()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, in) @ weight.T (in, out) + bias.

    torch has no public name for this one, which its own compiler calls.
    """
    rows = x.reshape(-1, x.shape[-1])
    count, missing = len(rows), -len(rows) % ROWS_STEP
    if missing and count > ROWS_STEP:
        rows = F.pad(rows, (0, 0, 0, missing))
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found[:count].view(*x.shape[:-1], found.shape[-1])


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def onednn_is_faster() -> bool:
    """By the processor's maker, not by a timing: the last digits of a score would hang on the day."""
    return bool(torch.backends.mkldnn.enabled) and _is_amd()  # torch's own switch for oneDNN


@cache
def _is_amd() -> bool:
    name = str(torch.cpu.get_capabilities().get("cpu_name", ""))
    return name.startswith("AMD") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
