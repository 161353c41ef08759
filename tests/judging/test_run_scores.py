"""ft compare on a run that was judged: its scores are there, so no model is needed, nor torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.compare import compare_from
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import How
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_runs
from ft_toolkit.run import Run, read_json
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
FT = "from ft_toolkit.cli import main; main()"


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for family in ("gpt2", "bert"):
        values = {
            "name": family,
            "base": str(checkpoints[family]),
            "corpus": {"source": str(small_corpus)},
            "training": {"steps": 2, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
        }
        found[family] = finetune(Recipe.model_validate(values), folder, Options(gate=False), QUIET)
    return found


@pytest.fixture
def a_copy(runs: dict[str, Run], tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(runs["gpt2"].folder, tmp_path / "gpt2"))


@pytest.fixture
def no_torch(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which nobody can import what models need."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "transformers", "peft", "accelerate"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    path = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def ft_compare(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FT, "compare", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_kept_scores_say_bit_by_bit_what_judging_and_scoring_anew_say(
    runs: dict[str, Run], family: str
) -> None:
    run = runs[family]
    found = compare_from(run)
    assert found == compare_runs([run], [], screen=QUIET)[0]
    kept = dict(read_json(run.folder / "comparison.json"))
    del kept["verdict"]
    assert found.as_dict() == kept


@pytest.mark.parametrize("flags", [["--json"], ["--details"], ["--fail-if-worse"]])
def test_ft_compare_of_a_judged_run_imports_no_torch(
    runs: dict[str, Run], no_torch: dict[str, str], flags: list[str]
) -> None:
    done = ft_compare(runs["gpt2"].folder, *flags, environment=no_torch)
    assert done.returncode == 0, done.stderr
    headline = runs["gpt2"].comparison["verdict"]["headline"]
    if "--json" in flags:
        assert json.loads(done.stdout)["comparisons"][0] == compare_from(runs["gpt2"]).as_dict()
    else:
        assert " ".join(headline.split()) in " ".join(done.stdout.split())
        assert "--rescore scores it again" in done.stderr


def test_out_and_several_runs_of_one_split_need_no_torch_either(
    runs: dict[str, Run], no_torch: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = ft_compare(runs["gpt2"].folder, runs["bert"].folder, "--out", out, environment=no_torch)
    assert done.returncode == 0, done.stderr
    for name in ("comparison.json", "scores/documents.parquet", "scores/tokens.parquet"):
        assert (out / "bert" / name).read_bytes() == (runs["bert"].folder / name).read_bytes()


def test_the_name_is_that_of_the_folder_today(a_copy: Run) -> None:
    renamed = Run.open(a_copy.folder.rename(a_copy.folder.with_name("renamed")))
    assert compare_from(renamed).name == "renamed"


def is_scored(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> bool:
    """Whether ft compare takes a model for it."""
    asked: list[How] = []

    def score_anew(runs: object, on: object, how: How, **more: object) -> list[object]:
        asked.append(how)
        return []

    monkeypatch.setattr("ft_toolkit.rescoring.compare_runs", score_anew)
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return bool(asked)


@pytest.mark.parametrize(
    "flags",
    [["--rescore"], ["--on", "package:general-probe"], ["--protocol", "rolling"], ["--window", "32"],
     ["--precision", "bfloat16"], ["--device", "cpu"], ["--exact"]],
)  # fmt: skip
def test_what_is_asked_for_otherwise_is_scored(
    a_copy: Run, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    assert is_scored(monkeypatch, a_copy.folder, *flags)


def test_scores_by_another_protocol_or_of_another_recipe_are_not_taken_for_those_of_the_run(
    a_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_scored(monkeypatch, a_copy.folder)
    text = (a_copy.folder / "recipe.yaml").read_text()
    assert "stride: null" in text
    (a_copy.folder / "recipe.yaml").write_text(text.replace("stride: null", "stride: 16"))
    assert is_scored(monkeypatch, a_copy.folder)


def test_a_run_that_was_judged_by_another_protocol_is_scored_by_its_own(
    a_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {name: value for name, value in a_copy.facts.items() if name != "finished_at"}
    a_copy.write_json("run.json", facts)
    shutil.rmtree(a_copy.folder / "scores")
    compare_runs([a_copy], [], How(protocol="rolling"), screen=QUIET)
    assert compare_from(a_copy).protocol.name == "rolling"
    assert is_scored(monkeypatch, a_copy.folder)


@pytest.mark.parametrize("missing", ["tokens.parquet", "finished"])
def test_without_its_scores_a_run_is_scored(
    a_copy: Run, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "finished":
        a_copy.write_json("run.json", {k: v for k, v in a_copy.facts.items() if k != "finished_at"})
    else:
        (a_copy.folder / "scores" / missing).unlink()
    assert is_scored(monkeypatch, a_copy.folder)


def test_kept_scores_of_an_adapter_that_was_changed_are_refused(
    a_copy: Run, no_torch: dict[str, str]
) -> None:
    path = a_copy.adapter_folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    done = ft_compare(a_copy.folder, environment=no_torch)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and "expected the file that was trained" in done.stderr
