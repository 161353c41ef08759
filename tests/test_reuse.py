"""A run that ended serves again: its verdict without torch, or the artefacts that nothing changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.reuse import is_shown
from ft_toolkit.run import Run
from ft_toolkit.runtime import run_python
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

TinyRecipe = Callable[..., Recipe]
QUIET = Screen(quiet=True)
SHOWN = (
    "import sys; from pathlib import Path;"
    "from ft_toolkit.recipe import Recipe; from ft_toolkit.reuse import is_shown;"
    "recipe = Recipe.model_validate_json(sys.argv[1]); assert is_shown(recipe, Path(sys.argv[2]));"
    "assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
)


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "mine"
    folder.mkdir()
    for path in small_corpus.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_finished_run_shows_its_verdict_again_without_torch(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 2})
    run = finetune(recipe, tmp_path, screen=QUIET)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    done = run_python("-c", SHOWN, recipe.model_dump_json(), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert read_json(run.folder / "comparison.json")["verdict"]["headline"] in done.stdout
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before


def test_what_did_not_change_is_taken_over_and_what_did_is_named(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = finetune(
        tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 2}), tmp_path, screen=QUIET
    )
    other = tiny_recipe(
        corpus={"source": str(corpus)},
        training={"steps": 2},
        judging={"protocol": "rolling", "general": None},
    )
    assert not is_shown(other, tmp_path)
    capfd.readouterr()
    second = finetune(other, tmp_path, Options(reuse=True))
    said = capfd.readouterr().err
    assert second.folder.name == f"{first.folder.name}-2"
    assert f"weights: as in {first.folder}" in said
    assert "comparison: made anew (judging.protocol changed" in said
    weights = "adapter/adapter_model.safetensors"
    assert (second.folder / weights).read_bytes() == (first.folder / weights).read_bytes()
    assert read_json(second.folder / "comparison.json")["protocol"]["name"] == "rolling"
    third = finetune(
        tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 3}), tmp_path, Options(reuse=True)
    )
    said = capfd.readouterr().err
    assert "weights: made anew (training.steps changed" in said
    assert third.facts["training"]["steps"] == 3


def stopped_run(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that ended in the middle of its judging, as by kill -9."""
    with monkeypatch.context() as patch:

        def stop(*arguments: object, **more: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(sys.modules["ft_toolkit.finetune"], "judge_run", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(recipe, folder, screen=QUIET)
    return Run(folder / recipe.name)


def test_an_unfinished_run_goes_on_without_another_step(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 2})
    whole = finetune(recipe, tmp_path / "whole", Options(gate=False), QUIET)
    run = stopped_run(recipe, tmp_path / "runs", monkeypatch)
    assert not run.is_ended
    again = finetune(recipe, tmp_path / "runs", Options(gate=False), QUIET)
    assert again.folder == run.folder
    assert again.is_ended
    for name in ("comparison.json", "metrics.jsonl", "adapter/adapter_model.safetensors"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not (again.folder / "checkpoints").exists()


def test_a_changed_corpus_is_refused_with_its_name_and_made_anew_when_asked(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 2})
    run = stopped_run(recipe, tmp_path, monkeypatch)
    (corpus / "new.md").write_text("A new page on fevers, written since the run began.")
    try:
        with pytest.raises(FtError, match="found the corpus"):
            finetune(recipe, tmp_path, screen=QUIET)
        again = finetune(recipe, tmp_path, Options(restart=True), QUIET)
    finally:
        (corpus / "new.md").unlink()
    assert again.folder == run.folder
    assert "new.md" in {row["source"] for row in again.read_table("documents.parquet")}


def test_one_folder_has_one_process(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(corpus={"source": str(corpus)}, training={"steps": 1})
    run = stopped_run(recipe, tmp_path, monkeypatch)
    hold = (
        "import sys, time; from pathlib import Path; from ft_toolkit.run import Run;"
        "run = Run(Path(sys.argv[1])); run.lock(); print('held', flush=True); time.sleep(60)"
    )

    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run.folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(FtError, match="a run that no other process works on"):
            finetune(recipe, tmp_path, screen=QUIET)
        other.kill()  # as hard as kill -9: the lock goes with it
    assert finetune(recipe, tmp_path, Options(gate=False), QUIET).folder == run.folder
