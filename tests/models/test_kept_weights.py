"""adapter.base_precision: a base kept in fewer bits while an adapter trains, and float32 again afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES
from torch import Tensor

from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.models import kept_weights
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.kept_weights import kept_in
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.models.token_nll import SummedLoss, TokenScorer
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe

SMALL = ("position", "wpe", "token_type")  # embeddings that stay in float32


def adapted(folder: Path, **plan: object) -> tuple[LanguageModel, torch.nn.Module]:
    """A base, and an adapter on it that changes it."""
    base = load_base(str(folder))
    model = attach_adapter(base, Adapter.model_validate(plan), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base, model


def loss_and_gradients(base: LanguageModel, model: torch.nn.Module) -> dict[str, Tensor]:
    """Of training's own forward on two rows."""
    ids = torch.randint(5, 95, (2, 12), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    loss, _ = SummedLoss(TokenScorer(model, base.family))(ids, targets)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in trainable(model).items()}


@pytest.mark.parametrize("plan", [{}, {"dropout": 0.1}, {"method": "ia3"}, {"targets": "attention"}])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_base_kept_in_bfloat16_trains_as_one_that_was_rounded_and_computed_in_float32(
    checkpoints: dict[str, Path], name: str, plan: dict[str, object]
) -> None:
    base, model = adapted(checkpoints[name], **plan)
    exact = loss_and_gradients(base, model)
    model.zero_grad()
    with kept_in("bfloat16", base):
        found = loss_and_gradients(base, model)
    model.zero_grad()
    for key, weight in base.model.named_parameters():
        if weight.ndim == 2 and not weight.requires_grad and not any(part in key for part in SMALL):
            weight.data = weight.data.bfloat16().float()
    rounded = loss_and_gradients(base, model)
    for key, value in rounded.items():
        assert (found[key] - value).norm() <= 1e-5 * value.norm(), key
    assert not torch.equal(found["loss"], exact["loss"])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_in_bfloat16_training_a_kept_base_has_nearly_the_gradients_of_one_that_is_not(
    checkpoints: dict[str, Path], name: str
) -> None:
    base, model = adapted(checkpoints[name])
    found = []
    for precision in ("float32", "bfloat16"):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), kept_in(precision, base):
            found.append(loss_and_gradients(base, model))
    for key, value in found[0].items():
        assert (found[1][key] - value).norm() <= 0.15 * value.norm(), key


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_inside_the_frozen_base_takes_half_the_bytes_and_afterwards_it_is_bitwise_what_it_was(
    checkpoints: dict[str, Path], name: str
) -> None:
    base, model = adapted(checkpoints[name])

    def frozen_bytes() -> int:
        kept = [p for key, p in base.model.named_parameters() if not p.requires_grad and p.ndim == 2]
        return sum(p.nbytes for p in kept)

    before, parameters = frozen_bytes(), [id(p) for p in model.parameters()]
    with kept_in("bfloat16", base):
        assert 0.5 * before <= frozen_bytes() < 0.6 * before  # position embeddings stay
    assert frozen_bytes() == before
    assert hash_weights(base.model) == base.weights_sha256
    assert [id(p) for p in model.parameters()] == parameters  # of tied ones still one
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_checkpoint_that_changed_during_training_is_not_put_under_the_adapter(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = adapted(checkpoints["gpt2"])
    monkeypatch.setattr(kept_weights, "load_base", lambda *whatever: load_base(str(checkpoints["bert"])))
    with pytest.raises(FtError, match="the weights that training began with"), kept_in("bfloat16", base):
        pass


def test_a_run_says_what_its_rounded_base_changed_and_is_judged_on_the_float32_one(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        finetune(tiny_recipe(name=precision, adapter={"base_precision": precision}), tmp_path)
        for precision in ("float32", "bfloat16")
    ]
    exact, kept = (read_adapter(run) for run in runs)
    assert any(not torch.equal(exact[name], kept[name]) for name in exact)
    change = runs[1].facts["base_kept"]["validation_change_nats"]
    assert 0 < abs(change) < 0.01
    said = capsys.readouterr().err
    assert "base kept in bfloat16 while it trains: validation " in said and f"{change:+.1e} by that" in said
    assert runs[1].facts["integrity"]["passed"]
    bases = [run.comparison["corpora"][0]["base"] for run in runs]
    assert bases[0] == bases[1]
    assert "base_kept" not in runs[0].facts


def read_adapter(run: Run) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(run.adapter_folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("device", "found"), [("cpu", "a CUDA device, found cpu"), ("cuda", "bitsandbytes, found it is not inst")]
)
def test_four_bits_need_cuda_and_bitsandbytes(
    device: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_weights, "find_spec", lambda name: None)
    with pytest.raises(FtError, match=found):
        kept_weights.refuse_four_bits("4bit", device)


def test_four_bits_change_the_loss_little_and_the_float32_base_comes_back(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(
        kept_weights, "refuse_four_bits", lambda precision, device: None
    )  # its kernels run here too
    base, model = adapted(checkpoints["gpt2"])
    exact = loss_and_gradients(base, model)
    model.zero_grad()
    with kept_in("4bit", base):
        assert base.model.transformer.h[0].mlp.c_fc.base_layer.weight.dtype == torch.uint8
        found = loss_and_gradients(base, model)
    assert found["loss"] != exact["loss"]
    assert found["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)
    assert hash_weights(base.model) == base.weights_sha256


@pytest.mark.parametrize("plan", [{"method": "full"}, {"method": "pissa"}, {"tokens": ["salt"]}])
def test_a_base_that_is_trained_or_changed_is_not_kept_in_fewer_bits(plan: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="base_precision only with"):
        Adapter.model_validate(plan | {"base_precision": "bfloat16"})
