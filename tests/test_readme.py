"""The README's Python runs as it stands, and its checker notices what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from readme import blocks, close, faults

from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Recipe
from ft_toolkit.session import Options

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_adapter_loads_with_the_lines_that_the_readme_shows(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("gpt2", training={"steps": 1}, name="quickstart")
    run = finetune(
        recipe, tmp_path / "runs", options=Options(judge=False, gate=False), screen=Screen(quiet=True)
    )
    code = re.findall(r"```python\n(.*?)```", README, flags=re.S)[0]
    assert "PeftModel.from_pretrained" in code
    code = code.replace("ft_toolkit/starters/gpt2", recipe.base).replace("runs/quickstart", str(run.folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Peel the garlic and")


def test_every_command_of_the_readme_is_a_verb_that_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    commands = [command for command, _ in blocks(README)]
    assert len(commands) >= 5
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= verbs


@pytest.mark.parametrize(
    ("line", "other", "agrees"),
    [
        ("perplexity 100.0 → 50.0", "perplexity 104.0 → 49.0", True),
        ("perplexity 100.0 → 50.0", "perplexity 106.0 → 50.0", False),
        ("change −58.2 %", "change −58.6 %", True),
        ("change −2.0 %", "change +2.0 %", False),
    ],
)
def test_a_figure_may_move_by_five_per_cent_and_no_more(line: str, other: str, agrees: bool) -> None:
    assert close(line, other) is agrees


def test_a_line_that_is_no_longer_printed_is_a_fault() -> None:
    assert faults(["verdict: 5 documents"], ["something else"])
