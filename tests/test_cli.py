"""The door: ft and make answer at once, list what there is, and keep secrets."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from click import Context, Group
from typer.main import get_command
from typer.testing import CliRunner, Result

from ft_toolkit import __version__, cli, compare, shipped
from ft_toolkit.cli import app
from ft_toolkit.examples import EXAMPLES
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
VERBS = {"finetune", "compare", "runs", "recipes", "doctor"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "pydantic", "numpy", "scipy", "pyarrow"}


def ft(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="ft")


def test_the_version_is_that_of_the_package() -> None:
    assert ft("--version").stdout == f"ft-toolkit {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_the_verbs(arguments: tuple[str, ...]) -> None:
    result = ft(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")} >= VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_each_verb_says_what_it_does(verb: str) -> None:
    result = ft(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: ft {verb}" in result.stdout
    assert len(result.stdout.split("\n\n")[1].strip()) > 20


def test_help_does_not_wait_for_heavy_libraries() -> None:
    loaded = "import sys; sys.argv[1:] = ['--help']\nfrom ft_toolkit.cli import main\n"
    loaded += "try: main()\nexcept SystemExit: print('LOADED', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)
    assert "Usage: ft" in ended.stdout
    modules = set(ended.stdout.split("LOADED")[1].split())
    assert "ft_toolkit.compare" in modules
    assert not HEAVY & modules


def test_a_wrong_option_is_a_mistake_that_can_be_mended() -> None:
    result = ft("finetune", "--stepz", "3")
    assert result.exit_code == 2
    assert "--stepz" in result.stderr
    assert "Traceback" not in result.output


def test_recipes_lists_the_gallery_with_what_each_does_and_costs() -> None:
    heads, *lines = ft("recipes").stdout.splitlines()
    assert re.split(" {2,}", heads) == ["recipe", "base", "corpus", "cost", "what it does"]
    listed = {line.split()[0]: re.split(" {2,}", line)[1:] for line in lines}
    assert set(listed) == {path.stem for path in shipped.recipe_folder().glob("*.yaml")}
    assert listed["quickstart"][:2] == ["starter/gpt2", "package:italian-cooking"]
    for name, (_, _, cost, description) in listed.items():
        text = " ".join(re.findall("^# *(.*)", (shipped.recipe_folder() / f"{name}.yaml").read_text(), re.M))
        assert text.startswith(description) and f"Costs {cost.removesuffix(' (estimate)')}" in text
        assert cost.endswith(" (estimate)") == ("This is an estimate" in text)


COMMANDS = {name for name in EXAMPLES if " " not in name}


def test_every_command_ends_its_help_with_two_examples() -> None:
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == COMMANDS - {
        "recipes"
    }
    for name, lines in EXAMPLES.items():
        shown = [line.strip() for line in ft(*name.split(), "--help").stdout.splitlines()]
        assert shown[-3:] == ["Examples:", *lines] and len(set(lines)) == 2


@pytest.mark.parametrize("line", sorted(set(chain(*EXAMPLES.values()))))
def test_an_example_works_as_pasted(line: str) -> None:
    """It parses, and what it names is there: recipes, their keys, texts that ship, runs of such recipes."""
    words = shlex.split(line)
    assert words[0] == "ft" or words[:3] == ["python", "-m", "ft_toolkit"]
    words = words[1:] if words[0] == "ft" else words[3:]
    command, context, name = get_command(app), None, "ft"
    while isinstance(command, Group) and words:
        context = Context(command, parent=context)
        name, command, words = command.resolve_command(context, words)
    context = command.make_context(name, words, parent=context)
    given = {name: value for name, value in context.params.items() if value}
    recipe = given.get("recipe") or given.get("source", "")
    if recipe and not recipe.startswith("package:"):
        assert recipe in {path.stem for path in shipped.recipe_folder().glob("*.yaml")}
        read_recipe(recipe, given.get("overrides") or ())
    for source in re.findall("package:([a-z-]+)", line):
        assert shipped.corpus(source).is_dir()
    known = {"runs", "runs/quickstart", "runs/quickstart-2", "runs/quickstart-bert"}
    places = [given.get(name, ()) for name in ("run", "runs", "places", "parts")]
    for place in chain(*([each] if isinstance(each, str | Path) else each for each in places)):
        assert str(place).partition(":")[0] in known or place == "Peel the garlic and"


@pytest.mark.parametrize(
    "line", [line for name in ("recipes", "recipes show", "plan", "runs") for line in EXAMPLES[name]]
)
def test_an_example_that_needs_no_run_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ft(*shlex.split(line)[1:]).exit_code == 0


def test_a_shell_completes_recipes_and_runs(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cooked", "cooled"):
        Run.create(tmp_path / "runs", tiny_recipe(name=name))
    (tmp_path / "notes.yaml").write_text("base: starter/gpt2")

    def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        asked = {"_FT_COMPLETE": "complete_bash"} | words
        return CliRunner().invoke(app, [], prog_name="ft", env=asked).stdout.split()

    assert completed("ft finetune quick") == ["quickstart", "quickstart-bert"]
    assert completed("ft plan no") == ["notes.yaml"]
    assert completed("ft try runs/coo") == ["runs/cooked", "runs/cooled"]
    assert completed("ft compare runs/cooked run") == ["runs/cooked", "runs/cooled"]
    assert completed("ft doc") == ["doctor"]


def test_recipes_show_explains_each_value_and_where_it_came_from() -> None:
    result = ft("recipes", "show", "quickstart", "--set", "training.epochs=7")
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["training.epochs"].split(maxsplit=3)[1:3] == ["7", "override"]
    assert lines["training.epochs"].endswith("  passes over the training part")
    assert re.search(r"quickstart.yaml:\d+", lines["base"])
    assert re.search(r" default +\S", lines["adapter.dropout"])
    assert all(len(line.split()) > 3 for line in lines.values())


def test_a_misspelt_recipe_is_told_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted in (("quikstart", ["Did you mean quickstart?"]), ("zzz", ["ft recipes lists them."])):
        monkeypatch.setattr(sys, "argv", ["ft", "finetune", name])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert not [words for words in wanted if words not in said]


def test_runs_lists_each_run_with_its_verdict_or_how_far_it_came(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    for name in ("begun", "gone", "judged", "trained", "tried"):
        Run.create(tmp_path, tiny_recipe(name=name))
    Run(tmp_path / "gone").record(failed="step 3: expected finite losses")
    nats = {"base_validation_nats": 5.0, "best_validation_nats": 4.25}
    Run(tmp_path / "tried").record(training={"steps": 3} | nats)
    Run(tmp_path / "trained").record(training={"steps": 3})
    change = {"nats_per_token": -0.1, "low": -0.2, "high": -0.05}
    comparison = {
        "verdict": {"headline": "judged: 10 % lower"},
        "protocol": {"metric": "perplexity"},
        "corpora": [{"kind": "held-out", "difference": change}],
    }
    Run(tmp_path / "judged").write_json("comparison.json", comparison)
    day = Run(tmp_path / "judged").facts["started_at"][:10]
    heads, *lines = ft("runs", "--runs", str(tmp_path)).stdout.splitlines()
    assert re.split(" {2,}", heads) == [
        *("run", "begun", "base", "method", "documents", "change (95 % CI)", "state"),
    ]
    known, figures = [day, "tiny-gpt2", "lora", "–"], "validation 5.0000 → 4.2500 nats"
    assert [re.split(" {2,}", line) for line in lines] == [
        [f"{tmp_path}/begun", *known, "–", "unfinished"],
        [f"{tmp_path}/gone", *known, "–", "step 3: expected finite losses"],
        [f"{tmp_path}/judged", *known, "−9.5 % (−18.1 … −4.9)", "judged"],
        [f"{tmp_path}/trained", *known, "–", "trained, not judged: ft compare finishes it"],
        [f"{tmp_path}/tried", *known, "–", f"trained, not judged ({figures}): ft compare finishes it"],
    ]
    found = json.loads(ft("runs", "--runs", str(tmp_path), "--json").stdout)
    assert found["schema"] == 1
    assert [each["state"] for each in found["runs"]][::2][:2] == ["unfinished", "judged"]
    assert found["runs"][2]["headline"] == "judged: 10 % lower"
    assert found["runs"][2]["percent"] == pytest.approx(-9.516, abs=1e-3)


def test_doctor_tells_what_there_is_and_never_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    result = ft("doctor")
    assert result.exit_code == 0
    found = dict(re.split(r" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert "secret" not in result.output
    assert found["Hub token"] == "present"
    assert found["network"] == "off: HF_HUB_OFFLINE is set"
    assert {
        "python",
        "torch",
        "threads",
        "device",
        "memory",
        "training precision",
        "float32 products",
    } <= set(found)


def test_doctor_without_a_token_says_when_one_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token here"))
    assert "none (needed only to push" in ft("doctor").stdout


def test_ft_compare_and_python_m_are_one_function() -> None:
    (registered,) = [command for command in app.registered_commands if command.name == "compare"]
    assert registered.callback is compare.main


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    own = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", "-C", str(REPOSITORY), "--no-print-directory", *arguments],
        env=own,
        capture_output=True,
        text=True,
    )


def test_make_alone_lists_the_verbs_and_installs_nothing() -> None:
    had_environment = (REPOSITORY / ".venv").exists()
    listed = make()
    assert listed.returncode == 0
    verbs = {line.split()[1] for line in listed.stdout.splitlines()}
    assert verbs >= {"setup", "finetune", "compare", "runs", "recipes", "doctor", "test", "check", "mutants"}
    assert all(len(line.split()) > 4 for line in listed.stdout.splitlines())
    assert (REPOSITORY / ".venv").exists() == had_environment


@pytest.fixture
def handed_to_ft(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Run a verb of make in an environment whose ft writes down its arguments; nothing is installed."""
    venv, seen = tmp_path / "venv", tmp_path / "seen"
    (venv / "bin").mkdir(parents=True)
    note = f"import json, sys; print(json.dumps(sys.argv[1:]), file=open({str(seen)!r}, 'a'))"
    for name, code in (("pip", "raise SystemExit('installing!')"), ("ft", note)):
        (venv / "bin" / name).write_text(f"#!{sys.executable}\n{code}\n")
        (venv / "bin" / name).chmod(0o755)
    (venv / ".installed").touch()

    def handed(*arguments: str) -> list[list[str]]:
        seen.unlink(missing_ok=True)
        done = make(f"VENV={venv}", *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in seen.read_text().splitlines()]

    return handed


