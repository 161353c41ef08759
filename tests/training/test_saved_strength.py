"""An adapter is saved at the weakest strength that keeps 95 % of its gain, as its alpha and nothing else."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ft_toolkit.finetune import finetune
from ft_toolkit.material import validation_documents, validation_score
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, for_scoring
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.splitting import read_parts
from ft_toolkit.training.outcome import Outcome
from ft_toolkit.training.strength import settle_strength

Make = Callable[..., Recipe]
QUIET, NOT_JUDGED = Screen(quiet=True), Options(judge=False)


def outcome(base_nats: float, best_nats: float | None) -> Outcome:
    return Outcome(9, 9, 9, base_nats, best_nats, 99, 1.0, "float32", "done")


def settled(
    checkpoint: Path, plan: Adapter, trained: Outcome, curve: Callable[[float], float]
) -> tuple[Outcome, float]:
    """The outcome, and what the update is multiplied by then; curve: nats by strength."""
    model = attach_adapter(load_base(str(checkpoint)), plan, seed=0)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    whole = layers[0].scaling["default"]

    def strength() -> float:
        (found,) = {round(layer.scaling["default"] / whole, 12) for layer in layers}
        return found

    found = settle_strength(model, plan, trained, lambda: curve(strength()))
    return found, strength()


@pytest.mark.parametrize("method", ["lora", "rslora", "lora+"])
@pytest.mark.parametrize(
    ("steepness", "strength"),
    [
        (2, 0.8),  # a parabola: (1 - s)² of the gain is lost, 4 % at 0.8 and 9 % at 0.7
        (1, 1.0),  # a line: 10 % are lost at 0.9
        (9, 0.3),  # 0.7 ** 9 = 4.04 %, 0.8 ** 9 = 13.4 %
        (60, 0.1),  # 0.9 ** 60 = 0.2 %: never none at all
    ],
)
def test_the_weakest_tenth_that_keeps_enough_of_a_known_curve_is_found(
    checkpoints: dict[str, Path], method: Any, steepness: int, strength: float
) -> None:
    def curve(at: float) -> float:
        return 5.0 - 2.0 * (1 - max(0.0, 1 - at) ** steepness)

    found, scale = settled(checkpoints["gpt2"], Adapter(method=method), outcome(5.0, 3.0), curve)
    assert (found.strength, scale) == (strength, strength)
    assert found.best_validation_nats == pytest.approx(curve(strength), abs=1e-12)
    assert found.gain_kept == pytest.approx((5.0 - curve(strength)) / 2.0, abs=1e-12)
    assert found.gain_kept is not None and found.gain_kept >= 0.95


@pytest.mark.parametrize(
    ("curve", "strength", "tried"),
    [
        ({0.8: 3.5, 0.9: 3.01}, 0.9, [0.8, 0.9]),
        ({0.8: 3.5, 0.9: 3.2}, 1.0, [0.8, 0.9]),
        ({0.8: 3.0, 0.7: 3.5, 0.6: 2.9}, 0.8, [0.8, 0.7]),  # what rises again is not followed
        ({0.8: 3.0, 0.7: 3.09, 0.6: 3.11}, 0.7, [0.8, 0.7, 0.6]),
    ],
)
def test_few_strengths_are_validated(
    checkpoints: dict[str, Path], curve: dict[float, float], strength: float, tried: list[float]
) -> None:
    asked: list[float] = []

    def validated(at: float) -> float:
        asked.append(at)
        return curve[at]

    found, _ = settled(checkpoints["bert"], Adapter(), outcome(5.0, 3.0), validated)
    assert (found.strength, found.best_validation_nats) == (strength, {1.0: 3.0, **curve}[strength])
    assert asked == tried


@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_a_strength_without_a_finite_figure_is_not_taken(checkpoints: dict[str, Path], nats: float) -> None:
    found, scale = settled(checkpoints["gpt2"], Adapter(), outcome(5.0, 3.0), lambda _: nats)
    assert (found.strength, found.best_validation_nats, scale) == (1.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("plan", "trained"),
    [
        (Adapter(), outcome(5.0, 5.0)),  # gained nothing
        (Adapter(), outcome(5.0, 5.5)),
        (Adapter(), outcome(5.0, None)),  # stopped before its first validation
        (Adapter(strength=1), outcome(5.0, 3.0)),
        (Adapter(method="dora"), outcome(5.0, 3.0)),
        (Adapter(method="pissa"), outcome(5.0, 3.0)),
    ],
)
def test_an_adapter_without_gain_or_strength_stays_as_it_was_trained(
    checkpoints: dict[str, Path], plan: Adapter, trained: Outcome
) -> None:
    def never(at: float) -> float:
        raise AssertionError(f"validated at {at}")

    found, scale = settled(checkpoints["gpt2"], plan, trained, never)
    assert (found.strength, found.best_validation_nats) == (1.0, trained.best_validation_nats)
    assert scale == 1.0


def test_a_strength_of_the_recipe_is_validated_once_also_where_nothing_was_gained(
    checkpoints: dict[str, Path],
) -> None:
    found, scale = settled(checkpoints["gpt2"], Adapter(strength=0.5), outcome(5.0, 6.0), lambda at: 5.0 + at)
    assert (found.strength, scale, found.best_validation_nats, found.gain_kept) == (0.5, 0.5, 5.5, None)


def test_a_strength_of_the_recipe_is_taken_whatever_it_costs(checkpoints: dict[str, Path]) -> None:
    plan = Adapter(strength=0.25)
    found, scale = settled(checkpoints["gpt2"], plan, outcome(5.0, 4.0), lambda at: 5.5 - at)
    assert (found.strength, scale) == (0.25, 0.25)
    assert (found.best_validation_nats, found.gain_kept) == (5.25, -0.25)


@pytest.mark.parametrize(
    "adapter", [{"method": "dora"}, {"method": "ia3"}, {"method": "full"}, {"tokens": ["pan"]}]
)
def test_a_recipe_with_a_strength_needs_an_adapter_that_has_one(tiny_recipe: Make, adapter: Any) -> None:
    with pytest.raises(ValidationError, match="strength only with lora, rslora or lora"):
        tiny_recipe(adapter=adapter | {"strength": 0.5})
    assert tiny_recipe(adapter=adapter | {"strength": 1}).adapter.strength == 1


def validated_by_peft(run: Run, alpha: float, folder: Path) -> float:
    """Nats a token of the validation part, of a run's matrices under another alpha, loaded by PEFT alone."""
    shutil.copytree(run.adapter_folder, folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": alpha}))
    base = load_base(run.recipe.base)
    kind = AutoModelForCausalLM if base.family.objective == "causal" else AutoModelForMaskedLM
    plain = PeftModel.from_pretrained(kind.from_pretrained(run.recipe.base, dtype=torch.float32), folder)
    model = LanguageModel(
        **{name: getattr(base, name) for name in base.__dataclass_fields__} | {"model": for_scoring(plain)}
    )
    _, parts = read_parts(*run.recipe.corpora)
    return validation_score(model, validation_documents(parts))()


@pytest.mark.parametrize(("family", "method"), [("gpt2", "rslora"), ("bert", "lora"), ("gpt2", "lora+")])
def test_a_run_keeps_the_matrices_that_were_trained_and_plain_peft_agrees_on_the_choice(
    tiny_recipe: Make, tmp_path: Path, family: str, method: str
) -> None:
    plan = {"method": method, "rank": 8}
    training = {"steps": 12, "learning_rate": 0.02}
    as_trained, saved = (
        finetune(
            tiny_recipe(family, adapter=plan | more, training=training), tmp_path / name, NOT_JUDGED, QUIET
        )
        for name, more in (("trained", {"strength": 1}), ("saved", {}))
    )
    as_it_was = json.loads((as_trained.adapter_folder / "adapter_config.json").read_text())["lora_alpha"]
    assert (as_it_was, type(as_it_was)) == (16, int)
    before, after = (
        load_file(run.adapter_folder / "adapter_model.safetensors") for run in (as_trained, saved)
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)

    facts = saved.facts["training"]
    strength, base_nats = facts["strength"], facts["base_validation_nats"]
    alpha = json.loads((saved.adapter_folder / "adapter_config.json").read_text())["lora_alpha"]
    assert strength < 1 and alpha == 16 * strength
    assert saved.facts["integrity"]["passed"]
    gain = base_nats - validated_by_peft(as_trained, 16, tmp_path / "1")
    found = validated_by_peft(saved, alpha, tmp_path / "2")
    assert found == pytest.approx(facts["best_validation_nats"], abs=1e-6)
    assert base_nats - found >= 0.95 * gain
    weaker = validated_by_peft(saved, 16 * round(strength - 0.1, 1), tmp_path / "3")
    assert base_nats - weaker < 0.95 * gain
