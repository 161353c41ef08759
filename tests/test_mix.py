"""ft mix: a weighted sum of adapters is exactly that, and is judged like a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.mix import Part, at_strength, mix, split_weight
from ft_toolkit.models.adapters import attach_adapter, save_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.mixing import write_mixed
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
PLANS = (
    Adapter(rank=4, alpha=8),
    Adapter(method="rslora", rank=2, alpha=16),
    Adapter(rank=3, alpha=5, targets="attention"),
)


def saved(place: Path, plan: Adapter, folder: Path, seed: int) -> Path:
    """An adapter with random matrices."""
    model = attach_adapter(load_base(str(place)), plan, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    save_adapter(model, folder)
    return folder


def updates(place: Path, folder: Path) -> dict[str, Tensor]:
    """What PEFT itself adds to each matrix of the base, in float64."""
    model = PeftModel.from_pretrained(load_base(str(place)).model, str(folder)).double()
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_update_of_a_mixture_is_the_weighted_sum_of_peft_s_own_updates(
    checkpoints: dict[str, Path], tmp_path: Path, family: str
) -> None:
    place, weights = checkpoints[family], (0.7, -0.4, 1.5)
    folders = [saved(place, plan, tmp_path / str(n), n) for n, plan in enumerate(PLANS)]
    assert write_mixed(folders, weights, tmp_path / "mixed") == 4 + 2 + 3
    each = [updates(place, folder) for folder in folders]
    found = updates(place, tmp_path / "mixed")
    assert found.keys() == each[0].keys()  # the third adapts a part of the matrices
    for name, update in found.items():
        expected = sum(w * own[name] for w, own in zip(weights, each, strict=True) if name in own)
        assert (update - expected).abs().max() <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("plan", PLANS[:2], ids=["lora", "rslora"])
def test_one_adapter_made_weaker_keeps_its_matrices_and_has_a_smaller_alpha(
    checkpoints: dict[str, Path], tmp_path: Path, plan: Adapter
) -> None:
    place = checkpoints["gpt2"]
    whole = saved(place, plan, tmp_path / "whole", 1)
    write_mixed([whole], [0.25], tmp_path / "weak")
    name = "adapter_model.safetensors"
    found, expected = (updates(place, folder) for folder in (tmp_path / "weak", whole))
    assert all(torch.allclose(found[key], 0.25 * expected[key], rtol=1e-12, atol=0) for key in expected)
    assert read_json(tmp_path / "weak" / "adapter_config.json")["lora_alpha"] == plan.alpha / 4
    model, weak = (
        PeftModel.from_pretrained(load_base(str(place)).model, str(folder)).eval()
        for folder in (whole, tmp_path / "weak")
    )
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 0.25)
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, weak(ids).logits)
    assert (whole / name).stat().st_size == (tmp_path / "weak" / name).stat().st_size


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_an_adapter_that_has_no_exact_sum_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, method: Any
) -> None:
    other = saved(checkpoints["gpt2"], Adapter(method=method), tmp_path / "other", 0)
    with pytest.raises(FtError, match="expected a LoRA adapter whose update is a plain product"):
        write_mixed([other, other], [0.5, 0.5], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], small_corpus: Path
) -> list[Run]:
    folder = tmp_path_factory.mktemp("parts")
    values: dict[str, Any] = {
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(small_corpus)},
        "judging": {"general": None},
    }
    training = {"steps": 5, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01}
    recipes = [
        Recipe.model_validate(values | {"name": name, "training": training | {"seed": n}})
        for n, name in enumerate("ab")
    ]
    return [finetune(recipe, folder, Options(gate=False), QUIET) for recipe in recipes]


def test_a_mixture_is_a_run_with_a_verdict(runs: list[Run], tmp_path: Path) -> None:
    run = mix([Part(runs[0], 0.5), Part(runs[1], 0.5)], tmp_path / "both", device="cpu", screen=QUIET)
    assert [(part["run"], part["weight"]) for part in run.facts["mixed"]] == [("a", 0.5), ("b", 0.5)]
    assert run.facts["integrity"]["passed"] and run.is_ended
    gains = [each.comparison["corpora"][0]["difference"]["nats_per_token"] for each in (*runs, run)]
    assert gains[2] == pytest.approx((gains[0] + gains[1]) / 2, abs=0.5 * abs(gains[0]))
    json.dumps(run.comparison)
    again = mix([Part(run, 1.0)], tmp_path / "again", device="cpu", screen=QUIET)
    assert again.comparison["corpora"][0]["adapter"] == run.comparison["corpora"][0]["adapter"]


def test_a_weaker_adapter_is_made_and_judged_once(runs: list[Run]) -> None:
    assert at_strength(runs[0], 1.0) is runs[0]
    weak = at_strength(runs[0], 0.5, device="cpu", screen=QUIET)
    assert weak.folder.name == f"{runs[0].folder.name}-at-0.5" and weak.is_finished
    alphas = [read_json(run.adapter_folder / "adapter_config.json")["lora_alpha"] for run in (weak, runs[0])]
    assert 2 * alphas[0] == alphas[1]
    before = (weak.folder / "comparison.json").stat().st_mtime_ns
    assert at_strength(runs[0], 0.5, screen=QUIET).folder == weak.folder
    assert (weak.folder / "comparison.json").stat().st_mtime_ns == before
    for strength in (0.0, -1.0, float("nan"), 11.0):
        with pytest.raises(FtError, match="--strength: expected above 0 and at most 10"):
            at_strength(runs[0], strength)


def test_an_adapter_without_strength_is_its_base(runs: list[Run], tmp_path: Path) -> None:
    run = mix([Part(runs[0], 0.0)], tmp_path / "none", device="cpu", screen=QUIET)
    for corpus in run.comparison["corpora"]:
        assert corpus["adapter"]["nll_nats"] == corpus["base"]["nll_nats"]


def test_what_cannot_be_mixed_is_said_before_anything_is_loaded(runs: list[Run], tmp_path: Path) -> None:
    for parts, to, match in (
        ([], tmp_path / "x", "expected a run"),
        ([Part(runs[0], 1.0)], tmp_path, "a folder that is not there yet"),
        ([Part(runs[0], float("nan"))], tmp_path / "x", "a weight of -100 to 100"),
    ):
        with pytest.raises(FtError, match=match):
            mix(parts, to, screen=QUIET)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("runs/a:0.7", ("runs/a", 0.7)),
        ("runs/a:-1", ("runs/a", -1.0)),
        ("runs/a", ("runs/a", 1.0)),
        ("hub:owner/name", ("hub:owner/name", 1.0)),
        ("hub:owner/name@v1:0.5", ("hub:owner/name@v1", 0.5)),
    ],
)
def test_a_weight_stands_behind_the_run(text: str, found: tuple[str, float]) -> None:
    assert split_weight(text) == found
