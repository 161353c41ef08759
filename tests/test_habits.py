"""The habits of the repository: what its files promise to those who join is true."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from lowest import lowest
from pre_commit.languages import pygrep

import ft_toolkit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.*")]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def module(path: str) -> ModuleType:
    """A Python file outside of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


# --- make and the documents -------------------------------------------------------------------------


def verbs() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))


def test_every_verb_of_the_makefile_is_phony_and_listed_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    phony = re.search(r"^\.PHONY:(.*)", makefile, flags=re.M)
    assert phony is not None and set(phony[1].split()) == verbs()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\w+) +\S", listed, flags=re.M)) == verbs()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_only_verbs_that_exist(path: Path) -> None:
    commands = re.findall(
        r"(?:^|`|run: |command: |\$ )make ([a-z]+(?: [a-z]+)*)", path.read_text(encoding="utf-8"), flags=re.M
    )
    assert {verb for command in commands for verb in command.split()} <= verbs()


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)", prose, flags=re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if path.suffix == ".md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_contributing_tells_of_every_verb_for_developers() -> None:
    users = {"help", "setup", "finetune", "compare", "push", "runs", "recipes", "doctor", "clean"}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert verbs() - users <= set(re.findall(r"make ([a-z]+)", text))


def of_this_machine() -> re.Pattern[bytes]:
    """Paths that exist only where this checkout is, and package indexes other than PyTorch's."""
    folders = {ROOT.parent, Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix)} - {Path("/")}
    paths = "|".join(re.escape(str(folder)) for folder in folders)
    return re.compile(rf"(?<![\w.-])(?:{paths})/|index-url[ =]+https?://(?!download\.pytorch\.org/)".encode())


def test_no_file_names_the_machine_that_it_was_written_on() -> None:
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    speak_of_paths = {"ft_toolkit/sharing/leaks.py", "tests/sharing/test_leaks.py"}
    names = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()} - speak_of_paths
    pattern = of_this_machine()
    assert [name for name in sorted(names) if pattern.search((ROOT / name).read_bytes())] == []


def test_a_path_of_this_machine_and_a_foreign_index_are_seen() -> None:
    seen = of_this_machine().search
    assert seen(f"see {ROOT}/runs".encode()) and seen(f'"{tempfile.gettempdir()}/x"'.encode())
    host = "https://mirror.example.org"
    assert seen(f"--index-url={host}/simple".encode())
    assert not seen(b"--extra-index-url https://download.pytorch.org/whl/cpu ../shared/corpora docs/index.md")


@pytest.mark.parametrize(
    ("subject", "is_refused"), [("A cure of one line", 0), ("é" * 71, 0), ("x" * 72, 1), ("é" * 72, 1)]
)
def test_a_commit_with_a_long_subject_is_refused(subject: str, is_refused: int, tmp_path: Path) -> None:
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    (hook,) = (hook for hook in hooks if hook.get("stages") == ["commit-msg"])
    message = tmp_path / "message"
    message.write_text(f"{subject}\n\n{'a long body ' * 30}\n", encoding="utf-8")
    assert hook["language"] == "pygrep"
    assert pygrep.main([*hook["args"], hook["entry"], str(message)]) == is_refused


# --- versions and dependencies ----------------------------------------------------------------------


def test_every_library_that_the_package_imports_is_declared() -> None:
    imported = set()
    for path in (ROOT / "ft_toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    # an extra that compiles and is not installed everywhere
    distributions = {"llama_cpp": ["llama-cpp-python"]} | dict(packages_distributions())
    needed = {distributions.get(name, [name])[0] for name in imported - sys.stdlib_module_names}
    declared = [
        *PROJECT["dependencies"],
        *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
    ]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in declared}
    assert {name.lower().replace("_", "-") for name in needed} - {"ft-toolkit"} <= {
        name.replace("_", "-") for name in names
    }


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    assert lowest(["numpy>=2.0.2", "torch>=2.13,<2.14", "lm-eval==0.4.13"]) == [
        "lm-eval==0.4.13", "numpy==2.0.2", "torch==2.13",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="numpy: expected a lower bound"):
        lowest(["numpy"])
    assert len(lowest(PROJECT["dependencies"])) == len(PROJECT["dependencies"])


def test_the_version_is_the_same_wherever_it_stands() -> None:
    assert read(ROOT / "CITATION.cff")["version"] == ft_toolkit.__version__
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0] == "Unreleased" and len(headings) == len(set(headings))


def test_the_changelog_has_each_kind_of_change_once_a_version() -> None:
    for version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        kinds = re.findall(r"^### (\w+)", version, flags=re.M)
        assert kinds == sorted(set(kinds)), version.partition("\n")[0]


# --- workflows and templates ------------------------------------------------------------------------


def test_every_push_runs_ci_on_each_python_that_is_promised() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    tests = workflow["jobs"]["tests"]
    assert [step["run"] for step in tests["steps"] if "run" in step] == [".ci/run"]
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert tests["strategy"]["matrix"]["python"] == classifiers == ["3.11", "3.12", "3.13"]
    assert tests["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    commands = [each["command"] for each in workflow["jobs"]["dependencies"]["strategy"]["matrix"]["include"]]
    assert commands == ["make lowest", "make test CONSTRAINTS="]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_its_actions_are_pinned(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job.get("permissions", {})) <= {"id-token"}
        for step in [job, *job.get("steps", [])]:
            used = step.get("uses", "./")
            assert used.startswith("./") or re.search(r"@(v\d+|release/v\d+)$", used), used


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_has_what_a_form_needs(name: str) -> None:
    form = read(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) and all(
        field["attributes"]["label"] for field in fields
    )


# --- the website and the benchmarks -----------------------------------------------------------------


def pages(nav: list[Any]) -> list[str]:
    return [
        page
        for entry in nav
        for page in (
            [entry] if isinstance(entry, str) else [p for below in entry.values() for p in pages(below)]
        )
    ]


def test_the_website_has_every_page_and_names_no_other() -> None:
    shown = pages(read(ROOT / "mkdocs.yml")["nav"])
    made = module("docs/pages.py").made()
    assert sorted(shown) == sorted([*made, *(path.name for path in (ROOT / "docs").glob("*.md"))])
    assert "::: ft_toolkit.judging.verdict" in made["reference/judging.md"]


def test_a_bench_leaves_a_line_in_the_history_and_a_row_on_the_website(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    for seconds in (2.0, 1.5):
        sides = {
            "ours": {"median_seconds": seconds, "over_ours": 1.0},
            "peer": {"median_seconds": 3.0, "over_ours": 2.0},
        }
        module("bench/history.py").append({"causal": sides}, documents=200, rounds=3, history=history)
    first, second = (json.loads(line) for line in history.read_text().splitlines())
    assert set(first) == {
        "date", "commit", "cpu", "cores", "python", "versions", "documents", "rounds", "results"
    }  # fmt: skip
    assert (
        first["cpu"]
        and first["versions"]["torch"]
        and second["results"]["causal"]["ours"]["median_seconds"] == 1.5
    )
    page = module("docs/pages.py").benchmarks(history)
    assert page.index("1.50 (1.00) | 3.00 (2.00)") < page.index("2.00 (1.00) | 3.00 (2.00)")  # newest first
    assert page.count("<svg") == 1 and "\n\n" not in page[page.index("<svg") : page.index("</svg>")]
    assert module("docs/pages.py").benchmarks(tmp_path / "none").startswith("# Benchmarks")
