"""auto: what learning rate, rank and alpha stand for where a recipe leaves them open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ft_toolkit import auto
from ft_toolkit.auto import Measure, fill, words
from ft_toolkit.finetune import finetune
from ft_toolkit.inputs import asked_for, recipe_asked_for
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe, Training
from ft_toolkit.session import Options
from ft_toolkit.training import loop

METHODS = ("lora", "rslora", "dora", "pissa", "lora+", "ia3", "full", "scratch")
STARTER = Measure(width=256, steps=36, tokens=138_813, objective="causal")


def recipe(**sections: object) -> Recipe:
    return Recipe.model_validate({"name": "x", "base": "b", "corpus": {"source": "s"}, **sections})


@pytest.mark.parametrize("method", METHODS)
def test_the_rate_of_every_method_is_bounded_and_falls_with_width_and_steps(method: str) -> None:
    plan = Adapter(method=method)  # type: ignore[arg-type]
    widths, lengths = [2**n for n in range(17)], [10**n for n in range(10)]
    by_width = [auto.learning_rate(plan, width, 100, "causal") for width in widths]
    by_steps = [auto.learning_rate(plan, 768, steps, "causal") for steps in lengths]
    for rates in (by_width, by_steps):
        assert rates == sorted(rates, reverse=True)
        assert all(0 < rate <= 1 for rate in rates)
        assert [float(f"{rate:.1e}") for rate in rates] == rates  # two digits, as recipe.yaml keeps it


def test_the_rank_is_64_but_never_past_a_quarter_of_the_width() -> None:
    assert [auto.rank(width) for width in (8, 64, 256, 768, 4096)] == [8, 16, 64, 64, 64]


def test_the_rate_falls_with_the_root_of_the_rank_and_a_short_training_has_no_higher_one() -> None:
    for method in ("lora", "dora", "pissa", "lora+"):
        low, high = (Adapter(method=method, rank=rank) for rank in (4, 64))  # type: ignore[arg-type]
        rates = [auto.learning_rate(each, 4096, 1000, "causal") for each in (low, high)]
        assert rates[0] / rates[1] == pytest.approx(4, rel=0.05)  # two digits
    plan = Adapter(rank=64)
    assert auto.learning_rate(plan, 256, 32, "causal") == 0.0055  # 1 / sqrt(2 * 256 * 64)
    assert auto.learning_rate(plan, 256, 36, "causal") == 0.0053
    assert auto.learning_rate(plan, 256, 8 * 32, "causal") == 0.0028  # half
    assert auto.learning_rate(plan, 256, 36, "masked") == 0.0029
    by_steps = {auto.learning_rate(plan, 256, steps, "causal") for steps in (1, 9, 32)}
    assert by_steps == {0.0055}


def test_numbers_stay_and_only_autos_are_filled() -> None:
    given = recipe(adapter={"rank": 3, "alpha": 5}, training={"learning_rate": 0.5, "replay": 0.3})
    assert fill(given, STARTER) == given
    assert words(given, STARTER) == ""
    half = fill(recipe(adapter={"rank": 16}), STARTER)
    assert (half.adapter.rank, half.adapter.alpha) == (16, 32)
    assert half.training.peak == auto.learning_rate(Adapter(rank=16), 256, 36, "causal")


def test_what_was_asked_for_is_known_again_from_what_was_filled() -> None:
    for asked in (recipe(), recipe(adapter={"rank": 3}), recipe(training={"learning_rate": 1e-3})):
        filled = fill(asked, STARTER)
        assert recipe_asked_for(filled, asked_for(asked, judge=True)) == asked


def test_a_run_of_an_older_toolkit_is_asked_for_as_it_was() -> None:
    """Before auto, only block_tokens was left open."""
    training = {"learning_rate": 2e-4, "block_tokens": 256}
    old = recipe(adapter={"rank": 8, "alpha": 16}, training=training)
    again = recipe_asked_for(old, {"filled": ["block_tokens"]})
    assert again.training == Training(learning_rate=2e-4)
    assert again.adapter == old.adapter


# --- in a run ---------------------------------------------------------------------------------------


@pytest.fixture
def open_recipe(tiny_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(**sections: object) -> Recipe:
        training = {"steps": 6, "learning_rate": "auto"}
        return tiny_recipe(training=training, **sections)

    return make


def test_a_run_says_and_keeps_the_numbers_that_auto_stood_for(
    open_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = finetune(open_recipe(), tmp_path, Options(judge=False, gate=False))
    rate = auto.learning_rate(Adapter(), 16, 6, "causal")
    said = (run.folder / "run.log").read_text()
    assert f"learning rate {rate:g} (auto: lora, width 16, 6 steps), rank 8 (auto)" in said
    text = (run.folder / "recipe.yaml").read_text()
    first = text.splitlines()[0]
    assert first == "# as resolved: every default filled in; by base and text: learning_rate, rank, alpha"
    assert f"learning_rate: {rate}" in text and "rank: 8" in text and "alpha: 16" in text
    again = read_recipe(run.folder / "recipe.yaml").recipe
    assert again == Run.open(run.folder).recipe
    used = run.facts["training"]
    assert (used["learning_rate"], used["restarted_at"]) == (rate, None)


def test_a_start_that_diverges_is_said_and_run_json_keeps_the_rate_that_trained(
    open_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "learning_rate", lambda *_: 0.9)
    asked = open_recipe(adapter={"method": "full"})
    whole = finetune(asked, tmp_path / "whole", Options(judge=False, gate=False))
    outcome = whole.facts["training"]
    assert (outcome["restarted_at"], outcome["learning_rate"]) == (4, pytest.approx(0.3))
    said = (whole.folder / "run.log").read_text()
    assert said.count("training starts again, at a third of the learning rate: 0.3") == 1
    assert whole.recipe.training.peak == pytest.approx(0.9)  # what was planned
    metrics = (whole.folder / "metrics.jsonl").read_text()
    assert metrics.count("\n") == 6
    validate = loop._Training._validate
    # every step is validated: four of the first start, then the second one's
    monkeypatch.setattr(loop._Training, "_validate", _stop_at(validate, 6))
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, tmp_path / "cut", Options(judge=False, gate=False))
    monkeypatch.setattr(loop._Training, "_validate", validate)
    resumed = finetune(asked, tmp_path / "cut", Options(judge=False, gate=False))
    assert resumed.folder.name == whole.folder.name
    for name in ("metrics.jsonl", "recipe.yaml", "model/model.safetensors"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def _stop_at(method: Callable[..., float], call: int) -> Callable[..., float]:
    calls = [0]

    def stopped(training: object) -> float:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return method(training)

    return stopped
