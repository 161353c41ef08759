"""The lean loss against the plain one: the same numbers and gradients, without the logits of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FAMILY_NAMES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.modeling_outputs import BaseModelOutput

from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import CHUNK_WORDS, NO_TARGET, SummedLoss, TokenScorer, fuse_activations
from ft_toolkit.sections import Adapter

LEAN_TOLERANCE = 1e-5


def batch_of(rows: int, width: int, share: float = 0.7) -> tuple[Tensor, Tensor]:
    """Rows of ids, and targets at a share of the positions."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, 8192, (rows, width), generator=generator)
    targets = torch.randint(5, 8192, (rows, width), generator=generator)
    asked = torch.rand(rows, width, generator=generator) < share
    return ids, targets.where(asked, torch.tensor(NO_TARGET))


def plain_losses(base: LanguageModel, model: torch.nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """The textbook way: every logit of the batch, then cross-entropy at the targets."""
    logits = model(input_ids=ids).logits.float()
    asked = targets != NO_TARGET
    return F.cross_entropy(logits[asked], targets[asked], reduction="none")


@pytest.fixture
def adapted(checkpoints: dict[str, Path]) -> Callable[[str], tuple[LanguageModel, torch.nn.Module]]:
    """A base with an adapter whose B is no longer zero, so that A has a gradient too."""

    def make(name: str) -> tuple[LanguageModel, torch.nn.Module]:
        base = load_base(str(checkpoints[name]))
        model = attach_adapter(base, Adapter(), seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for key, parameter in trainable(model).items():
                if "lora_B" in key:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return base, model

    return make


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_lean_loss_is_the_cross_entropy_of_the_full_logits(
    adapted: Callable[[str], tuple[LanguageModel, torch.nn.Module]], name: str
) -> None:
    base, model = adapted(name)
    ids, targets = batch_of(18, 50)
    with torch.no_grad():
        lean = TokenScorer(model, base.family)(ids, targets)
        plain = plain_losses(base, model, ids, targets)
    assert lean.dtype == torch.float32
    assert len(lean) == int((targets != NO_TARGET).sum())
    assert base.model.config.vocab_size > CHUNK_WORDS  # so that the slices must add up
    torch.testing.assert_close(lean, plain, atol=LEAN_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_bare_base_has_the_same_lean_loss_as_its_full_logits(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    ids, targets = batch_of(3, 20)
    with torch.no_grad():
        lean = TokenScorer(base.model, base.family)(ids, targets)
        torch.testing.assert_close(lean, plain_losses(base, base.model, ids, targets), atol=1e-5, rtol=0)


OUTER = 0.37  # what the sum is multiplied by behind the loss


def gradients_agree(base: LanguageModel, model: torch.nn.Module, rows: int) -> None:
    ids, targets = batch_of(rows, 50)
    parameters = trainable(model)
    total, _ = SummedLoss(TokenScorer(model, base.family))(ids, targets)
    plain_total = plain_losses(base, model, ids, targets).sum()
    torch.testing.assert_close(total, plain_total, atol=0, rtol=1e-6)
    lean = torch.autograd.grad(total * OUTER, list(parameters.values()), allow_unused=True)
    plain = torch.autograd.grad(plain_total * OUTER, list(parameters.values()), allow_unused=True)
    largest = max(float(wanted.norm()) for wanted in plain if wanted is not None)
    for key, found, wanted in zip(parameters, lean, plain, strict=True):
        if wanted is None:
            assert found is None, key
        elif key.endswith(("key.bias", "k_lin.bias")):  # softmax does not know it: zero but for rounding
            assert max(float(found.norm()), float(wanted.norm())) < LEAN_TOLERANCE * largest, key
        else:
            assert float(wanted.norm()) > 0, key
            assert float((found - wanted).norm() / wanted.norm()) < LEAN_TOLERANCE, key


@pytest.mark.parametrize("rows", [1, 18])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_gradient_of_every_adapter_matrix_is_that_of_the_full_logits(
    adapted: Callable[[str], tuple[LanguageModel, torch.nn.Module]], name: str, rows: int
) -> None:
    gradients_agree(*adapted(name), rows)


@pytest.mark.parametrize("rows", [1, 18])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_head_that_is_trained_gets_the_gradient_of_the_full_logits_too(
    checkpoints: dict[str, Path], name: str, rows: int
) -> None:
    base = load_base(str(checkpoints[name]))
    base.model.requires_grad_(True)
    gradients_agree(base, base.model, rows)


class Table(torch.nn.Module):
    """A trunk that looks its hidden states up."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = torch.nn.Parameter(hidden, requires_grad=True)

    def forward(self, input_ids: Tensor, **other: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.hidden[input_ids])  # type: ignore[arg-type]  # any tensor


def test_in_bfloat16_a_confident_model_still_gets_its_small_gradient() -> None:
    words = 64
    table, head = Table(12 * torch.eye(words)), torch.nn.Linear(words, words, bias=False)
    # a weight that bfloat16 rounds to one, so that logits are 12 or 0
    head.weight = torch.nn.Parameter(1.001 * torch.eye(words), requires_grad=False)
    model = torch.nn.ModuleDict({"transformer": table, "lm_head": head})
    ids = torch.arange(words)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        SummedLoss(TokenScorer(model, FAMILIES["gpt2"]))(ids, ids)[0].backward()
    wrong = 1 / (math.exp(12) + words - 1)  # the share of each other word, 6e-6
    wanted = torch.full((words, words), wrong).fill_diagonal_(-(words - 1) * wrong)
    torch.testing.assert_close(table.hidden.grad, wanted, rtol=2**-7, atol=0)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_nothing_asked_is_nothing_paid(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    ids = torch.randint(5, 8192, (2, 10))
    nothing = torch.full_like(ids, NO_TARGET)
    assert TokenScorer(base.model, base.family)(ids, nothing).shape == (0,)
    total, count = SummedLoss(TokenScorer(base.model, base.family))(ids, nothing)
    assert (float(total), count) == (0.0, 0)


def test_a_batch_without_targets_trains_nothing_and_does_not_fail(
    adapted: Callable[[str], tuple[LanguageModel, torch.nn.Module]],
) -> None:
    base, model = adapted("bert")
    ids = torch.randint(5, 8192, (2, 10))
    total, _ = SummedLoss(TokenScorer(model, base.family))(ids, torch.full_like(ids, NO_TARGET))
    total.backward()
    assert all(float(parameter.grad.abs().sum()) == 0 for parameter in trainable(model).values())


def test_the_summed_loss_is_a_sum_and_a_count_and_never_a_mean(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    losses = TokenScorer(base.model, base.family)
    ids, targets = batch_of(4, 30)
    total, count = SummedLoss(losses)(ids, targets)
    each = losses(ids, targets)
    assert count == int((targets != NO_TARGET).sum())
    assert float(total) == pytest.approx(math.fsum(each.tolist()), rel=1e-6)


def without_output(base: LanguageModel) -> LanguageModel:
    output = base.model.get_submodule(base.family.output)
    for parameter in output.parameters():
        parameter.zero_()
    return base


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = without_output(load_base(str(checkpoints[name])))
    ids, targets = batch_of(6, 60)
    nll = TokenScorer(base.model, base.family)(ids, targets)
    torch.testing.assert_close(nll, torch.full_like(nll, math.log(8192)), rtol=1e-6, atol=0)


def test_a_model_that_is_certain_pays_nothing_when_right_and_dearly_when_wrong(
    checkpoints: dict[str, Path],
) -> None:
    base = without_output(load_base(str(checkpoints["bert"])))
    output = base.model.get_submodule("cls.predictions.decoder")
    output.bias[17] = 1000.0
    ids = torch.tensor([[5, 6]])
    nll = TokenScorer(base.model, base.family)(ids, torch.tensor([[17, 18]]))
    assert nll.tolist() == [0.0, 1000.0]


class LargestTensor(TorchDispatchMode):
    """Watches every operation, forward and backward, for the largest tensor that it makes."""

    elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_training_holds_a_slice_of_the_vocabulary_at_a_time_for_any_batch(
    adapted: Callable[[str], tuple[LanguageModel, torch.nn.Module]], name: str
) -> None:
    base, model = adapted(name)
    ids, targets = batch_of(40, 50)
    with LargestTensor() as lean:
        SummedLoss(TokenScorer(model, base.family))(ids, targets)[0].backward()
    with LargestTensor() as plain:
        plain_losses(base, model, ids, targets).sum().backward()
    assert plain.elements >= ids.numel() * 8192
    weights = max(parameter.numel() for parameter in base.model.parameters())
    assert lean.elements <= max(ids.numel() * CHUNK_WORDS, weights) < ids.numel() * 8192 / 3


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_scoring_holds_a_slice_of_the_vocabulary_at_a_time_for_any_batch(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    ids, targets = batch_of(40, 50)
    with LargestTensor() as lean:
        TokenScorer(base.model, base.family)(ids, targets)
    weights = max(parameter.numel() for parameter in base.model.parameters())  # some are transposed whole
    assert lean.elements <= max(ids.numel() * CHUNK_WORDS, weights) < ids.numel() * 8192 / 3


def test_gpt2s_activation_in_one_pass_is_the_one_in_eight() -> None:
    eight = NewGELUActivation()
    holder = torch.nn.Sequential(eight)
    fuse_activations(holder)
    values = torch.linspace(-6, 6, 1001)
    assert type(holder[0]) is GELUTanh
    torch.testing.assert_close(holder(values), eight(values), atol=5e-7, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_target_is_told_apart_from_one_that_another_word_beats(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    ids = torch.randint(5, 8192, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        likeliest = base.model(ids).logits.argmax(-1)
    targets = torch.where(torch.arange(20) % 3 == 0, likeliest, ids)
    losses = TokenScorer(base.model, base.family)
    nll, is_top1 = losses.nll_and_top1(ids, targets)
    assert torch.equal(nll, losses(ids, targets))
    assert torch.equal(is_top1, (targets == likeliest).flatten())
    assert 21 <= int(is_top1.sum()) < 60


def test_words_that_tie_are_all_right(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    with torch.no_grad():
        base.model.transformer.wte.weight.zero_()
    ids = torch.tensor([[1, 8000, 3]])
    assert TokenScorer(base.model, base.family).nll_and_top1(ids, ids)[1].tolist() == [True] * 3