def test_make_finetune_hands_recipe_and_values_to_ft(handed_to_ft: Callable[..., list[list[str]]]) -> None:
    assert handed_to_ft("finetune") == [["finetune", "quickstart"]]
    several = "SET=training.epochs=2  adapter.rank=4 name=x"
    assert handed_to_ft("finetune", "RECIPE=mine.yaml", several) == [
        ["finetune", "mine.yaml", "--set", "training.epochs=2", "--set", "adapter.rank=4", "--set", "name=x"]
    ]


def test_a_value_of_make_keeps_its_spaces_and_quotes(
    handed_to_ft: Callable[..., list[list[str]]],
) -> None:
    pairs = [
        "corpus.text='{title}  it\"s\\n{body}'",
        'adapter.targets=["a b", "c"]',
        "corpus.source=my notes",
    ]
    assert handed_to_ft("finetune", "RECIPE=my recipe.yaml", f"SET={' '.join(pairs)}") == [
        ["finetune", "my recipe.yaml", *(word for pair in pairs for word in ("--set", pair))]
    ]
    assert handed_to_ft("compare", "RUN=runs/it's mine", 'ON=a "b" *') == [
        ["compare", "runs/it's mine", "--on", 'a "b" *']
    ]
    given = ("RUN=runs/a b", "REPO=me/it's", "YES=1", "WITH_BASE=1", "PUSH_FLAGS=--license mit --pr")
    assert handed_to_ft("push", *given) == [
        ["push", "runs/a b", "--to", "me/it's", "--with-base", "--yes", "--license", "mit", "--pr"]
    ]


