"""ft compare RUN --strength: the frontier of gain against harm, exact at both of its ends."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import How
from ft_toolkit.mix import Part, mix
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.strength import frontier

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Run]:
    folder, general = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("general")
    for number in range(9):
        (general / f"{number}.txt").write_text(f"A sentence of number {number}, on the weather of today.")
    made: dict[tuple[str, str], Run] = {}

    def make(family: str, method: str) -> Run:
        if (family, method) not in made:
            values: dict[str, Any] = {
                "name": f"{family}-{method}",
                "base": str(checkpoints[family]),
                "corpus": {"source": str(small_corpus)},
                "adapter": {"method": method},
                "training": {"steps": 4, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
                "judging": {"general": str(general), "protocol": "auto" if family == "gpt2" else "covering"},
            }
            made[family, method] = finetune(Recipe.model_validate(values), folder, Options(gate=False), QUIET)
        return made[family, method]

    return make


def ft(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


def points_of(run: Run, strengths: str) -> list[dict[str, Any]]:
    code, said = ft("compare", run.folder, "--strength", strengths, "--json")
    assert code == 0
    return [point["comparison"] for point in json.loads(said)["points"]]


def judged_alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """All but the training sample, which a frontier leaves out, is equal: intervals and p-values, too."""
    kept = [corpus for corpus in expected["corpora"] if corpus["kind"] != "train"]
    assert [corpus["kind"] for corpus in found["corpora"]] == ["held-out", "general"]
    return found["drift"] == expected["drift"] and all(
        each[key] == other[key]
        for each, other in zip(found["corpora"], kept, strict=True)
        for key in ("base", "adapter", "difference")
    )


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_at_one_a_frontier_is_the_verdict_and_at_zero_the_base(
    family: str, runs: Callable[[str, str], Run]
) -> None:
    run = runs(family, "rslora" if family == "gpt2" else "lora")
    none, whole = points_of(run, "1,0")
    assert judged_alike(whole, run.comparison)
    for corpus in none["corpora"]:
        assert corpus["adapter"] == corpus["base"]
        assert {corpus["difference"][key] for key in ("nats_per_token", "low", "high")} == {0.0}
    assert none["drift"]["kl_nats"]["value"] == 0 and none["drift"]["same_top1"]["value"] == 1


def test_between_them_stands_what_a_mixture_is_judged_to_be(
    runs: Callable[[str, str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_toolkit.mix._prove", lambda *given: None)  # the gate: tests/test_mix.py
    run = runs("gpt2", "rslora")
    (found,) = points_of(run, "0.7")
    assert judged_alike(found, mix([Part(run, 0.7)], tmp_path / "mixed", screen=QUIET).comparison)


def test_scoring_every_strength_anew_gives_the_same_as_the_runs_own_scores(
    runs: Callable[[str, str], Run],
) -> None:
    run = runs("gpt2", "rslora")
    kept, anew = (frontier(run, [0.0, 1.0], How(), screen=QUIET, rescore=each) for each in (False, True))
    for point, other in zip(kept.points, anew.points, strict=True):
        assert point.validation == other.validation
        for corpus, again in zip(point.comparison.corpora, other.comparison.corpora, strict=True):
            assert corpus.difference == again.difference


def test_the_strength_is_chosen_on_validation_alone_and_the_last_line_writes_it(
    runs: Callable[[str, str], Run], tmp_path: Path
) -> None:
    run = runs("gpt2", "rslora")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    code, said = ft("compare", run.folder, "--strength", "0,0.5,1")
    assert code == 0
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    assert (
        "change of perplexity and drift by strength" in said
        and "0.0 % (0.0 … 0.0 %)" in said
        and "best on validation: 1, " in said
    )
    command = shlex.split(said.splitlines()[-1].split("  ")[0])
    assert command == ["ft", "mix", f"{run.folder}:0.5", "--to", f"{run.folder}-0.5"]
    found = frontier(run, [0.0, 0.5], How(), screen=QUIET)
    best = min(found.points, key=lambda point: point.validation.nats_per_token)  # type: ignore[union-attr]
    assert found.chosen == best.strength == 0.5
    assert found.words()[-1].startswith(f"ft mix {run.folder}:0.5 ") and "writes it" in found.words()[-1]


def test_a_method_without_a_strength_is_refused(runs: Callable[[str, str], Run], tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(runs("gpt2", "rslora").folder, tmp_path / "dora"))
    config = run.adapter_folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(FtError, match=r"a LoRA adapter whose update is a plain product .*found use_dora"):
        frontier(run, [0.5], How(), screen=QUIET)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--strength", "a"], "numbers of 0 to 2"),
        (["--strength", "0,nan"], "numbers of 0 to 2"),
        (["--strength", "-1"], "numbers of 0 to 2"),
        (["--strength", "1", "runs/other"], "2 runs"),
        (["--strength", "1", "--on", "x.txt"], "--on"),
        (["--strength", "1", "--require-gain", "5%"], "--require-gain"),
    ],
)
def test_what_says_nothing_of_a_strength_is_refused_in_one_line(options: list[str], found: str) -> None:
    code, said = ft("compare", "runs/quickstart", *options)
    assert code == 2 and len(said.splitlines()) == 1 and "--strength" in said and found in said
