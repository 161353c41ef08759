"""ft compare: a finished run scored again, on its own held-out text or on other text."""

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

import jsonschema
import pytest
from typer.testing import CliRunner

from ft_toolkit import shipped
from ft_toolkit.artefacts import read_json
from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_run
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

TinyRecipe = Callable[..., Recipe]
QUIET = Screen(quiet=True)
SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "comparison.schema.json").read_text())


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the corpus, for tests that change it and put it back."""
    return Path(shutil.copytree(small_corpus, tmp_path_factory.mktemp("own") / "medicine"))


@pytest.fixture(scope="module")
def judged(checkpoints: dict[str, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    values = {
        "name": "judged",
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(corpus)},
        "training": {"steps": 4, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
        "judging": {"general": None},
    }
    recipe = Recipe.model_validate(values)
    return finetune(recipe, tmp_path_factory.mktemp("judged"), screen=QUIET)


@pytest.fixture
def a_copy(judged: Run, tmp_path: Path) -> Run:
    """The judged run in a folder that a test may change."""
    return Run.open(shutil.copytree(judged.folder, tmp_path / "judged"))


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    folder = tmp_path / "cooking"
    folder.mkdir()
    for path in sorted(shipped.corpus("italian-cooking").glob("*.md"))[:8]:
        shutil.copy(path, folder)
    return folder


def numbers(run: Run) -> dict[str, Any]:
    kept = dict(read_json(run.folder / "comparison.json"))
    del kept["verdict"]
    return kept


def held_out(comparison: dict[str, Any]) -> dict[str, Any]:
    return next(dict(corpus) for corpus in comparison["corpora"] if corpus["kind"] == "held-out")


def first_of(run: Run, split: str) -> dict[str, Any]:
    return next(row for row in run.read_table("documents.parquet") if row["split"] == split)


def test_a_run_scored_again_has_exactly_the_numbers_of_training(judged: Run) -> None:
    assert compare_run(Run.open(judged.folder), screen=QUIET).as_dict() == numbers(judged)


@pytest.fixture(scope="module")
def json_of_ft_compare(judged: Run) -> str:
    result = CliRunner().invoke(app, ["compare", str(judged.folder), "--json"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_stands_alone_on_stdout(json_of_ft_compare: str, judged: Run) -> None:
    assert json.loads(json_of_ft_compare) == {"schema": 7, "comparisons": [numbers(judged)]}


def test_json_keeps_to_its_published_schema(json_of_ft_compare: str, judged: Run) -> None:
    jsonschema.validate(json.loads(json_of_ft_compare), SCHEMA)
    kept = read_json(judged.folder / "comparison.json")
    jsonschema.validate({"schema": 7, "comparisons": [kept]}, SCHEMA)


def test_python_m_and_ft_say_the_same_in_another_process(json_of_ft_compare: str, judged: Run) -> None:
    command = [sys.executable, "-m", "ft_toolkit.compare", str(judged.folder), "--json"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == json_of_ft_compare


def test_a_finished_run_is_never_written_again(a_copy: Run) -> None:
    before = {path: path.read_bytes() for path in a_copy.folder.rglob("*") if path.is_file()}
    compare_run(a_copy, screen=QUIET)
    assert {path: path.read_bytes() for path in a_copy.folder.rglob("*") if path.is_file()} == before


def test_the_verdict_of_a_masked_run_is_found_again_under_the_name_of_its_own_metric(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    run = finetune(tiny_recipe("bert", training={"steps": 2}), tmp_path, screen=QUIET)
    found = compare_run(Run.open(run.folder), screen=QUIET).as_dict()
    assert found == numbers(run)
    totals = held_out(found)["base"]
    pseudo = math.exp(totals["nll_nats"] / totals["tokens"])
    assert held_out(found)["base_pseudo_perplexity"] == pytest.approx(pseudo)
    assert "base_perplexity" not in held_out(found)
    jsonschema.validate({"schema": 7, "comparisons": [found]}, SCHEMA)
    mixed = found | {"corpora": [corpus | {"base_perplexity": pseudo} for corpus in found["corpora"]]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 7, "comparisons": [mixed]}, SCHEMA)


def test_other_text_is_scored_in_place_of_the_held_out(judged: Run, unseen: Path) -> None:
    comparison = compare_run(judged, str(unseen), screen=QUIET).as_dict()
    assert [(c["corpus"], c["kind"]) for c in comparison["corpora"]] == [("cooking", "other")]
    assert comparison["corpora"][0]["difference"]["documents"] == 8
    assert comparison["gap"] is None
    assert str(unseen) not in json.dumps(comparison)


def test_a_held_out_file_scored_alone_has_the_totals_of_the_run(judged: Run, corpus: Path) -> None:
    test_document = first_of(judged, "test")
    comparison = compare_run(judged, str(corpus / test_document["source"]), screen=QUIET)
    rows = [row for row in judged.read_table("scores/documents.parquet") if row["split"] == "held-out"]
    mine = {row["side"]: row for row in rows if row["document"] == test_document["id"]}
    found = comparison.corpora[0]
    assert found.base.nll_nats == pytest.approx(mine["base"]["nll_nats"], abs=1e-3)
    assert found.adapter.nll_nats == pytest.approx(mine["adapter"]["nll_nats"], abs=1e-3)
    assert found.base.tokens == mine["base"]["tokens"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_text_that_a_run_was_trained_on_is_refused_by_name(
    judged: Run, corpus: Path, unseen: Path, split: str
) -> None:
    trained = first_of(judged, split)
    shutil.copy(corpus / trained["source"], unseen)
    with pytest.raises(FtError) as fault:
        compare_run(judged, str(unseen), screen=QUIET)
    assert fault.value.found == f"1 of 9 in its {split} part, first {trained['source']}#0"


def test_trained_paragraphs_are_known_again_inside_their_file(
    tiny_recipe: TinyRecipe, small_corpus: Path, tmp_path: Path
) -> None:
    in_pieces = {"source": str(small_corpus), "documents": "paragraph"}
    run = finetune(
        tiny_recipe(corpus=in_pieces, training={"steps": 1}),
        tmp_path,
        options=Options(judge=False, gate=False),
        screen=QUIET,
    )
    trained = first_of(run, "train")
    with pytest.raises(FtError, match="was not trained on"):
        compare_run(run, str(small_corpus / trained["source"]), screen=QUIET)


def test_training_text_with_another_newline_or_cut_or_joined_otherwise_is_refused(
    judged: Run, corpus: Path, tmp_path: Path
) -> None:
    trained = [row for row in judged.read_table("documents.parquet") if row["split"] == "train"][:3]
    texts = [(corpus / row["source"]).read_text() for row in trained]
    others = [
        texts[0].rstrip() + "\r\n\r\n",
        "\n".join(texts),
        texts[0][len(texts[0]) // 3 :],
        " ".join(texts[1].split()),
    ]
    for number, text in enumerate(others):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
        with pytest.raises(FtError, match="was not trained on"):
            compare_run(judged, str(tmp_path / f"{number}.txt"), screen=QUIET)
    rows = [{"text": line} for line in texts[2].split("\n") if line.strip()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FtError) as fault:
        compare_run(judged, str(tmp_path / "rows.jsonl"), screen=QUIET)
    assert "% of rows.jsonl" in fault.value.found


def test_a_run_of_an_older_release_is_judged_with_a_word_about_its_documents(
    a_copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = a_copy.read_table("documents.parquet")
    old = [{k: v for k, v in row.items() if k not in ("group", "text_sha256")} for row in rows]
    for row, new in zip(old, rows, strict=True):
        row["sha256"] = new["text_sha256"]
    a_copy.write_table("documents.parquet", old)
    (a_copy.folder / "known_text.parquet").unlink()
    a_copy.write_json("run.json", {k: v for k, v in a_copy.facts.items() if k != "artefacts"})
    comparison = compare_run(a_copy, screen=Screen()).as_dict()
    assert held_out(comparison)["difference"] == held_out(numbers(a_copy))["difference"]
    assert "is of an older ft-toolkit" in capsys.readouterr().err


def test_pieces_of_files_are_judged_by_file(
    tiny_recipe: TinyRecipe, small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_pieces = {"source": str(small_corpus), "documents": "paragraph"}
    run = finetune(
        tiny_recipe(corpus=in_pieces, training={"steps": 1}), tmp_path, options=Options(gate=False)
    )
    found = held_out(numbers(run))["difference"]
    rows = [row for row in run.read_table("documents.parquet") if row["split"] == "test"]
    assert found["groups"] == len({row["source"] for row in rows}) == len({row["group"] for row in rows})
    assert found["documents"] == len(rows) > found["groups"]
    assert "the interval is over groups" in capsys.readouterr().out


def test_a_newer_schema_is_refused(a_copy: Run) -> None:
    a_copy.record(schema=2)
    with pytest.raises(FtError) as fault:
        Run.open(a_copy.folder)
    assert (fault.value.expected, fault.value.found) == ("schema 1 or older", "schema 2")
    assert "Upgrade" in fault.value.fix


def test_changed_and_missing_documents_are_named_and_their_kept_text_is_scored(
    judged: Run, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, missing = [row for row in judged.read_table("documents.parquet") if row["split"] == "test"][:2]
    texts = {row["source"]: (corpus / row["source"]).read_text() for row in (changed, missing)}
    try:
        (corpus / changed["source"]).write_text("Something else altogether.")
        (corpus / missing["source"]).unlink()
        comparison = compare_run(Run.open(judged.folder), screen=Screen())
    finally:
        for name, text in texts.items():
            (corpus / name).write_text(text)
    said = capsys.readouterr().err
    assert "2 documents changed or are missing since training" in said
    assert changed["id"] in said
    assert missing["id"] in said
    assert comparison.as_dict() == numbers(judged)


def test_without_its_corpus_a_run_is_judged_on_the_text_it_kept(judged: Run, corpus: Path) -> None:
    away = corpus.rename(corpus.with_name("elsewhere"))
    try:
        comparison = compare_run(Run.open(judged.folder), screen=QUIET).as_dict()
    finally:
        away.rename(corpus)
    assert held_out(comparison) == held_out(numbers(judged))
    assert [found["kind"] for found in comparison["corpora"]] == ["held-out"]  # trained text is not kept
    assert comparison["gap"] is None


def test_without_corpus_and_kept_text_nothing_is_made_up(
    tiny_recipe: TinyRecipe, corpus: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(corpus, tmp_path / "corpus")
    recipe = tiny_recipe(corpus={"source": str(own)}, judging={"keep_text": False}, training={"steps": 1})
    run = finetune(recipe, tmp_path / "runs", options=Options(judge=False, gate=False), screen=QUIET)
    shutil.rmtree(own)
    with pytest.raises(FtError, match="Put the corpus back"):
        compare_run(run, screen=QUIET)


def test_several_runs_are_compared_in_their_order(judged: Run, a_copy: Run) -> None:
    twin = a_copy.folder.rename(a_copy.folder.with_name("twin"))
    result = CliRunner().invoke(app, ["compare", str(twin), str(judged.folder), "--json"])
    names = [comparison["name"] for comparison in json.loads(result.stdout)["comparisons"]]
    assert names == ["twin", "judged"]


def test_an_adapter_of_another_base_is_refused(
    a_copy: Run, tiny_recipe: TinyRecipe, checkpoints: dict[str, Path]
) -> None:
    recipe = (a_copy.folder / "recipe.yaml").read_text()
    assert str(checkpoints["gpt2"]) in recipe
    a_copy.write("recipe.yaml", recipe.replace(str(checkpoints["gpt2"]), str(checkpoints["bert"])))
    with pytest.raises(FtError, match="expected the base of training"):
        compare_run(Run.open(a_copy.folder), screen=QUIET)


def ft_compare(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return done.exit_code, done.output


def test_out_saves_the_comparison_and_the_scores_that_it_rests_on(
    judged: Run, unseen: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "kept"
    second = tmp_path / "one.txt"
    second.write_text("A soup wants salt, time and a lid.")
    code, _ = ft_compare(judged.folder, "--on", unseen, "--on", second, "--out", out, "--require-gain", "99%")
    assert code == 3  # saved all the same
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "comparison.json",
        "scores/documents.parquet",
        "scores/tokens.parquet",
    ]
    kept, rows = read_json(out / "comparison.json"), Run(out).read_table("scores/documents.parquet")
    assert {row["corpus"] for row in rows if row["split"] == "other"} == {
        p["corpus"] for p in kept["corpora"]
    }
    assert {row["corpus"] for row in rows if row["split"] == "drift"} == {kept["drift"]["corpus"]}
    for part in kept["corpora"]:
        for side in ("base", "adapter"):
            of = ("other", part["corpus"], side)
            own = [row for row in rows if (row["split"], row["corpus"], row["side"]) == of]
            assert len(own) == part["difference"]["documents"]
            assert math.fsum(row["nll_nats"] for row in own) == pytest.approx(
                part[side]["nll_nats"], rel=1e-12
            )
    assert kept["verdict"]["headline"]
    assert [path.name for path in out.parent.iterdir()] == ["kept"]


def test_out_holds_what_the_run_folder_holds_and_several_runs_a_subfolder_each(
    judged: Run, a_copy: Run, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    out.mkdir()
    assert ft_compare(judged.folder, a_copy.folder, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["judged", "judged-2"]
    for place in (out / "judged", out / "judged-2"):
        assert read_json(place / "comparison.json") == read_json(judged.folder / "comparison.json")
        for name in ("documents", "tokens"):
            table = f"scores/{name}.parquet"
            assert Run(place).read_table(table) == judged.read_table(table)


@pytest.mark.parametrize("taken", ["a folder", "a file"])
def test_an_out_that_is_taken_is_refused_before_anything_is_scored(
    taken: str, judged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "taken"
    kept = out / "mine" if taken == "a folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    monkeypatch.setattr("ft_toolkit.judging.run_scores.scores_of", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr("ft_toolkit.rescoring.compare_runs", lambda *a, **k: pytest.fail("it was scored"))
    code, said = ft_compare(judged.folder, "--out", out)
    assert code == 2 and said.count("\n") == 1 and "expected a new or an empty folder, found" in said
    assert kept.read_text() == "mine"


def test_nothing_is_left_where_saving_fails(
    judged: Run, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Run, name: str, rows: object) -> Path:
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(Run, "write_table", full)
    code, said = ft_compare(judged.folder, "--on", unseen, "--out", tmp_path / "out" / "kept")
    assert code == 2 and "free disk space" in said
    assert list((tmp_path / "out").iterdir()) == []
