"""ft tune: trials on the validation part alone, resumed after a stop, ending in a recipe that says why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_toolkit import auto, halving, trials
from ft_toolkit.auto import Measure
from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.inputs import asked_for
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run, list_runs, now
from ft_toolkit.sections import Recipe
from ft_toolkit.trials import MORE_REPLAY, Ground, Settings
from ft_toolkit.tune import Asked, tune

QUIET = Screen(quiet=True)
FINETUNE = trials.finetune


OWN, HIGHER = Settings(1.0, 8, "auto", 0.0), Settings(100.0, 8, "auto", 0.0)


@pytest.fixture
def recipe_file(
    tiny_recipe: Callable[..., Recipe],
    short_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """A recipe file of a tiny model whose rate is far too low; two settings are tried on two rungs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(halving, "lengths", lambda steps: [steps // 2, steps])
    monkeypatch.setattr(Ground, "settings", lambda ground: [OWN, HIGHER])

    def make() -> str:
        corpus, training = {"source": str(short_corpus)}, {"steps": 4, "learning_rate": 1e-4}
        values = tiny_recipe(corpus=corpus, training=training).model_dump(exclude={"name"})
        Path("own").mkdir()
        Path("own/small.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return "own/small.yaml"

    return make


def table(folder: str = "runs/small-tune") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "trials.jsonl").read_text().splitlines()]


def test_a_search_goes_on_after_a_stop_finds_the_right_rate_and_its_recipe_says_why(
    recipe_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(recipe_file(), ("training.patience=5",), "10m")
    trained: list[str] = []

    def stops(recipe: Recipe, *more: Any) -> Run:
        if len(trained) == 2:
            raise KeyboardInterrupt("in the words of one run")
        return goes_on(recipe, *more)

    def goes_on(recipe: Recipe, *more: Any) -> Run:
        trained.append(recipe.name)
        return FINETUNE(recipe, *more)

    monkeypatch.setattr(trials, "finetune", stops)
    words = r"interrupted; the same command goes on \(trials kept in runs/small-tune: 2\)"
    with pytest.raises(KeyboardInterrupt, match=words):
        tune(asked, Path("runs"), "cpu", QUIET)
    before = table()
    monkeypatch.setattr(trials, "finetune", goes_on)
    to = tune(asked, Path("runs"), "cpu")
    said, rows = capfd.readouterr().out, table()
    assert rows[:2] == before
    assert trained == [row["run"] for row in rows]  # none of them twice
    assert [(row["learning_rate"], row["steps"]) for row in rows] == [
        (1e-4, 2),
        *((0.01, n) for n in (2, 4)),
    ]
    assert rows[2]["validation_nats"] < rows[1]["validation_nats"] < rows[0]["validation_nats"]
    runs = list_runs(Path("runs/small-tune"))
    assert {run.folder.name for run in runs} == set(trained)
    for run in runs:  # no trial saw the test part
        assert run.is_ended and not run.is_finished and not (run.folder / "scores").exists()

    assert to == Path("small-tuned.yaml")
    assert "written: small-tuned.yaml; next: ft finetune small-tuned.yaml" in said
    assert sum("all-linear" in line and "0 %" in line for line in said.splitlines()) >= 3
    text = to.read_text()
    command = "# Written by ft tune: ft tune own/small.yaml --set training.patience=5 --budget 10m\n"
    assert text.startswith(command)
    comment = " ".join(text.replace("#", "").split())
    assert "The best of 3 trials on the validation part: learning rate 0.01, rank 8 on all-linear" in comment
    assert "A figure chosen among 3 is optimistic. No trial saw the test part" in comment
    assert yaml.safe_load(text)["extends"] == "own/small.yaml"
    # the very recipe of the best trial, and with --set: ft finetune trains the same weights, and weakens them
    best = Run.open(f"runs/small-tune/{rows[2]['run']}").recipe
    assert best.adapter.strength == 1
    weaker = best.adapter.model_copy(update={"strength": "auto"})
    assert read_recipe(to).recipe == best.model_copy(update={"name": "small-tuned", "adapter": weaker})
    assert best.training.patience == 5

    tune(asked, Path("runs"), "cpu", QUIET)  # all is there
    assert (table(), to.read_text(), len(trained)) == (rows, text, 3)


# --- with trainings that only leave their figures ---------------------------------------------------


def figures(recipe: Recipe, folder: Path, *more: Any) -> Run:
    run = Run.create(folder, recipe, asked_for(recipe, judge=False))
    if recipe.training.peak > 1e-3:
        run.unlock()
        raise NumbersGoneWrong("training steps 1 to 3", "finite losses", "none", "Lower the rate.")
    nats = {"base_validation_nats": 5.0, "best_validation_nats": 4.0, "best_step": 2}
    run.record(training=nats | {"seconds": 10.0}, wall_seconds=20.0, ended_at=now())
    run.unlock()
    return run


def test_a_trial_whose_numbers_go_wrong_is_a_row_and_not_the_end(
    recipe_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "finetune", figures)
    asked = Asked(recipe_file(), (), "10m")
    tune(asked, Path("runs"), "cpu")
    rows = table()
    assert [row["failed"] is not None for row in rows] == [False, True, False]
    assert rows[1]["failed"].startswith("training steps 1 to 3: expected finite losses")
    assert "numbers gone wrong" in capfd.readouterr().out
    assert read_recipe("small-tuned.yaml").recipe.training.peak == 1e-4
    monkeypatch.setattr(Ground, "settings", lambda ground: [HIGHER, HIGHER])
    with pytest.raises(NumbersGoneWrong, match="expected a trial with finite figures"):
        tune(Asked("own/small.yaml", ("training.seed=1",), "10m"), Path("runs"), "cpu", QUIET)


def test_a_changed_recipe_begins_in_another_folder(
    recipe_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "finetune", figures)
    tune(Asked(recipe_file(), (), "10m"), Path("runs"), "cpu", QUIET)
    tune(Asked("own/small.yaml", ("adapter.dropout=0.1",), "10m"), Path("runs"), "cpu")
    said = capfd.readouterr().err
    assert "runs/small-tune has trials from before adapter.dropout changed; they are not used" in said
    assert len(table("runs/small-tune-2")) == 3


def test_where_the_time_ends_early_the_recipe_keeps_its_own_length(
    recipe_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "finetune", figures)
    tune(Asked(recipe_file(), (), "45s"), Path("runs"), "cpu", QUIET)
    assert [row["steps"] for row in table()] == [2, 2]
    text = " ".join(Path("small-tuned.yaml").read_text().replace("#", "").split())
    assert "The time ended before a training of the recipe's 4 steps" in text
    assert read_recipe("small-tuned.yaml").recipe.training.steps == 4


def test_what_cannot_be_searched_is_told_in_one_line(
    recipe_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "finetune", figures)
    name = recipe_file()
    for asked, match in (
        (Asked(name, (), "10"), "--budget: expected a time with its unit"),
        (Asked(name, (), "0m"), "--budget: expected a time above zero"),
        (Asked(name, (), "1m", Path(name)), "a new file, or one that ft tune wrote"),
        (Asked(name, (), "1m", Path("none/x.yaml")), "a file in a folder that exists"),
        (Asked(name, (), "1m", Path("-.yaml")), "that a run can have"),
        (Asked(name, ("training.stepz=1",), "1m"), "stepz"),
    ):
        with pytest.raises(FtError, match=match) as told:
            tune(asked, Path("runs"), "cpu", QUIET)
        assert "\n" not in str(told.value).split("has 1 fault:\n")[-1]
    assert not Path("runs").exists()
    with pytest.raises(FtError, match="expected time for two trials of about 20 s, found time for one"):
        tune(Asked(name, (), "39s"), Path("runs"), "cpu", QUIET)
    assert len(table()) == 1 and not Path("small-tuned.yaml").exists()


# --- what is tried ----------------------------------------------------------------------------------


def ground(**sections: Any) -> Ground:
    values = {"name": "x", "base": "b", "corpus": {"source": "s"}} | sections
    measure = Measure(width=256, steps=36, tokens=138_813, objective="causal")
    recipe = Recipe.model_validate(values)
    return Ground(recipe, auto.fill(recipe, measure), measure, Path("runs/x-tune"), "cpu")


def test_the_first_candidate_is_the_recipe_itself_and_the_next_change_one_thing() -> None:
    found, share = ground().settings(), auto.CAUSAL_REPLAY
    own = Settings(1.0, 64, "auto", share)
    assert found[:6] == [
        own,
        Settings(3.0, 64, "auto", share),
        Settings(1 / 3, 64, "auto", share),
        Settings(1.0, 16, "auto", share),
        Settings(1.0, 64, "attention", share),
        Settings(1.0, 64, "auto", share + MORE_REPLAY),
    ]
    assert len(found) == 3 * 2 * 2 * 2
    same = ground().recipe_of(own, 36)
    filled = ground().filled
    assert same.adapter == filled.adapter
    assert same.training == filled.training.model_copy(update={"steps": 36, "block_tokens": None})


def test_what_a_method_lacks_is_not_tried_and_replay_that_was_asked_for_stays() -> None:
    assert len(ground(adapter={"method": "full"}).settings()) == 6
    assert len(ground(adapter={"method": "scratch"}).settings()) == 3
    assert {one.replay for one in ground(training={"replay": 0.1}).settings()} == {0.1}
    one_part = replace(ground(), has_both_parts=False)
    assert {one.targets for one in one_part.settings()} == {"auto"}
    for method in ("full", "scratch", "ia3", "rslora"):
        each = ground(adapter={"method": method})
        recipes = [each.recipe_of(settings, 72) for settings in each.settings()]
        assert len({recipe.name for recipe in recipes}) == len(recipes)


def test_rate_and_alpha_follow_length_and_rank() -> None:
    half = ground(training={"learning_rate": 2e-3}, adapter={"rank": 8, "alpha": 8})
    found = half.recipe_of(Settings(3.0, 32, "attention", 0.0), 144)
    # four times the steps (a cube root), and four times the rank (a square root)
    assert found.training.learning_rate == pytest.approx(3 * 2e-3 / 4 ** (1 / 3) / 2, rel=0.05)
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.targets) == (32, 32, "attention")
    assert found.name == "lr0.0019-rank32-attention-144steps"


def test_a_recipe_of_the_gallery_is_extended_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    room = sys.modules["ft_toolkit.tune"]
    recipe = read_recipe("quickstart", ["training.learning_rate=1e-5"]).recipe
    room._write_recipe(Path("q.yaml"), Asked("quickstart", (), "1m"), recipe, ["A reason."])  # type: ignore[attr-defined]
    assert yaml.safe_load(Path("q.yaml").read_text())["extends"] == "quickstart"
    assert read_recipe("q.yaml").recipe == recipe.model_copy(update={"name": "q"})
