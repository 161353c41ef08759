"""A run folder that was damaged: every verb says so in one line, and ft runs lists the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from ft_toolkit.cli import app
from ft_toolkit.errors import LINE_CHARACTERS, FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

FILES = ("run.json", "recipe.yaml", "documents.parquet", "comparison.json", "adapter/adapter_config.json")


def broken(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def bytes_of_a_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")


def of_another_type(path: Path) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"price": [1]}), path)
    else:
        path.write_text('["a", "b"]\n')


def of_other_keys(path: Path) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "split": [3]}), path)
    else:
        path.write_text('{"schema": "one", "base": 3, "verdict": [], "peft_type": 7}\n')


DAMAGES = (broken, emptied, missing, a_folder, bytes_of_a_picture, of_another_type, of_other_keys)
NEVER_READ = {("comparison.json", "compare"), ("comparison.json", "merge"), ("comparison.json", "metrics")}
NEVER_READ |= {("documents.parquet", "metrics"), ("documents.parquet", "push")}


@pytest.fixture(scope="module")
def whole(checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    values = {
        "name": "mine",
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(small_corpus)},
        "training": {"steps": 1, "block_tokens": 32, "batch_tokens": 64},
        "judging": {"general": None},
        "publish": {"repo": "me/mine"},
    }
    run = finetune(
        Recipe.model_validate(values),
        tmp_path_factory.mktemp("runs"),
        options=Options(gate=False),
        screen=Screen(quiet=True),
    )
    run.record(integrity={"passed": True})
    return run


@pytest.fixture
def runs(whole: Run, tmp_path: Path) -> Path:
    for name in ("first", "mine", "third"):
        shutil.copytree(whole.folder, tmp_path / "runs" / name)
    return tmp_path / "runs"


def ft(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="ft")


def metrics_of(run: str) -> str:
    with pytest.raises(FtError) as caught:
        DomainPerplexity(run)
    return str(caught.value)


@pytest.mark.parametrize("verb", ["compare", "merge", "push", "metrics"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_a_run_is_named_in_one_line(
    runs: Path, file: str, damage: Callable[[Path], None], verb: str
) -> None:
    if (file, verb) in NEVER_READ or (file, damage, verb) == ("documents.parquet", missing, "merge"):
        pytest.skip("this verb does not need that file")
    damage(runs / "mine" / file)
    if verb == "metrics":
        line = metrics_of(str(runs / "mine"))
    else:
        ended = ft(verb, str(runs / "mine"))
        # what was trained and is no longer so is another fault than a file that cannot be read
        assert (ended.exit_code in (2, 4), ended.stdout) == (True, ""), ended.output
        (line,) = ended.stderr.splitlines()
    assert len(line) <= LINE_CHARACTERS
    assert "\n" not in line
    assert Path(file).name in line or f"no {Path(file).name}" in line
    assert "expected " in line
    assert "made for another base" not in line


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
def test_ft_runs_marks_a_damaged_run_and_lists_the_others(
    runs: Path, file: str, damage: Callable[[Path], None]
) -> None:
    damage(runs / "mine" / file)
    ended = ft("runs", "--runs", str(runs))
    assert (ended.exit_code, ended.stderr) == (0, "")
    _, first, mine, third = ended.stdout.splitlines()
    assert mine.startswith(str(runs / "mine")) and f"  damaged: {Path(file).name}: expected " in mine
    for line, name in ((first, "first"), (third, "third")):
        assert line.startswith(str(runs / name)) and line.endswith("  judged")


@pytest.mark.parametrize("is_there", [True, False])
def test_ft_runs_says_that_there_are_none(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "runs"
    if is_there:
        (folder / "notes").mkdir(parents=True)
    ended = ft("runs", "--runs", str(folder))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", f"no runs in {folder}\n")


def test_a_truncated_adapter_is_damaged_and_not_made_for_another_base(runs: Path) -> None:
    broken(runs / "mine" / "adapter" / "adapter_model.safetensors")
    (line,) = ft("compare", str(runs / "mine")).stderr.splitlines()
    assert "adapter_model.safetensors: expected the file that was trained" in line
    assert "another base" not in line
