"""Products through oneDNN are the products of any other library, and only where they were measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import move_b
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ft_toolkit.models import float_products as room
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.float_products import add_product, product, products_through_onednn
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.sections import Adapter

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)
ROUNDING = 2e-6  # of the product of the norms; float32 rounds at 6e-8, a sum of 768 some twenty times that


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """On any processor, as on AMD's, also small products; the rows of each one that oneDNN computed."""
    monkeypatch.setattr(room, "_is_amd", lambda: True)
    monkeypatch.setattr(room, "FEWEST_PRODUCTS", 0)
    rows: list[int] = []
    compute = room._onednn

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows.append(x.numel() // x.shape[-1])
        return compute(x, weight, bias)

    monkeypatch.setattr(room, "_onednn", noted)
    yield rows


def far(found: Tensor, exact: Tensor, a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the norms whose product bounds a number of the result."""
    scale = a.double().norm(dim=-1).max() * b.double().norm(dim=0).max()
    return float((found.double() - exact).abs().max() / scale)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("is_turned", [False, True])
def test_products_are_those_of_float64(routed: list[int], rows: int, is_turned: bool) -> None:
    torch.manual_seed(0)
    x, bias, sums = torch.randn(rows, 128), torch.randn(192), torch.randn(rows, 192)
    matrix = torch.randn(192, 128).T if is_turned else torch.randn(128, 192)
    exact = x.double() @ matrix.double()
    assert far(product(x, matrix), exact, x, matrix) < ROUNDING
    assert far(product(x, matrix, bias), exact + bias.double(), x, matrix) < ROUNDING
    before = sums.double()
    assert add_product(sums, x, matrix) is sums
    assert far(sums, before + exact, x, matrix) < ROUNDING
    assert routed == [rows] * 3


@pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv1d"])
@pytest.mark.parametrize("shape", [(70, 64), (2, 40, 64)])
def test_a_layers_output_and_gradients_are_those_of_float64(
    routed: list[int], kind: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer: nn.Module = Conv1D(128, 64) if kind == "conv1d" else nn.Linear(64, 128, bias=kind == "linear")
    x = torch.randn(*shape, requires_grad=True)
    outer = torch.randn(*shape[:-1], 128)
    with products_through_onednn():
        found = layer(x)
    (found * outer).sum().backward()
    ours = [x.grad, *(p.grad for p in layer.parameters())]
    wide, exact_x = layer.double(), x.detach().double().requires_grad_(True)
    for parameter in wide.parameters():
        parameter.grad = None
    exact = wide(exact_x)
    (exact * outer).sum().backward()
    theirs = [exact_x.grad, *(p.grad for p in wide.parameters())]
    assert len(routed) >= 1
    assert found.shape == exact.shape and torch.allclose(found.double(), exact, rtol=0, atol=1e-4)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine is not None and other is not None
        assert mine.shape == other.shape and torch.allclose(mine.double(), other, rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_and_trains_the_same(
    checkpoints: dict[str, Path], routed: list[int], family: str
) -> None:
    base = load_base(str(checkpoints[family]))
    model = attach_adapter(base, Adapter(rank=4), seed=0)
    move_b(model, std=0.05)
    ids = torch.randint(5, base.config.vocab_size, (3, 30), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1).masked_fill(torch.arange(30) % 4 == 0, NO_TARGET)
    scorer = TokenScorer(model, base.family)
    loss = SummedLoss(scorer)

    def run() -> tuple[Tensor, float, Tensor]:
        model.zero_grad()
        nll, count = loss(ids, targets)
        (nll / count).backward()
        gradients = [p.grad.flatten() for p in trainable(model).values() if p.grad is not None]
        return scorer(ids, targets), float(nll.detach()) / count, torch.cat(gradients)

    with torch.backends.mkldnn.flags(enabled=False):  # torch's own switch
        their_nll, their_nats, theirs = run()
    assert not routed
    our_nll, our_nats, ours = run()
    assert len(routed) > 10
    assert torch.allclose(our_nll, their_nll, rtol=1e-6, atol=1e-5)
    assert abs(our_nats - their_nats) < 1e-6 * their_nats
    assert float((ours - theirs).norm()) < 1e-5 * float(theirs.norm())


def test_other_processors_and_precisions_and_small_products_are_left_to_torch(
    routed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, matrix = torch.randn(70, 64), torch.randn(64, 128)
    for kind in (torch.float64, torch.bfloat16):
        assert product(x.to(kind), matrix.to(kind)).dtype == kind
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, matrix).dtype == torch.bfloat16
    for inner in (65, 100):  # each count of rows would be a shape of its own in the gradient of a matrix
        product(torch.randn(70, inner), torch.randn(inner, 128))
    monkeypatch.setattr(room, "FEWEST_PRODUCTS", 70 * 64 * 128 + 1)
    product(x, matrix)
    monkeypatch.setattr(room, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(room, "_is_amd", lambda: False)
    product(x, matrix)
    with products_through_onednn():
        F.linear(x, matrix.T)
    assert not routed


def test_matrices_that_avx2_reads_slowly_are_left_to_torch(
    routed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(70, 64)
    for has_avx512 in (False, True):
        monkeypatch.setattr(room, "_has_avx512", lambda has_avx512=has_avx512: has_avx512)
        for matrix in (torch.randn(64, 3072), torch.randn(3072, 64).T, torch.randn(64, 2048)):
            product(x, matrix)
    assert len(routed) == 2 + 3


@pytest.mark.parametrize("strides", [(0, 0), (0, 1), (1, 0), (256, 2)])
def test_numbers_that_are_not_one_after_the_other_are_read_right(
    routed: list[int], strides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x, matrix = torch.randn(70, 64), torch.randn(64 * 256).as_strided((64, 128), strides)
    assert far(product(x, matrix), x.double() @ matrix.double(), x, matrix) < ROUNDING
    assert far(product(x.T, x[:, ::2]), x.T.double() @ x[:, ::2].double(), x.T, x[:, ::2]) < ROUNDING


def test_a_weight_of_one_row_without_a_second_dimension_is_left_to_torch(routed: list[int]) -> None:
    with products_through_onednn():
        assert F.linear(torch.ones(70, 64), torch.ones(64)).shape == (70,)
    assert not routed


def test_shapes_are_few_whatever_the_number_of_rows(
    routed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[tuple[int, ...]] = set()
    pad = F.pad

    def noted(rows: Tensor, sides: Any) -> Tensor:
        padded = pad(rows, sides)
        shapes.add(tuple(padded.shape))
        return padded

    monkeypatch.setattr(F, "pad", noted)
    for rows in range(65, 257):
        assert product(torch.ones(rows, 64), torch.ones(64, 64)).shape == (rows, 64)
    assert len(routed) == 192 and shapes == {(128, 64), (192, 64), (256, 64)}
