"""The Python, the commands and the tables of README and docs are true, and the checker of figures works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from readme import PAGES, blocks, close, faults, rewritten

from ft_toolkit.finetune import finetune
from ft_toolkit.judging import verdict
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.sections import Recipe
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


def test_every_command_of_readme_and_docs_is_a_verb_that_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    commands = [command for page in PAGES for command, _ in blocks(page.read_text(encoding="utf-8"))]
    assert len(commands) >= 5
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= verbs


def test_the_recipe_page_lists_every_key_with_its_default(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.*?) \|", page, flags=re.M))
    recipe = tmp_path / "plain.yaml"
    recipe.write_text("base: starter/gpt2\ncorpus: {source: notes}\n")
    values = {key: value for key, value, *_ in read_recipe(recipe).explained()}
    assert list(listed) == list(values)
    for key in values.keys() - {"name", "base", "corpus.source"}:
        assert _as_yaml(listed[key]) == values[key], key


def _as_yaml(cell: str) -> object:
    """The value of a table cell such as `auto` or 2e-4."""
    text = cell.strip("`")
    return float(text) if re.fullmatch(r"\d+e-\d+", text) else yaml.safe_load(text)


def test_the_verdict_page_states_the_thresholds_that_the_verdict_uses() -> None:
    page = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    forgotten = f"less than {verdict.FORGOTTEN_LITTLE_PERCENT:g} %, by less than"
    assert f"{forgotten} {verdict.FORGOTTEN_MUCH_PERCENT:g} %" in page
    drifted = f"below {verdict.DRIFTED_LITTLE_NATS:g}, below {verdict.DRIFTED_MUCH_NATS:g}"
    assert drifted in page
    memorised = f"below {verdict.MEMORISED_LITTLE_NATS:g}, below {verdict.MEMORISED_MUCH_NATS:g}"
    assert memorised in page


def test_the_models_page_lists_every_family() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([a-z0-9_, -]+) \| .* \| ✓ \|", page, flags=re.M)
    assert sorted(", ".join(listed).split(", ")) == sorted(FAMILIES)


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


def test_only_figures_of_what_a_command_printed_are_written_into_its_page() -> None:
    page = "x 1\n```console\n$ ft a\nx 1  far\nx 2\nx 2 3\nx 4 3\nother words 3\n…\n$ ft b\nx 1\n```\nx 2"
    found = rewritten(page, {"ft a": ["x 5", "x 1   far ", "x 4 7", "x 1 8", "others 3"]})
    shown = "x 1   far\nx 5\nx 4 7\nx 1 8\nother words 3\n…"
    assert found == f"x 1\n```console\n$ ft a\n{shown}\n$ ft b\nx 1\n```\nx 2"
    assert rewritten("```text\n$ ft a\nx 2\n```", {"ft a": ["x 5"]}) == "```text\n$ ft a\nx 2\n```"


def test_a_line_that_is_no_longer_printed_is_a_fault() -> None:
    assert faults(["verdict: 5 documents"], ["something else"])
    assert not faults(["…", "verdict: 5 documents", "…"], ["more", "verdict: 5 documents"])


@pytest.mark.parametrize("page", ["README", "docs/learn"])
def test_a_translated_page_shows_the_commands_figures_and_pictures_of_its_original(page: str) -> None:
    english, korean = ((ROOT / f"{page}{end}").read_text(encoding="utf-8") for end in (".md", ".ko.md"))
    for same in (r"^```.*?^```", r"^!\[.+?\]\((.*?)\)"):
        found = re.findall(same, english, flags=re.M | re.S)
        assert found and re.findall(same, korean, flags=re.M | re.S) == found
    decimals = r"\d+\.\d+"
    assert sorted(re.findall(decimals, korean)) == sorted(re.findall(decimals, english))


def test_the_front_page_is_short_and_every_picture_small_and_shown() -> None:
    assert len(README.splitlines()) < 150
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 150_000 and f"pictures/{picture.name})" in shown
