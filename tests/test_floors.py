"""The floor plan is law: a room imports from below only; rooms and functions stay small enough to be read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ft_toolkit

# From the ground up. A wing of a floor is written once, `text/*`; wings of one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "arguments",
        "artefacts",
        "completion",
        "examples",
        "references",
        "recipe_faults",
        "recipe_values",
        "shipped",
        "strict_yaml",
    ),
    (
        "recipe",
        "sections",
        "runtime",
        "progress",
        "progress_line",
        "run",
        "stages",
        "inputs",
        "session",
        "energy",
        "network",
        "auto",
        "halving",
    ),
    ("text/*", "models/*"),
    ("judging/*",),
    ("training/*",),
    ("sharing/*", "reporting/*"),
    (
        "finetune",
        "next_steps",
        "material",
        "forecast",
        "launch",
        "seeds",
        "compare",
        "corpus_look",
        "corpus_words",
        "rescoring",
        "run_models",
        "strength",
        "audit",
        "measuring",
        "report",
        "listing",
        "tryout",
        "tryout_answers",
        "tryout_page",
        "probe",
        "export",
        "doctor",
        "publish",
        "merge",
        "mix",
        "plan",
        "metrics",
        "preflight",
        "reuse",
        "ladder",
        "trials",
        "tune",
    ),
    ("cli",),
    ("__main__",),
)
LONGEST_ROOM = 350  # lines
LONGEST_FUNCTION = 60  # lines, from def to the last one
MOST_ARGUMENTS = 6  # self and cls not counted
NO_NAME_FOR_A_ROOM = {"utils", "common", "helpers", "base", "manager"}
PACKAGE = Path(ft_toolkit.__file__).parent
HUNG = set(re.findall(r"\((\w+\.main)\)$", (PACKAGE / "cli.py").read_text(), flags=re.M))  # compare.main …


def rooms(package: Path) -> dict[str, Path]:
    """Every source file below a package by its room's name: `recipe`, `text/blocks`."""
    files = sorted(path for path in package.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(package).with_suffix("").as_posix(): path for path in files}


def entry(room: str) -> str:
    """How FLOORS writes a room: its own name, or its wing's."""
    wing, slash, _ = room.rpartition("/")
    return f"{wing}/*" if slash else room


def floor(room: str) -> int | None:
    return next((height for height, entries in enumerate(FLOORS) if entry(room) in entries), None)


def imports(package: Path, room: str) -> set[str]:
    """The rooms that a room imports, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(rooms(package)[room].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = room.split("/")[: -node.level] if node.level else []
            start = [package.name, *above] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    known = rooms(package)
    inside = (name.removeprefix(f"{package.name}.").replace(".", "/") for name in names if "." in name)
    return {name for name in inside if name in known} - {room}


def breaches(package: Path) -> list[str]:
    """What breaks the floor plan, a sentence each."""
    found, same_floor = [], {}
    for room in rooms(package):
        height = floor(room)
        if height is None:
            found.append(f"{room}: on no floor; add it to FLOORS in tests/test_floors.py, and to the design")
            continue
        beside = set()
        for other in sorted(imports(package, room)):
            other_height = floor(other)
            if other_height is None or other_height > height:
                found.append(f"{room}: imports {other}, which is above it")
            elif other_height == height:
                beside.add(other)
                if "/" in room + other and entry(room) != entry(other):
                    found.append(f"{room}: imports {other}, another wing of its floor")
        same_floor[room] = beside
    try:
        TopologicalSorter(same_floor).prepare()
    except CycleError as error:
        found.append(f"a circle of imports: {' → '.join(error.args[1])}")
    return found


def test_every_room_stands_on_a_floor_and_imports_from_below_only() -> None:
    assert breaches(PACKAGE) == []


def test_every_entry_of_the_floor_plan_is_a_room_that_exists() -> None:
    assert {name for entries in FLOORS for name in entries} == {entry(room) for room in rooms(PACKAGE)}


def test_the_ground_knows_nothing_but_errors() -> None:
    ground = [room for room in rooms(PACKAGE) if floor(room) == 0]
    assert {room: imports(PACKAGE, room) for room in ground} == {
        "errors": set(),
        "arguments": {"completion"},
        "artefacts": {"errors"},
        "completion": {"shipped"},
        "examples": set(),
        "recipe_faults": set(),
        "recipe_values": set(),
        "shipped": {"errors"},
        "strict_yaml": {"errors"},
        "references": {"errors", "shipped"},
    }


def test_the_imports_that_everybody_knows_of_are_seen() -> None:
    assert {"shipped", "errors"} <= imports(PACKAGE, "references")  # `from ft_toolkit import …` too
    assert {"compare", "finetune", "doctor", "recipe"} <= imports(PACKAGE, "cli")  # inside functions too
    assert {"judging/token_scores", "rescoring"} <= imports(PACKAGE, "compare")  # TYPE_CHECKING too


@pytest.mark.parametrize("room", rooms(PACKAGE))
def test_a_room_can_be_read_in_one_sitting(room: str) -> None:
    lines = len(rooms(PACKAGE)[room].read_text().splitlines())
    assert lines <= LONGEST_ROOM, f"{room} has {lines} lines; give a part of it a room of its own"


def oversized(room: str, source: str) -> list[str]:
    """Functions that are too long or take too many arguments, a sentence each.

    The commands of the shell are none of them: their arguments are options, a help text each.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = f"{room}.{node.name}"
        is_command = room == "cli" and any("command(" in ast.unparse(d) for d in node.decorator_list)
        if is_command or name in HUNG:
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        listed = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments = sum(argument.arg not in ("self", "cls") for argument in listed)
        if lines > LONGEST_FUNCTION:
            found.append(f"{name} has {lines} lines; give a part of it a name of its own")
        if arguments > MOST_ARGUMENTS:
            found.append(f"{name} takes {arguments} arguments; name what travels together")
    return found


