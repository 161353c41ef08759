"""Attention in bfloat16 on a CPU as plain matrix products, in training.

torch's own kernel for the CPU multiplies bfloat16 at the speed of float32: with rows of 256 tokens it takes
three times as long (docs/log.md). The mathematics is that of transformers' "eager" attention under autocast:
products in bfloat16, the softmax in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

MOST_TOKENS = 512  # of a row: its (T, T) weights are held for the backward pass; torch's kernel holds none
CACHED_NUMBERS = 2**20  # of the softmax in float32 at once: they stay in the cache
# what a model may ask for besides; torch's kernel is given these cases
_OTHERS = ("position_bias", "cache", "softcap", "output_attentions", "s_aux")


@contextmanager
def attention_as_products() -> Iterator[None]:
    """Inside, models of transformers that ask for its "sdpa" attention get `attention`.

    Nothing happens outside of autocast to bfloat16 on a CPU.
    """
    if not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        yield
        return
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]  # the library's own stands behind it


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: query (B, H, T, D) to output (B, T, H, D); mask true or 0 where it is seen."""
    is_causal = more.get("is_causal")
    knows_order = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_plain = not more.get("dropout") and not any(more.get(name) is not None for name in _OTHERS)
    is_short = query.shape[2] == key.shape[2] <= MOST_TOKENS
    is_told = attention_mask is not None or not knows_order  # by the mask, what each query sees
    if not (is_plain and is_short and is_told and query.device.type == "cpu"):
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return found, None
    groups, scale = getattr(module, "num_key_value_groups", 1), more.get("scaling")
    rows = [each.to(torch.bfloat16) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups))]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        found = Attention.apply(*rows, additive(attention_mask), scale)  # type: ignore[no-untyped-call]  # torch types no autograd.Function
    return found.transpose(1, 2).contiguous(), None


def additive(mask: Tensor | None) -> Tensor | None:
    """0 where a mask is true; a mask of numbers as it is.

    The lowest number stands for -inf: the softmax of a row that sees nothing would be NaN.
    """
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)


class Attention(torch.autograd.Function):
    """softmax(scale q k^T + mask) v for q, k, v (B, H, T, D) and a mask that broadcasts to (B, H, T, T).

    The softmax is computed in float32 at least and held in q's precision.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        weights = q @ k.transpose(-1, -2)
        wide = torch.promote_types(q.dtype, torch.float32)
        at_once = max(1, CACHED_NUMBERS // weights[0].numel())
        every = torch.zeros(1, 1, 1, 1) if mask is None else mask
        masks = every.expand(len(weights), -1, -1, -1).split(at_once)
        for rows, seen in zip(weights.split(at_once), masks, strict=True):
            rows.copy_(rows.to(wide).mul_(scale).add_(seen).softmax(-1))
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return weights @ v

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        of_output = outer[0].to(q.dtype)
        of_weights = of_output @ v.transpose(-1, -2)
        # weights * (of_weights - sum(of_weights * weights)), in one pass
        of_products = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_q = (of_products @ k).mul_(ctx.scale)
        of_k = (of_products.transpose(-1, -2) @ q).mul_(ctx.scale)
        return of_q, of_k, weights.transpose(-1, -2) @ of_output, None, None
