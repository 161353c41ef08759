"""ft audit: a run's own scores tell what it remembers, and where it learnt; no model is loaded."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.audit import audit_scores
from ft_toolkit.judging.run_scores import read
from ft_toolkit.judging.vocabulary import read_vocabulary
from ft_toolkit.material import gathered
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
FT = "from ft_toolkit.cli import main; main()"
ALL = ["loss", "min-k 20 %", "error zone"]


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for family in ("gpt2", "bert"):
        values: dict[str, Any] = {
            "name": family,
            "base": str(checkpoints[family]),
            "corpus": {"source": str(small_corpus)},
            "training": {
                "steps": 2,
                "block_tokens": 32,
                "batch_tokens": 256,
                "learning_rate": 0.01,
                "replay": 0,
            },
            "judging": {"general": None, "keep_text": family == "gpt2"},
        }
        if family == "bert":
            values["judging"]["protocol"] = "covering"
        found[family] = finetune(Recipe.model_validate(values), folder, Options(gate=False), QUIET)
    return found


@pytest.fixture
def a_copy(runs: dict[str, Run], tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(runs["gpt2"].folder, tmp_path / "gpt2"))


def ft(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


def found_in(run: Run) -> dict[str, Any]:
    code, said = ft("audit", run.folder, "--json")
    assert code == 0
    whole = json.loads(said)
    assert whole["schema"] == 1
    return dict(whole["audit"])


def test_an_audit_needs_no_torch_and_says_in_words_and_tables_what_it_found(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    for name in ("torch", "transformers", "peft", "accelerate"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", FT, "audit", str(runs["gpt2"].folder)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "gpt2: memorised?  ",
        "attacks on 8 training and 8 held-out documents",
        "of 8 held-out documents: true positives at 1 % need 100, true positives at 0.1 % need 1,000",
        "proves no privacy",
        "verbatim continuations: ",
        "where it changed: held-out text",
        "how often the training text has the token",
        "place in the document",
        "word start",
        "without the ten most influential types",
        "gained most: '",
    ):
        assert words in done.stdout


def test_json_holds_every_figure_and_its_bands_add_up(runs: dict[str, Run]) -> None:
    found = found_in(runs["gpt2"])
    assert [each["name"] for each in found["membership"]["attacks"]] == ALL
    assert found["verbatim"]["tuned_train"]["documents"] == 8
    (bands,) = found["bands"]
    held_out = runs["gpt2"].comparison["corpora"][0]
    gain = held_out["base"]["nll_nats"] - held_out["adapter"]["nll_nats"]
    for division in ("frequency", "position", "token_kind"):
        assert math.fsum(band["gain_nats"] for band in bands[division]) == pytest.approx(gain, abs=1e-9)
    whole = bands["whole"]["difference"]["nats_per_token"]
    assert whole == pytest.approx(held_out["difference"]["nats_per_token"], abs=1e-12)


def test_a_masked_run_without_kept_text_is_audited_as_far_as_its_scores_go(runs: dict[str, Run]) -> None:
    found = found_in(runs["bert"])
    (bands,) = found["bands"]
    assert [each["name"] for each in found["membership"]["attacks"]] == ALL
    assert found["verbatim"] is None  # a masked model continues nothing
    assert bands["frequency"] and bands["position"]
    assert (bands["token_kind"], bands["gained_most"], bands["influence"]) == (None, None, None)
    code, said = ft("audit", runs["bert"].folder)
    assert code == 0
    assert "kinds of tokens are not known: the token ids were not kept (judging.keep_text: false)" in said


def test_an_audit_says_the_same_each_time_and_leaves_the_run_as_it_is(a_copy: Run) -> None:
    before = {path: path.read_bytes() for path in a_copy.folder.rglob("*") if path.is_file()}
    assert found_in(a_copy) == found_in(a_copy)
    assert {path: path.read_bytes() for path in a_copy.folder.rglob("*") if path.is_file()} == before


def test_tokens_bear_their_numbers_where_the_base_has_another_tokenizer_now(
    a_copy: Run, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoints["gpt2"], other)
    (other / "tokenizer.json").write_bytes((checkpoints["roberta"] / "tokenizer.json").read_bytes())
    recipe = (a_copy.folder / "recipe.yaml").read_text()
    for place, words in ((other, "is another one"), (tmp_path / "gone", "cannot be read")):
        (a_copy.folder / "recipe.yaml").write_text(recipe.replace(str(checkpoints["gpt2"]), str(place)))
        run = Run.open(a_copy.folder)
        vocabulary = read_vocabulary(run, read(run))
        assert isinstance(vocabulary, str) and words in vocabulary
        found = audit_scores(read(run), vocabulary)
        assert found.bands[0].token_kind is None and found.bands[0].gained_most is not None
        assert found.bands[0].gained_most[0].text.startswith("token ")


@pytest.mark.parametrize("what", ["unjudged", "without scores", "of another recipe", "another adapter"])
def test_a_run_whose_scores_do_not_hold_is_refused_in_one_line(what: str, a_copy: Run) -> None:
    if what == "unjudged":
        facts = {key: value for key, value in a_copy.facts.items() if key != "finished_at"}
        a_copy.write_json("run.json", facts)
    elif what == "without scores":
        (a_copy.folder / "scores" / "tokens.parquet").unlink()
    elif what == "of another recipe":
        recipe = (a_copy.folder / "recipe.yaml").read_text()
        (a_copy.folder / "recipe.yaml").write_text(recipe.replace("stride: null", "stride: 8"))
    else:
        with (a_copy.folder / "adapter" / "adapter_model.safetensors").open("ab") as file:
            file.write(b" ")
    code, said = ft("audit", a_copy.folder)
    assert code == (4 if what == "another adapter" else 2)
    assert "expected" in said.splitlines()[-1] and "Traceback" not in said


def test_a_run_with_its_own_tokenizer_is_attacked_but_not_taken_apart(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    scratch = {"method": "scratch", "tokenizer": "train"}
    run = finetune(tiny_recipe(adapter=scratch, training={"steps": 1}), tmp_path, Options(gate=False), QUIET)
    found = found_in(run)
    assert [each["name"] for each in found["membership"]["attacks"]] == ALL[:2]
    assert found["bands"] == []
    assert "a tokenizer of its own" in ft("audit", run.folder)[1]


def test_details_of_a_comparison_say_on_how_few_tokens_it_hangs(runs: dict[str, Run]) -> None:
    code, said = ft("compare", runs["gpt2"].folder, "--details")
    assert code == 0
    assert r"held-out text: ten token types make more than half of the gain, '\n', " in said


def test_the_models_are_asked_for_calibration_and_random_adapters(runs: dict[str, Run]) -> None:
    run = runs["gpt2"]
    code, said = ft("audit", run.folder, "--calibration", "--tokens", "300", "--null", "2", "--json")
    assert code == 0
    found = json.loads(said)["audit"]
    assert found["calibration"]["tokens"] == 300
    assert 0.25 <= found["calibration"]["tuned"]["temperature"]["value"] <= 4
    held_out = run.comparison["corpora"][0]["difference"]
    assert found["null"]["trained"]["nats_per_token"] == held_out["nats_per_token"]
    first, second = (each["nats_per_token"] for each in found["null"]["random"])
    assert first != second and min(first, second) > held_out["nats_per_token"]
    code, said = ft("audit", run.folder, "--calibration", "--tokens", "300", "--null", "1")
    assert code == 0
    assert "calibration on 300 tokens of " in said and "best temperature" in said
    assert "1 random adapter of this size: " in said


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_bias_pairs_are_compared_before_and_after(family: str, runs: dict[str, Run], tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    header = "sent_more,sent_less,stereo_antistereo,bias_type\n"
    path.write_text(header + "The nurse is a woman.,The nurse is a man.,stereo,gender\n" * 3)
    code, said = ft("audit", runs[family].folder, "--bias", path, "--json")
    assert code == 0
    found = json.loads(said)["audit"]["bias"]
    assert found["whole"]["pairs"] == 3 and [row["name"] for row in found["parts"]] == ["stereo", "gender"]
    assert "nurse" not in json.dumps(found)
    code, said = ft("audit", runs[family].folder, "--bias", path)
    assert code == 0 and found["words"] in said and "No sign here is not proof" in said
    path.write_text(header)
    code, said = ft("audit", runs[family].folder, "--bias", path)
    assert code == 2 and len(said.splitlines()) == 1 and "no row" in said


def test_planted_canaries_are_read_once_an_epoch_and_found_again(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_toolkit.text.canaries.CONTROLS", 63)
    recipe = tiny_recipe(judging={"canaries": 8}, adapter={"method": "full"}, training={"steps": 3})
    run = finetune(recipe, tmp_path, Options(gate=False), QUIET)
    rows = gathered(recipe, torch.device("cpu")).rows
    assert {f"canary#{n}" for n in range(8)} <= {name for row in rows for name in row.documents}
    assert not [row for row in run.read_table("documents.parquet") if "canary" in row["id"]]
    code, said = ft("audit", run.folder, "--canaries", "--json")
    assert code == 0
    found = json.loads(said)["audit"]["canaries"]
    assert (found["canaries"], found["controls"]) == (8, 63)
    assert all(0 <= bits <= 6 for bits in found["tuned"]["bits"])
    assert (
        "8 canaries among 63 sentences of their kind: exposure " in ft("audit", run.folder, "--canaries")[1]
    )


def test_a_run_without_canaries_has_none_to_look_for(runs: dict[str, Run]) -> None:
    code, said = ft("audit", runs["gpt2"].folder, "--canaries")
    assert code == 2 and "judging.canaries=8" in said