@pytest.mark.parametrize("room", rooms(PACKAGE))
def test_a_function_fits_on_a_screen_and_takes_six_arguments_at_most(room: str) -> None:
    assert oversized(room, rooms(PACKAGE)[room].read_text()) == []


def test_an_oversized_function_is_found_wherever_it_hides() -> None:
    seven = "a, b, /, c, d, *rest, e, f, g, **more"
    assert oversized("run", f"class Run:\n    def f(self, {seven}): ...") == [
        "run.f takes 7 arguments; name what travels together"
    ]
    assert oversized("run", "def f(a, b, c, d, e, g): ...") == []
    body = "    x = 1\n" * LONGEST_FUNCTION
    assert oversized("run", f"def g():\n    async def f():\n{body.replace('    x', '        x')}") == [
        "run.g has 62 lines; give a part of it a name of its own",
        "run.f has 61 lines; give a part of it a name of its own",
    ]
    assert oversized("run", f"def f():\n{body}".removesuffix("    x = 1\n")) == []
    command = f"@app.command()\n@one_line_errors()\ndef push({seven}): ..."
    assert oversized("cli", command) == [] and len(oversized("publish", command)) == 1


def test_no_room_is_named_after_nothing() -> None:
    parts = {part for room in rooms(PACKAGE) for part in room.split("/")}
    assert parts & NO_NAME_FOR_A_ROOM == set()


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_an_init_file_imports_nothing(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text()))
    assert [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)] == []


# --- the judge itself is judged, on houses built wrong on purpose -----------------------------------


def build(folder: Path, sources: Iterable[tuple[str, str]]) -> Path:
    package = folder / "ft_toolkit"
    for room, source in sources:
        path = package / f"{room}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


@pytest.mark.parametrize(
    ("room", "source", "breach"),
    [
        ("errors", "import ft_toolkit.recipe", "errors: imports recipe, which is above it"),
        ("errors", "from ft_toolkit import recipe", "errors: imports recipe, which is above it"),
        ("errors", "from ft_toolkit.recipe import x", "errors: imports recipe, which is above it"),
        ("errors", "from .recipe import x", "errors: imports recipe, which is above it"),
        ("errors", "def f():\n    from ft_toolkit import cli", "errors: imports cli, which is above it"),
        (
            "errors",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ft_toolkit.text.blocks as b",
            "errors: imports text/blocks, which is above it",
        ),
        (
            "text/blocks",
            "from ft_toolkit.models.token_nll import x",
            "text/blocks: imports models/token_nll, another wing of its floor",
        ),
        (
            "models/token_nll",
            "from ..text import blocks",
            "models/token_nll: imports text/blocks, another wing of its floor",
        ),
        ("recipe", "from ft_toolkit import surprise", "recipe: imports surprise, which is above it"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, room: str, source: str, breach: str) -> None:
    others = ("errors", "recipe", "cli", "text/blocks", "models/token_nll", "surprise")
    package = build(tmp_path, [*((other, "") for other in others), (room, source)])
    on_no_floor = "surprise: on no floor; add it to FLOORS in tests/test_floors.py, and to the design"
    assert sorted(breaches(package)) == sorted([breach, on_no_floor])


def test_a_circle_inside_a_floor_is_found_and_a_line_is_not(tmp_path: Path) -> None:
    line = [("recipe", ""), ("run", "import ft_toolkit.recipe"), ("cli", "from ft_toolkit.run import x")]
    assert breaches(build(tmp_path / "line", line)) == []
    circle = [("recipe", "def f():\n    import ft_toolkit.run"), *line[1:]]
    (found,) = breaches(build(tmp_path / "circle", circle))
    assert found.startswith("a circle of imports: ")