@pytest.mark.parametrize(
    "value", ["$(touch {})", "$(shell touch {})", "`touch {}`", "'; touch {}; '", "$$(touch {})"]
)
@pytest.mark.parametrize(
    ("verb", "variables"),
    [("finetune", ("RECIPE", "SET")), ("compare", ("RUN", "ON")), ("push", ("RUN", "REPO"))],
)
def test_a_value_of_make_is_never_executed(
    value: str,
    verb: str,
    variables: tuple[str, ...],
    handed_to_ft: Callable[..., list[list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = value.format(tmp_path / "executed")
    for variable in variables:
        others = {"RUN=x"} if verb != "finetune" and variable != "RUN" else set()
        given = f"name={written}" if variable == "SET" else written
        for named in ([f"{variable}={given}"], []):  # on make's own line, and from the environment
            with monkeypatch.context() as patch:
                if not named:
                    patch.setenv(variable, given)
                ((*_, last),) = handed_to_ft(verb, *others, *named)
            assert last == given
        assert not (tmp_path / "executed").exists()


def test_make_asks_for_a_run_on_stderr(handed_to_ft: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    handed_to_ft("runs")
    for verb in ("compare", "push"):
        asked = make(f"VENV={tmp_path / 'venv'}", verb)
        assert (asked.returncode, asked.stdout) == (2, "")
        assert f"Which run? make {verb} RUN=one of:" in asked.stderr


def test_python_m_ft_toolkit_is_ft() -> None:
    asked = [sys.executable, "-m", "ft_toolkit"]
    done = subprocess.run([*asked, "recipes", "show", "nope"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("recipe nope: expected a recipe file")
    assert "Usage: ft" in subprocess.run([*asked, "--help"], capture_output=True, text=True).stdout


def test_make_finetune_of_an_unknown_recipe_ends_with_where_to_look() -> None:
    if make("--question", "setup").returncode != 0:
        pytest.skip(".venv is not installed here, and a test installs nothing")
    ended = make("finetune", "RECIPE=nope")
    assert ended.returncode == 2
    assert "ft recipes lists them" in ended.stderr


def test_json_of_no_run_is_one_line_on_stderr_and_nothing_on_stdout(tmp_path: Path) -> None:
    result = ft("compare", str(tmp_path), "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(result.stdout)


def test_every_library_that_the_package_imports_is_declared() -> None:
    root = Path(__file__).resolve().parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*declared["dependencies"], *chain(*declared["optional-dependencies"].values())]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("-", "_") for line in wanted}
    names |= {"yaml", "sklearn", "llama_cpp"}  # imported under another name than they are installed by
    imported = set()
    for path in (root / "ft_toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {module.partition(".")[0] for module in modules}
    ours = imported - set(sys.stdlib_module_names) - {"ft_toolkit", "__future__"}
    assert ours - names == set()
