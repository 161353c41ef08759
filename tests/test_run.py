"""The run folder: never overwritten, written whole or not at all, and refused when it is too new."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from ft_toolkit.artefacts import read_json, value_sha256
from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.run import Run, list_runs
from ft_toolkit.sections import Recipe
from ft_toolkit.stages import list_artefact

TinyRecipe = Callable[..., Recipe]


def test_each_run_of_a_name_takes_the_next_free_number(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    names = [Run.create(tmp_path / "runs", tiny_recipe()).folder.name for _ in range(3)]
    assert names == ["tiny-gpt2", "tiny-gpt2-2", "tiny-gpt2-3"]


def test_a_new_run_holds_its_resolved_recipe_and_the_schema(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    run = Run.create(tmp_path, recipe)
    assert Recipe.model_validate(yaml.safe_load((run.folder / "recipe.yaml").read_text())) == recipe
    assert run.facts["schema"] == 1
    assert not run.is_finished


def test_facts_are_added_and_never_lost(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record(device="cpu", steps=3)
    run.record(steps=4)
    assert run.facts == {"device": "cpu", "steps": 4}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_json("comparison.json", {"old": 1})
    with pytest.raises(TypeError):
        run.write_json("comparison.json", {"new": object()})
    with pytest.raises(UnicodeEncodeError):
        run.write("comparison.json", "half a surrogate pair: \ud800")
    assert read_json(tmp_path / "comparison.json") == {"old": 1}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"id": "a#0", "tokens": 3, "text": None}, {"id": "b#0", "tokens": 4, "text": "tschüß\n"}]
    run = Run(tmp_path)
    run.write_table("scores/held-out.parquet", rows)
    assert run.read_table("scores/held-out.parquet") == rows
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["held-out.parquet"]


def test_a_line_of_metrics_is_on_disk_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2):
        run.append_metrics({"step": step})
        assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]) == {"step": step}


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=["Python", "safetensors", "quota"],
)
def test_a_full_disk_is_named_with_its_path_whichever_library_noticed(
    tmp_path: Path, raised: Exception
) -> None:
    with pytest.raises(FtError) as fault, Run(tmp_path).writing(tmp_path / "adapter"):
        raise raised
    assert (fault.value.where, fault.value.expected) == (str(tmp_path / "adapter"), "free disk space")


def test_another_mistake_while_writing_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), Run(tmp_path).writing(tmp_path / "adapter"):
        raise RuntimeError("shape mismatch")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FtError, match=r"no run\.json in it"):
        Run.open(tmp_path)


def test_a_newer_schema_is_refused_and_an_equal_one_is_not(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record(schema=1)
    Run.open(tmp_path)
    run.record(schema=2)
    with pytest.raises(FtError, match="expected schema 1 or older, found schema 2"):
        Run.open(tmp_path)


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1')
    with pytest.raises(FtError, match=r"run\.json: expected a JSON object, found a damaged file"):
        Run.open(tmp_path)


LOADED = {"base": "b" * 64, "config": "c" * 64, "tokenizer": "d" * 64}


@pytest.mark.parametrize("what", LOADED)
def test_a_base_that_changed_since_training_is_refused_by_what_changed(tmp_path: Path, what: str) -> None:
    run = Run(tmp_path)
    run.record(sha256=LOADED)
    run.check_base("gpt2", LOADED)
    with pytest.raises(FtError, match=rf"{what} gpt2: expected the {what} of training"):
        run.check_base("gpt2", LOADED | {what: "e" * 64})


def test_a_run_from_before_configs_were_recorded_is_known_by_weights_and_tokenizer(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record(sha256={"base": LOADED["base"], "tokenizer": LOADED["tokenizer"]})
    run.check_base("gpt2", LOADED)
    with pytest.raises(FtError, match="base gpt2: expected the base of training"):
        run.check_base("gpt2", LOADED | {"base": "e" * 64})


def test_a_number_of_run_json_that_was_damaged_is_noticed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.record(schema=1, training={"best_validation_nats": 4.125})
    assert run.facts == {"schema": 1, "training": {"best_validation_nats": 4.125}}
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("4.125", "4.025"))
    with pytest.raises(FtError, match=r"run\.json: expected the values that were written, found others"):
        _ = run.facts


def test_a_flipped_bit_of_a_table_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_column("known_text.parquet", "run", np.arange(99, dtype=np.uint64))
    list_artefact(run, "dataset", {})
    path = tmp_path / "known_text.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(FtError, match=r"known_text\.parquet: expected a Parquet table, found a damaged"):
            run.read_column("known_text.parquet", "run")


def test_whoever_works_on_a_run_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-00000004.unfinished").mkdir(parents=True)
    (tmp_path / ".run.json.77.unfinished").write_text('{"schema"')
    (tmp_path / "run.json").write_text("{}")
    run = Run(tmp_path)
    run.lock()
    run.unlock()
    assert {path.name for path in tmp_path.rglob("*")} - {".lock"} == {"checkpoints", "run.json"}


def test_a_recipe_that_says_other_than_what_was_trained_is_refused(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    run = Run.create(tmp_path, tiny_recipe())
    text = (run.folder / "recipe.yaml").read_text()
    run.write("recipe.yaml", text.replace("repo: null", "repo: me/mine"))  # where it goes may be changed
    assert Run(run.folder).recipe.publish.repo == "me/mine"
    run.write("recipe.yaml", text.replace("rank: auto", "rank: 9"))
    with pytest.raises(FtError, match=r"recipe\.yaml: expected the corpus, adapter and training sections"):
        _ = Run(run.folder).recipe


def test_a_run_from_before_near_duplicates_is_read_and_one_without_them_is_known(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    run = Run.create(tmp_path, recipe)
    older = recipe.model_dump(mode="json")
    del (
        older["corpus"]["near_duplicates"],
        older["corpus"]["keep_duplicates"],
        older["corpus"]["split"]["group"],
        older["adapter"]["base_precision"],
        older["adapter"]["strength"],
    )
    run.write("recipe.yaml", yaml.safe_dump(older))
    corpus = {key: older["corpus"][key] for key in ("text", "documents", "split")}
    decisive = {"adapter": older["adapter"], "training": older["training"], "corpus": corpus}
    run.record(recipe_sha256=value_sha256(decisive))  # as it was hashed then
    assert Run(run.folder).recipe == recipe
    for key in (
        "near_duplicates: null",
        "keep_duplicates: true",
        "base_precision: bfloat16",
        "strength: 0.8",
    ):
        changed = yaml.safe_dump(recipe.model_dump(mode="json"))
        name = key.partition(":")[0]
        run.write("recipe.yaml", re.sub(rf"{name}: \S+", key, changed))
        with pytest.raises(FtError, match="expected the corpus, adapter and training sections"):
            _ = Run(run.folder).recipe


def test_runs_are_listed_by_name(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    for name in ("b", "a"):
        Run.create(tmp_path, tiny_recipe(name=name))
    (tmp_path / "notes").mkdir()
    assert [run.folder.name for run in list_runs(tmp_path)] == ["a", "b"]
    assert list_runs(tmp_path / "nowhere") == []


# What was trained is known again by its hashes.

OF_B = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"  # sha256sum of the letter b


@pytest.fixture
def trained(tiny_recipe: TinyRecipe, tmp_path: Path) -> Run:
    """A run whose adapter/ holds two files, recorded."""
    run = Run.create(tmp_path, tiny_recipe())
    run.adapter_folder.mkdir()
    (run.adapter_folder / "adapter_config.json").write_text("{}")
    (run.adapter_folder / "adapter_model.safetensors").write_text("b")
    run.record(files=run.trained_files())
    return run


def test_every_saved_file_is_recorded_by_its_sha256(trained: Run) -> None:
    assert trained.facts["files"].keys() == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert trained.facts["files"]["adapter/adapter_model.safetensors"] == OF_B
    trained.check_trained()


def weights_changed(folder: Path) -> Path:
    (folder / "adapter_model.safetensors").write_text("c")
    return folder / "adapter_model.safetensors"


def config_changed(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text('{"r": 16}')
    return folder / "adapter_config.json"


def weights_gone(folder: Path) -> Path:
    (folder / "adapter_model.safetensors").unlink()
    return folder / "adapter_model.safetensors"


def folder_gone(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder / "adapter_config.json"


def a_tokenizer_beside_it(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text("{}")  # would read the text in place of the base's
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    "spoil", [weights_changed, config_changed, weights_gone, folder_gone, a_tokenizer_beside_it]
)
def test_an_adapter_that_is_not_the_one_that_was_trained_is_refused_by_the_name_of_its_file(
    trained: Run, spoil: Callable[[Path], Path]
) -> None:
    path = spoil(trained.adapter_folder)
    with pytest.raises(IntegrityFailed) as refused:
        trained.check_trained()
    assert refused.value.exit_code == 4
    assert refused.value.where == str(path)
    assert len(str(refused.value).splitlines()) == 1


def test_notes_and_hidden_files_beside_an_adapter_are_no_fault(trained: Run) -> None:
    for name in ("notes.md", ".DS_Store"):
        (trained.adapter_folder / name).write_text("mine")
    trained.check_trained()


def test_a_run_that_is_older_than_the_hashes_is_said_to_be_unchecked_and_not_refused(trained: Run) -> None:
    facts = {key: value for key, value in trained.facts.items() if key != "files"}
    trained.write_json("run.json", facts)
    told: list[str] = []
    trained.check_trained(told.append)
    assert len(told) == 1
    assert str(trained.folder) in told[0] and "cannot be checked" in told[0]


def test_an_adapter_is_checked_without_torch(trained: Run) -> None:
    code = (
        "import sys; from ft_toolkit.run import Run; Run.open(sys.argv[1]).check_trained(); "
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(trained.folder)], check=True)
