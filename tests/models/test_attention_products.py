"""Attention as products is attention: exact in float64, and in bfloat16 as near to float32 as torch's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES, move_b
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ft_toolkit.models import attention_products as room
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.attention_products import Attention, additive, attention, attention_as_products
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.token_nll import SummedLoss, TokenScorer
from ft_toolkit.sections import Adapter
from ft_toolkit.text.blocks import collate, encode, mask
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.packing import pack

B, H, T, D = 3, 2, 5, 4
LOWEST = torch.finfo(torch.float32).min


def by_hand(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """One query at a time, over the keys that it sees."""
    rows = []
    for b in range(B):
        for h in range(H):
            for t in range(T):
                keys = [s for s in range(T) if bool(seen[b, t, s])]
                logits = torch.stack([scale * (q[b, h, t] * k[b, h, s]).sum() for s in keys])
                shares = logits.exp() / logits.exp().sum()
                rows.append(sum(share * v[b, h, s] for share, s in zip(shares, keys, strict=True)))
    return torch.stack([row for row in rows if isinstance(row, Tensor)]).view(B, H, T, D)


def sides() -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    first = [torch.randn(B, H, T, D, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    return first, [each.detach().clone().requires_grad_(True) for each in first]


@pytest.mark.parametrize("kind", ["none", "true and false", "numbers", "one for all rows"])
@pytest.mark.parametrize("cached", [1, 2 * H * T * T, 2**20])
def test_output_and_gradients_are_those_of_a_loop_over_queries(
    monkeypatch: pytest.MonkeyPatch, kind: str, cached: int
) -> None:
    monkeypatch.setattr(room, "CACHED_NUMBERS", cached)
    seen = torch.rand(B, T, T, generator=torch.Generator().manual_seed(1)) < 0.6
    seen |= torch.eye(T, dtype=torch.bool)
    if kind == "one for all rows":
        seen = seen[:1].expand(B, T, T)
    if kind == "none":
        seen = torch.ones(B, T, T, dtype=torch.bool)
    given = {
        "none": None,
        "true and false": seen[:, None],
        "numbers": torch.zeros(B, 1, T, T).masked_fill(~seen[:, None], LOWEST),
        "one for all rows": seen[:1, None],
    }[kind]
    ours, theirs = sides()
    found = Attention.apply(*ours, additive(given), 0.3)  # type: ignore[no-untyped-call]
    expected = by_hand(*theirs, seen, 0.3)
    outer = torch.randn(B, H, T, D, dtype=torch.float64)
    found.backward(outer)
    expected.backward(outer)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert torch.allclose(mine.grad, other.grad, rtol=0, atol=1e-12)


def test_a_row_that_sees_nothing_is_finite() -> None:
    nothing = torch.zeros(B, 1, T, T, dtype=torch.bool)
    ours, _ = sides()
    found = Attention.apply(*ours, additive(nothing), 1.0)  # type: ignore[no-untyped-call]
    found.sum().backward()
    assert found.isfinite().all() and all(
        each.grad is not None and each.grad.isfinite().all() for each in ours
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_trains_as_near_to_float32_as_with_torchs_own_attention(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    base = load_base(str(checkpoints[family]))
    model = attach_adapter(base, Adapter(rank=4), seed=0)
    move_b(model, std=0.05)
    documents = encode(read_source("package:everyday-medicine").documents[:6], base.tokenizer)
    objective = base.family.objective
    rows = list(pack(documents, objective, base.special.begin, base.special.end, 32))[:12]
    if objective == "masked":
        words = np.arange(base.config.vocab_size, dtype=np.int32)
        rows = [mask(row, 0, 0, base.special.mask or 0, words, 0.3) for row in rows]
    batch = collate(rows, objective, packed=base.family.packs)
    loss = SummedLoss(TokenScorer(model, base.family))

    def run(*, half: bool) -> tuple[float, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            nll, count = loss(batch.input_ids, batch.targets, batch.attention_mask, batch.position_ids)
        (nll / count).backward()
        gradients = [p.grad.flatten() for p in trainable(model).values() if p.grad is not None]
        return float(nll.detach()) / count, torch.cat(gradients)

    calls = []
    monkeypatch.setattr(room, "additive", lambda given: calls.append(1) or additive(given))
    exact_nats, exact = run(half=False)
    assert not calls  # float32 is left alone
    our_nats, ours = run(half=True)
    monkeypatch.setattr(room, "MOST_TOKENS", 0)
    their_nats, theirs = run(half=True)
    if family in ("gpt2", "bert", "llama", "roberta", "distilbert"):
        assert calls
        assert not torch.equal(ours, theirs)
    assert abs(our_nats - exact_nats) <= 2 * abs(their_nats - exact_nats) + 2e-3
    assert float((ours - exact).norm()) <= 1.5 * float((theirs - exact).norm())


def test_what_products_do_not_do_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    monkeypatch.setattr(
        room, "sdpa_attention_forward", lambda *given, **more: left.append(more) or (None, None)
    )
    module, short, long = nn.Module(), torch.randn(1, 2, 4, 8), torch.randn(1, 2, room.MOST_TOKENS + 1, 8)
    seen = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    module.is_causal = True  # type: ignore[assignment]
    attention(module, short, short, short, seen)
    assert not left
    attention(module, short, short, short, None)  # which tokens are later is torch's to know
    attention(module, short, short, short, seen, dropout=0.1)
    attention(module, short, short, short, seen, softcap=30.0)
    attention(module, long, long, long, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    attention(module, short, long, long, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert len(left) == 5


def test_keys_that_several_queries_share_are_repeated() -> None:
    module = nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    module.is_causal = False  # type: ignore[assignment]
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    found, _ = attention(module, query, key, value, None)
    expected = nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    )
    assert found.shape == (1, 6, 4, 8)
    assert math.isclose(0, float((found.float() - expected.transpose(1, 2)).abs().max()), abs_tol=0.02)


def test_the_librarys_attention_is_back_after_an_error() -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(KeyError, match="stop"),
        attention_as_products(),
    ):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
        raise KeyError("stop")
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
