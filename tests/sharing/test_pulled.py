"""hub:owner/name stands wherever a run may stand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hub_server import HubServer
from typer.testing import CliRunner

from ft_toolkit import compare, rescoring, shipped
from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.finetune import finetune
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.publish import push
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.sharing.pulled import open_run
from sharing.loopback import BASES, QUIET, plan_of, point_at


def test_a_run_on_a_public_text_is_judged_again_and_its_trained_text_refused(
    hub: HubServer,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    commit = hub.add("models", BASES["gpt2"], checkpoints["gpt2"])
    values: dict[str, Any] = {"name": "public", "base": f"{BASES['gpt2']}@{commit}"}
    split = {"validation": 0.02, "test": 0.03}
    values |= {"judging": {"general": None}, "corpus": {"source": "package:italian-cooking", "split": split}}
    values |= {"training": {"steps": 1, "block_tokens": 32, "batch_tokens": 64}}
    run = finetune(Recipe.model_validate(values), tmp_path / "runs", screen=QUIET)
    push(plan_of(run), QUIET)
    app = typer.Typer()
    app.command()(compare.main)
    done = CliRunner().invoke(app, ["hub:me/x-lora", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["comparisons"][0]["corpora"]
    assert found == json.loads((run.folder / "comparison.json").read_text())["corpora"]

    trained = next(row["source"] for row in run.read_table("documents.parquet") if row["split"] == "train")
    text = shipped.corpus("italian-cooking") / trained
    with pytest.raises(FtError, match="was not trained on"):
        rescoring.compare_run(open_run("hub:me/x-lora"), str(text), screen=QUIET)


def test_the_metric_takes_a_run_from_the_hub_and_says_what_it_says_here(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    push(plan_of(run), QUIET)
    texts = ["Wash your hands before you eat."]
    places = (run.folder, "hub:me/x-lora")
    here, there = (DomainPerplexity(place).compute(predictions=texts) for place in places)
    assert there == here


def test_of_a_pulled_run_the_weights_are_known_to_be_those_that_were_trained(
    hub: HubServer, finished_run: Callable[[str], Run], tmp_path: Path
) -> None:
    run = finished_run("gpt2")
    push(plan_of(run), QUIET)
    pulled = open_run("hub:me/x-lora")
    name = "adapter/adapter_model.safetensors"
    assert pulled.facts["files"][name] == run.facts["files"][name]
    pulled.check_trained()  # adapter_config.json was rewritten on its way, and counts as it was pulled
    with (pulled.folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityFailed, match="expected the file that was trained"):
        rescoring.compare_run(pulled, screen=QUIET)


def test_weights_that_were_exchanged_on_the_hub_are_refused(
    hub: HubServer, finished_run: Callable[[str], Run], tmp_path: Path
) -> None:
    plan = plan_of(finished_run("gpt2"))
    weights = plan.files["adapter_model.safetensors"]
    weights.write_bytes(weights.read_bytes() + b" ")
    push(plan, QUIET)
    with pytest.raises(IntegrityFailed, match="expected the file that was trained"):
        open_run("hub:me/x-lora").check_trained()


def test_text_of_this_machine_is_not_read_whatever_its_name(
    hub: HubServer,
    finished_run: Callable[[str], Run],
    small_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    monkeypatch.chdir(small_corpus.parent)  # recipe.yaml on the Hub says `medicine`, the folder's name
    told: list[str] = []
    run = open_run("hub:me/x-lora", told.append)
    assert run.read_table("documents.parquet") == [] and "cannot be checked" in told[0]
    assert not Path(run.recipe.corpus.source).exists()
    with pytest.raises(FtError, match=r"expected the held-out text, found no .* or use --on"):
        rescoring.compare_run(run, screen=QUIET)


def spoil(hub: HubServer, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the recipe.yaml of me/x-lora as a stranger may."""
    folder = hub.repositories["models", "me/x-lora"].branches["main"].folder
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    change(recipe)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    hub.add("models", "me/x-lora", folder)


