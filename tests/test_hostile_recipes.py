"""Recipes made to harm, or by mistake: each is planned, or named in a line, soon; nothing is half printed."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import LINE_CHARACTERS, MOST_FAULTS, FtError
from ft_toolkit.recipe import read_recipe
from ft_toolkit.sections import Corpus, Recipe

MOST_SECONDS = 5
WHOLE: dict[str, Any] = {
    "base": "starter/gpt2",
    "corpus": {"source": "notes", "split": {"test": 0.2, "seed": 3}},
    "adapter": {"method": "lora", "rank": 4, "targets": "attention"},
    "training": {"steps": 3, "learning_rate": 2e-4, "replay": "5%", "budget": "20m"},
    "judging": {"general": None, "canaries": 2},
    "publish": {"tags": ["medical"]},
}
MIXTURE = WHOLE | {"corpus": [{"source": "notes", "weight": 3}, {"source": "more.jsonl", "weight": 1.5}]}


def dotted(section: type[BaseModel] = Recipe, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, info in section.model_fields.items():
        yield (*prefix, key)
        inner = Corpus if key == "corpus" else info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted(inner, (*prefix, key))


KEYS = [
    *dotted(),
    ("extends",),
    ("bsae",),
    ("",),
    ("코퍼스",),
    ("training", "stpes"),
    ("corpus", "0", "source"),
]
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 256, 2**31, 2**63, 10**300, 0.1, 0.999, 1.0, -0.0, 1e-300, 1e308),
    *(float("inf"), float("-inf"), float("nan"), 2**63 - 1, "9" * 400),
    *("", " ", "auto", "no", "yes", "on", "~", "null", "NaN", "2024-01-01", "12:30:45", "1_000", "0x10"),
    *("20m", "0s", "1e9h", "9" * 400 + "m", "5%", "100%", "-5%"),
    *("9" * 400 + "%", "lora", "full", "scratch", "row"),
    *("\n", "a\0b", "\ud800", "a\tb", "\u2028", "\u202eabc", "e\u0301", "감기"),
    *("🙂" * 50, "x" * 300, "x" * 20_000, "{title}", "{"),
    *(".", "..", "../..", "/dev/zero", "/dev/stdin", "/dev/null"),
    *("/dev", "/nowhere", "C:\\x", "notes", "notes/a.txt"),
    *("more.jsonl", "*.txt", "**", "[", "hf:", "hf:a/b", "hf:../x"),
    *("package:", "package:../x", "https://", "https://["),
    *("starter/", "starter/bert", "starter/gpt2@main", "a/b@c", "@", "x.gguf", "cp949", "zip", "en"),
    *([], [[]], [[[[[1]]]]], [None], [""], ["auto"]),
    *(["c_attn", "c_attn"], list(range(100)), {}, {"a": "b"}, {"": {}}),
    *([{"source": "notes"}] * 2, [{"source": "notes"}, 5], [{}], {"source": "notes", "weight": 2}),
)  # fmt: skip
LINES = (
    *("a: &x [*x]", "<<: *x", "b: *nothing", "? a", "? [a]\n: b"),
    *("--- ", "...", "%YAML 9.9", "- a", "\ta: 1"),
    *("!!python/object/apply:os.system [echo]", "a: !!binary eA=="),
    *("a: !mine 5", "a: |", "a: >-\n b", "a: 'open"),
    *('a: "\\ud800"', 'a: "\\x00"', 'a: "\\U0010ffff"', "a: [1, 2"),
    *("a: {", "a: }", ": ", "a: b: c", "@a", "`a`"),
    *("training:", "corpus: notes", "base: [", "name: a/b", "name: ..", "name: nul", "base: x\nbase: y"),
    *("\0", "\x07", "\x85", "\ufeff", "\u2029", "\r"),
    *("# " + "x" * 5000, "a: " + "x" * 1_000_000, "a: [" + "{b: c}, " * 11_000 + "]", "a: " + "[" * 3000),
    "\n".join(f"{'abcdefghi'[n]}: &{n} [{f'*{n - 1}, ' * 9 if n else 'x'}]" for n in range(9)),
    "".join(f"k{n}: 1\n" for n in range(3000)),
    *(f"extends: {name}" for name in ("recipe.yaml", "other.yaml", "quickstart", "nothing", ".", "[a]", "5")),
    "extends: /dev/zero",
)  # fmt: skip


def put(values: Any, keys: tuple[str, ...], value: Any) -> None:
    """Set a key, where the sections above it are such."""
    for key in keys[:-1]:
        values = values[int(key)] if isinstance(values, list) and key == "0" and values else values
        if isinstance(values, dict) and key != "0":
            values = values.setdefault(key, {})
    if isinstance(values, dict):
        values[keys[-1]] = value


@st.composite
def broken_recipes(draw: st.DrawFn) -> bytes:
    """A whole recipe with values, lines and bytes changed; seldom bytes alone."""
    if draw(st.integers(0, 30)) == 0:
        return draw(st.binary(max_size=200))
    values = json.loads(json.dumps(draw(st.sampled_from([WHOLE, MIXTURE]))))
    for _ in range(draw(st.integers(0, 3))):
        put(values, draw(st.sampled_from(KEYS)), deepcopy(draw(st.sampled_from(VALUES))))
    is_ascii = draw(st.booleans())
    lines = [f"{key}: {json.dumps(value, ensure_ascii=is_ascii)}" for key, value in values.items()]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(lines) - 1))
        line = draw(st.sampled_from([*LINES, lines[place], f" {lines[place]}", lines[place][:-1]]))
        lines[place : place + draw(st.integers(0, 1))] = [line]
    data = draw(st.sampled_from(["\n", "\n", "\r\n"])).join(lines).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data = data[:place] + draw(st.binary(max_size=5)) + data[place + draw(st.integers(0, 5)) :]
    return draw(
        st.sampled_from([data] * 8 + [b"\xef\xbb\xbf" + data, data.decode(errors="replace").encode("utf-16")])
    )


def is_planned_or_named(content: bytes) -> None:
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes").mkdir()
        for number in range(12):
            (Path(folder) / "notes" / f"{number}.txt").write_text(f"Salt and oil, number {number}. " * 40)
        (Path(folder) / "more.jsonl").write_text('{"text": "Water and rice for many."}\n{"text": "Bread."}\n')
        (Path(folder) / "other.yaml").write_text("extends: recipe.yaml\n")
        (Path(folder) / "recipe.yaml").write_bytes(content)
        os.chdir(folder)
        started = time.process_time()
        try:
            found = CliRunner().invoke(app, ["plan", "recipe.yaml", "--no-probe"])
        finally:
            os.chdir(home)
    assert time.process_time() - started < MOST_SECONDS
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    assert found.exit_code in (0, 2)
    assert "Traceback" not in found.output
    if found.exit_code:
        said = found.stderr.removesuffix("\n").split("\n")
        assert found.stdout == ""
        assert 1 <= len(said) <= MOST_FAULTS + 1
        assert all(0 < len(line) <= LINE_CHARACTERS for line in said)


SOME = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@SOME
@given(broken_recipes())
def test_a_broken_recipe_is_planned_or_named(content: bytes) -> None:
    is_planned_or_named(content)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(broken_recipes())
def test_five_thousand_broken_recipes_are_planned_or_named(content: bytes) -> None:
    is_planned_or_named(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("base: starter/gpt2\n" + "# salt\n" * 15_000, "expected a recipe of at most 100 kB, found 105 kB"),
        ("extends: /dev/zero\n", "/dev/zero: expected a recipe file, found a folder or device"),
        ("extends: .\n", "expected a recipe file, found a folder or device"),
        ("extends: 0.yaml\n", "extends: expected a chain of at most 20 recipes, found more"),
        ('extends: "a\\0b"\n', "expected a recipe file, found nothing there"),
        ("".join(f"k{n}: 1\n" for n in range(3000)), "and 2,982 more"),
    ],
    ids=["size", "device", "folder", "chain", "NUL", "faults"],
)  # fmt: skip
def test_what_no_recipe_needs_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(30):
        Path(f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    Path("recipe.yaml").write_text(content)
    with pytest.raises(FtError) as refused:
        read_recipe("recipe.yaml")
    assert said in str(refused.value)
