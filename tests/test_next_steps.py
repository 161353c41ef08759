"""After every end of a fine-tuning there is a command to type."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from ft_toolkit.cli import app
from ft_toolkit.errors import (
    FtError,
    IntegrityFailed,
    NumbersGoneWrong,
    Terminated,
    disk_full,
    one_line_errors,
)
from ft_toolkit.next_steps import after, tell_next, unfinished_noted
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe

LOWER = "Lower training.learning_rate, or look at these documents."


@pytest.fixture
def run(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Run:
    return Run.create(tmp_path / "my runs", tiny_recipe(name="mine"))


def parsed(line: str) -> list[str]:
    """The words of a command that ft itself accepts; without its first label and what explains it."""
    command = line.partition(": ")[2].split("   ")[0]
    words = shlex.split(command)
    assert words[0] == "ft"
    group = get_command(app)
    name, verb, rest = group.resolve_command(group.make_context("ft", words[1:]), words[1:])  # type: ignore[attr-defined]
    verb.make_context(name, rest)
    return words[1:]


def judged(run: Run, high: float | None) -> None:
    corpus = {"kind": "held-out", "difference": {"nats_per_token": -0.1, "low": -0.2, "high": high}}
    values = {"verdict": {"headline": "x"}, "protocol": {"metric": "perplexity"}, "corpora": [corpus]}
    run.write_json("comparison.json", values)


def test_a_run_that_is_done_leads_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run.folder)
    assert parsed(after(run)[0]) == ["compare", folder]
    judged(run, -0.05)
    (line,) = after(run)
    assert parsed(line) == ["try", folder]
    assert parsed("next: " + line.split("   or   ")[1]) == ["push", folder, "--to", "owner/name"]
    for high in (0.01, None):  # cannot tell; too few documents
        judged(run, high)
        assert parsed(after(run)[0]) == ["tune", f"{folder}/recipe.yaml", "--budget", "30m"]
    run.record(training={"stopped_by": "budget"})
    assert parsed(after(run)[1]) == ["finetune", f"{folder}/recipe.yaml", "--set", "training.budget=null"]
    tell_next(run)
    assert capsys.readouterr().err.splitlines() == after(run)


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (FtError("corpus", "text", "none", "Add some."), "resume"),
        (disk_full("run.json"), "resume"),
        (OSError(28, "No space left on device", "run.json"), "resume"),
        (IntegrityFailed("adapter", "what was trained", "other weights", "Report it."), "resume"),
        (KeyboardInterrupt(), "resume"),
        (Terminated("terminated before the first step; nothing was trained"), "resume"),
        (NumbersGoneWrong("steps 1 to 3", "finite losses", "none", LOWER), "finetune"),
        (NumbersGoneWrong("document a", "finite scores", "NaN", "The weights are damaged."), "resume"),
        (KeyboardInterrupt("interrupted at step 3; or ft resume runs/mine"), None),
        (Terminated("terminated before the verdict: trained; ft compare runs/mine judges it"), None),
    ],
    ids=repr,
)
def test_a_run_that_ends_early_names_the_command_that_goes_on(
    run: Run, error: BaseException, command: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), one_line_errors(), unfinished_noted(run):
        raise error
    first, *rest = capsys.readouterr().err.splitlines()
    assert first and len(rest) == (command is not None)
    if command == "resume":
        assert parsed(rest[0]) == ["resume", str(run.folder)]
    elif command == "finetune":
        rate = f"training.learning_rate={0.01 / 3:.2g}"
        assert parsed(rest[0]) == ["finetune", f"{run.folder}/recipe.yaml", "--set", rate]


def test_a_damaged_run_hides_no_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.folder / "run.json").write_text("{")
    with pytest.raises(SystemExit) as ended, one_line_errors(), unfinished_noted(run):
        raise NumbersGoneWrong("steps 1 to 3", "finite losses", "none", LOWER)
    assert ended.value.code == 5
    assert capsys.readouterr().err.startswith("steps 1 to 3: expected finite losses")