@pytest.mark.parametrize(
    "base", ["../there", "./there", "there", "runs/foo", "model.gguf", "/etc", "~/x", "a/../b"]
)
def test_a_base_of_this_machine_is_refused_in_one_line(
    base: str,
    hub: HubServer,
    finished_run: Callable[[str], Run],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    working = tmp_path / "working"
    for place in (tmp_path / "there", working / "there", working / "runs/foo", working / "b"):
        shutil.copytree(checkpoints["gpt2"], place)
    (working / "model.gguf").write_text("GGUF")
    monkeypatch.chdir(working)
    spoil(hub, lambda recipe: recipe.update(base=base))
    with pytest.raises(FtError, match=r"hub:me/x-lora, base: expected a starter, a Hub id, or its own base/"):
        open_run("hub:me/x-lora")


def test_a_folder_that_later_bears_the_base_s_name_is_not_taken_for_it(
    hub: HubServer,
    finished_run: Callable[[str], Run],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    open_run("hub:me/x-lora")
    shutil.copytree(checkpoints["bert"], tmp_path / BASES["gpt2"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FtError, match=r"a place of this machine too\. Change to another working folder"):
        open_run("hub:me/x-lora")


def test_a_general_text_of_this_machine_is_not_read(
    hub: HubServer, finished_run: Callable[[str], Run], small_corpus: Path
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    spoil(hub, lambda recipe: recipe["judging"].update(general=str(small_corpus)))
    told: list[str] = []
    assert open_run("hub:me/x-lora", told.append).recipe.judging.general is None
    assert "medicine, is not here" in told[0]


def test_a_revision_is_pulled_as_it_was_and_a_missing_one_is_named(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    first = push(plan_of(run), QUIET).commit
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    recipe["publish"]["tags"] = ["second"]
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    push(plan_of(Run.open(run.folder)), QUIET)
    assert open_run(f"hub:me/x-lora@{first}").recipe.publish.tags == ["medical"]
    assert open_run("hub:me/x-lora").recipe.publish.tags == ["second"]
    with pytest.raises(FtError, match="me/x-lora: expected that revision, found none of that name"):
        open_run("hub:me/x-lora@nowhere")


def test_what_was_pulled_once_is_there_without_a_network(
    hub: HubServer, finished_run: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    there = open_run("hub:me/x-lora")
    with HubServer() as gone:
        pass
    point_at(monkeypatch, gone, tmp_path / "cache")
    assert open_run("hub:me/x-lora").folder == there.folder
    with pytest.raises(FtError, match="expected a copy in the cache, found none, and http"):
        open_run("hub:me/never-pulled")


def test_a_repository_that_ft_push_did_not_make_is_refused(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "adapter_config.json").write_text("{}")
    hub.add("models", "me/foreign", tmp_path / "foreign")
    with pytest.raises(FtError, match=r"hub:me/foreign: expected an adapter that ft push made, found no"):
        open_run("hub:me/foreign")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("comparison.json", "{}"),
        ("recipe.yaml", "key_of_the_future: 1"),
        ("recipe.yaml", "["),
        ("recipe.yaml", "5"),
        ("recipe.yaml", "name: x\nbase: starter/gpt2\nbase: starter/bert\ncorpus: {source: x}"),
        ("recipe.yaml", "name: &x x\nbase: starter/gpt2\ncorpus: {source: *x}"),
        ("recipe.yaml", "name: x\nbase: starter/gpt2\ncorpus: {source: x}\ntraining: {steps: yes}"),
        ("comparison.json", '{"run": 5}'),
    ],
)
def test_files_that_cannot_be_read_are_no_bug_of_ours(
    file: str, text: str, hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    folder = hub.repositories["models", "me/x-lora"].branches["main"].folder
    (folder / file).write_text(text)
    hub.add("models", "me/x-lora", folder)
    with pytest.raises(FtError, match=r"expected files that this ft-toolkit can read, found others \("):
        open_run("hub:me/x-lora")


def test_of_a_stranger_s_repository_no_pickle_is_taken_and_no_path_is_read(
    hub: HubServer, finished_run: Callable[[str], Run], small_corpus: Path
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    folder = hub.repositories["models", "me/x-lora"].branches["main"].folder
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["corpus"]["source"] = str(small_corpus)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    hub.add("models", "me/x-lora", folder)
    run = open_run("hub:me/x-lora")
    names = {path.name for path in run.adapter_folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert run.read_table("documents.parquet") == []


def test_a_folder_is_still_a_folder(finished_run: Callable[[str], Run]) -> None:
    run = finished_run("gpt2")
    assert open_run(str(run.folder)).folder == run.folder
