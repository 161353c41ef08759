"""What files and packages tell is told first: before torch is imported, and before a run folder exists."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from accelerate.utils import LoggerType

from ft_toolkit import preflight
from ft_toolkit.errors import FtError
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.sections import Recipe
from ft_toolkit.training.accelerator import make_accelerator

TinyRecipe = Callable[..., Recipe]


def fault(recipe: Recipe, runs: Path = Path("runs"), **how: object) -> str:
    with pytest.raises(FtError) as caught:
        preflight.check(recipe, runs, **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_that_works_passes(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    preflight.check(tiny_recipe(), tmp_path / "runs")
    preflight.check(tiny_recipe(base="starter/gpt2", adapter={"targets": ["c_attn", "mlp.c_proj"]}), tmp_path)
    preflight.check(tiny_recipe(base="google-bert/bert-base-uncased"), tmp_path)
    preflight.check(tiny_recipe(base="gpt2@refs/pr/1", corpus={"source": "hf:owner/name"}), tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "bert", "distilbert", "llama", "opt", "albert", "deberta-v2"])
def test_every_target_that_a_family_has_passes(
    family: str, checkpoints: dict[str, Path], tiny_recipe: TinyRecipe
) -> None:
    base = load_base(str(checkpoints[family]))
    targets = [*base.family.targets("auto"), *base.family.targets("attention")]
    preflight.check(tiny_recipe(base=base.name, adapter={"targets": targets}))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("./folder", "base ./folder: expected a checkpoint's folder, found nothing there. Check the path."),
        ("/no/such/folder", "base /no/such/folder: expected a checkpoint's folder, found nothing there."),
        ("a/b/c", "base a/b/c: expected a checkpoint's folder, found nothing there."),
        ("m.gguf", "base m.gguf: expected a .gguf file, found nothing there."),
        ("empty", "base empty: expected a config.json with its model_type, found no config.json."),
        ("notes.txt", "base notes.txt: expected a checkpoint's folder, or a .gguf file, found another file."),
        ("starter/nope", "base starter/nope: expected one of bert, gpt2, found nope."),
    ],
)
def test_a_base_that_is_not_there_is_no_fault_of_the_network(
    place: str, words: str, tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("a")
    assert fault(tiny_recipe(base=place)).startswith(words)
    with pytest.raises(FtError) as caught:  # so do compare, metrics and plan
        load_base(place)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nowhere", "text", "corpus nowhere: expected a file, folder or glob, found nothing there."),
        ("picture.png", "text", "picture.png: expected a file ending in .txt"),
        ("a.csv", "body", "a.csv, row 0: corpus.text: expected column body, found columns title, text."),
        ("a.jsonl", "{body}", "a.jsonl, row 0: corpus.text: expected column body, found columns text."),
        ("a.parquet", "body", "a.parquet, row 0: corpus.text: expected column body, found columns text."),
        ("broken.parquet", "text", "broken.parquet: expected a Parquet file, found "),
        ("package:nope", "text", "corpus package:nope: expected one of "),
    ],
)
def test_a_source_or_a_column_that_is_not_there_is_named(
    name: str,
    text: str,
    words: str,
    tiny_recipe: TinyRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("title,text\nx,y\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "y"}) + "\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["y"]}), tmp_path / "a.parquet")
    for other in ("picture.png", "broken.parquet"):
        (tmp_path / other).write_bytes(b"\x89PNG")
    assert fault(tiny_recipe(corpus={"source": name, "text": text})).startswith(words)
    if text == "text":
        general = fault(tiny_recipe(judging={"general": name}))
        assert general.startswith("judging.general, ")
        assert words.removesuffix(".") in general


def test_a_target_that_no_layer_has_is_told_with_those_that_there_are(tiny_recipe: TinyRecipe) -> None:
    line = fault(tiny_recipe(adapter={"targets": ["c_attn", "q_proj"]}))
    assert line.startswith(
        "adapter.targets: expected matrices of the trunk, found q_proj. Choose among attn.c"
    )


def test_a_misspelt_tracker_is_named_with_the_nearest(tiny_recipe: TinyRecipe) -> None:
    line = fault(tiny_recipe(), trackers=["wandbb"])
    assert line.startswith("--track: expected one of aim, ")
    assert line.endswith("found wandbb. Did you mean wandb?")


def test_the_trackers_are_those_of_accelerate() -> None:
    assert {*preflight.TRACKERS, "all"} == {str(tracker) for tracker in LoggerType}


def test_an_extra_that_is_not_installed_is_named_with_its_command(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    assert fault(tiny_recipe(), energy=True).startswith("--energy: expected codecarbon, found it is not inst")
    line = fault(tiny_recipe(), trackers=["tensorboard"])
    assert "found tensorboard. Run pip install 'ft-toolkit[trackers]'." in line


def test_a_folder_that_is_named_like_a_package_is_no_package(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swanlab").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert "expected a tracker that is installed, found swanlab" in fault(tiny_recipe(), trackers=["swanlab"])


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "tpuu", "meta", "cpu:3"])
def test_a_device_that_is_not_here_is_named(device: str) -> None:
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is not None and device.startswith(here.type):
        pytest.skip("this machine has one")
    with pytest.raises(FtError) as caught:
        make_accelerator(device)
    assert str(caught.value).startswith("--device: expected auto or cpu")
    assert str(caught.value).endswith(f"found {device}. See ft doctor.")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--set", "corpus.source=nowhere"],
        ["--set", "base=./nowhere"],
        ["--set", "adapter.targets=[nope]"],
        ["--track", "wandbb"],
        ["--runs", "a-file"],
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_it_is_told_without_torch_and_leaves_no_run_folder(wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("mine")
    code = (
        "import sys; from ft_toolkit.cli import main; sys.argv = ['ft', 'finetune', *sys.argv[1:]]\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    asked = [sys.executable, "-c", code, "quickstart", *wrong]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "False\n", 1)
    assert not (tmp_path / "runs").exists()
