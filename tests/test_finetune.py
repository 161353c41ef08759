"""The whole journey on tiny real checkpoints: what a run leaves behind, and that every recipe key acts."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from conftest import POSITIONS
from peft import PeftModel
from safetensors.torch import load_file
from tainted import with_tainted
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_toolkit import cli, shipped
from ft_toolkit.artefacts import read_json
from ft_toolkit.compare import compare_from
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.unseen import recovered
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_run
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

TinyRecipe = Callable[..., Recipe]
SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "comparison.schema.json").read_text())
COLUMNS = ["corpus", "split", "document", "group", "side", "nll_nats", "tokens", "bytes", "words"]


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine recipes, as general text for a model of medicine."""
    folder = tmp_path_factory.mktemp("general") / "cooking"
    folder.mkdir()
    for path in sorted(shipped.corpus("italian-cooking").glob("*.md"))[:9]:
        (folder / path.name).write_text(path.read_text())
    return folder


@dataclass
class Finished:
    run: Run
    recipe: Recipe
    said: str


@pytest.fixture(scope="module")
def finished(
    checkpoints: dict[str, Path],
    small_corpus: Path,
    other_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """One judged run, for all tests that only read it."""
    values = {
        "name": "medicine",
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(small_corpus)},
        "training": {"steps": 4, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01, "replay": 0},
        "judging": {"general": str(other_text)},
    }
    recipe = Recipe.model_validate(values)
    run = finetune(recipe, tmp_path_factory.mktemp("finished") / "runs", screen=Screen(quiet=True))
    return Finished(run, recipe, (run.folder / "run.log").read_text())


def corpus_texts(small_corpus: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in small_corpus.iterdir()}


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_finished_run_holds_all_that_a_later_stage_reads(finished: Finished) -> None:
    names = {path.relative_to(finished.run.folder).as_posix() for path in finished.run.folder.rglob("*")}
    assert names == {
        "recipe.yaml",
        "run.json",
        "run.log",
        ".lock",
        "integrity.json",
        "documents.parquet",
        "known_text.parquet",
        "metrics.jsonl",
        "comparison.json",
        "report.html",
        "adapter",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "scores",
        "scores/documents.parquet",
        "scores/tokens.parquet",
    }


def test_the_recipe_is_kept_as_resolved(finished: Finished) -> None:
    kept, asked = Run.open(finished.run.folder).recipe, finished.recipe
    assert (kept.base, kept.corpus, kept.judging) == (asked.base, asked.corpus, asked.judging)
    assert kept.training == asked.training
    assert (kept.adapter.rank, kept.adapter.alpha) == (8, 16)  # auto, for a few tokens and a narrow model
    text = (finished.run.folder / "recipe.yaml").read_text()
    for default in ("rank: 8", "patience: 3", "keep_text: true", "validation: 0.1"):
        assert default in text


def test_run_json_says_with_what_on_what_and_how_the_run_was_made(finished: Finished) -> None:
    facts = finished.run.facts
    assert facts["schema"] == 1
    assert {"python", "torch", "transformers", "peft", "ft-toolkit"} <= set(facts["versions"])
    assert set(facts["sha256"]) == {"base", "config", "tokenizer", "corpus", "split"}
    assert all(len(digest) == 64 for digest in facts["sha256"].values())
    sizes = {"train": 28, "validation": 4, "test": 8}
    assert facts["documents"] == sizes | {"empty": 0, "copies": 0, "near_duplicates": 0}
    assert facts["training"]["stopped_by"] == "done"
    assert facts["training"]["steps"] == facts["training"]["planned_steps"] == 4
    assert facts["device"].startswith(("cpu", "cuda", "mps"))
    assert facts["wall_seconds"] > 0
    assert finished.run.is_finished
    assert facts["finished_at"] >= facts["started_at"]


def test_run_log_keeps_the_words_of_the_verdict(finished: Finished) -> None:
    verdict = read_json(finished.run.folder / "comparison.json")["verdict"]
    for words in (verdict["headline"], "excess ", verdict["memorised"], *verdict["caveats"]):
        assert words in finished.said
    for words in ("held-out text", "general text", "training text", "28 train, 4 validation, 8 test"):
        assert words in finished.said


def test_the_text_of_held_out_documents_is_kept_and_of_trained_ones_is_not(
    finished: Finished, small_corpus: Path
) -> None:
    texts = corpus_texts(small_corpus)
    rows = finished.run.read_table("documents.parquet")
    assert {row["source"] for row in rows} == set(texts)
    for row in rows:
        assert row["text_sha256"] == sha256(texts[row["source"]].encode()).hexdigest()
        assert row["sha256"] == row["group"] == sha256(texts[row["source"]].strip().encode()).hexdigest()
        assert row["id"] == f"{row['source']}#0"
        assert row["text"] == (None if row["split"] == "train" else texts[row["source"]])


def test_copies_are_left_out_of_every_part_and_counted(
    small_corpus: Path, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number, path in enumerate(sorted(small_corpus.iterdir())[:24]):
        text = path.read_text()
        (folder / f"{number}.md").write_text(text)
        (folder / f"{number}-copy.md").write_bytes(text.strip().replace("\n", "\r\n").encode())
    recipe = tiny_recipe(corpus={"source": str(folder)}, training={"steps": 1})
    run = finetune(
        recipe, tmp_path / "runs", options=Options(judge=False, gate=False), screen=Screen(quiet=True)
    )
    rows = run.read_table("documents.parquet")
    assert len(rows) == len({row["sha256"] for row in rows}) == 24
    assert run.facts["documents"]["copies"] == 24
    said = (run.folder / "run.log").read_text()
    assert "24 copies left out" in said
    assert "validation: reads 4 of 4 documents, chosen by hash" in said


def test_a_test_document_that_stands_in_training_text_is_judged_apart_from_the_clean_ones(
    small_corpus: Path, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    plain, seen = with_tainted(small_corpus, folder)
    recipe = tiny_recipe(corpus={"source": str(folder)}, training={"steps": 1})
    run = finetune(recipe, tmp_path / "runs", Options(gate=False), Screen(quiet=True))
    comparison = run.comparison
    kinds = {part["kind"]: part["difference"]["documents"] for part in comparison["corpora"]}
    assert (kinds["held-out"], kinds["tainted"]) == (len(plain.test) - 1, 1)
    assert any("Tainted: 1 of 8 test" in caveat for caveat in comparison["verdict"]["caveats"])
    assert run.facts["overlap"]["test"] | {"copies": 0, "tainted": 1} == run.facts["overlap"]["test"]
    assert "overlap with training text: of 8 test documents" in (run.folder / "run.log").read_text()
    assert compare_from(run).as_dict() | {"verdict": comparison["verdict"]} == comparison
    assert [(one.id, one.text) for one in recovered(run, Screen(quiet=True)).tainted_test] == [
        (seen.id, seen.text)
    ]
    jsonschema.validate({"schema": 7, "comparisons": [compare_from(run).as_dict()]}, SCHEMA)


def test_documents_of_many_formats_are_trained_on_and_personal_data_and_damaged_files_are_not(
    small_corpus: Path, tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for number, path in enumerate(sorted(small_corpus.iterdir())[:24]):
            archive.writestr(f"{number}.html", f"<p>{path.read_text()}<p>Ask kim{number}@naver.com.")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    corpus = {"source": str(folder), "redact": True, "skip_unreadable": True}
    recipe = tiny_recipe(corpus=corpus, training={"steps": 1})
    run = finetune(recipe, tmp_path / "runs", Options(judge=False, gate=False), Screen(quiet=True))
    rows = run.read_table("documents.parquet")
    assert {row["id"] for row in rows} == {f"more.zip/{number}.html#0" for number in range(24)}
    kept = [row["text"] for row in rows if row["text"]]
    assert kept
    assert all(text.endswith("\n\nAsk [E-MAIL].") for text in kept)
    assert run.facts["documents"]["unreadable"] == 1
    said = (run.folder / "run.log").read_text()
    assert "personal data replaced: 24 × e-mail" in said
    assert "broken.pdf: expected a PDF, found " in said
    assert "1 unreadable left out" in said


def test_a_corpus_that_is_too_small_is_refused_before_a_run_folder_exists(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"note {number}")
    with pytest.raises(FtError, match=r"corpus: expected at least 20 documents .*found 3\. Add 17 more\."):
        finetune(tiny_recipe(corpus={"source": str(tmp_path)}), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_without_keep_text_no_text_is_kept(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe(judging={"keep_text": False}, training={"steps": 1})
    run = finetune(recipe, tmp_path, options=Options(judge=False, gate=False))
    assert {row["text"] for row in run.read_table("documents.parquet")} == {None}


def test_scores_add_up_to_the_comparison(finished: Finished) -> None:
    corpora = read_json(finished.run.folder / "comparison.json")["corpora"]
    assert [corpus["kind"] for corpus in corpora] == ["held-out", "general", "train"]
    for corpus in corpora:
        rows = finished.run.read_table("scores/documents.parquet")
        assert {tuple(row) for row in rows} == {tuple(COLUMNS)}
        rows = [row for row in rows if row["split"] == corpus["kind"]]
        assert {row["corpus"] for row in rows} == {corpus["corpus"]}
        for side in ("base", "adapter"):
            mine = [row for row in rows if row["side"] == side]
            assert len(mine) == corpus["difference"]["documents"] == (9 if corpus["kind"] == "general" else 8)
            assert math.fsum(row["nll_nats"] for row in mine) == corpus[side]["nll_nats"]
            for unit in ("tokens", "bytes", "words"):
                assert sum(row[unit] for row in mine) == corpus[side][unit]
            perplexity = math.exp(corpus[side]["nll_nats"] / corpus[side]["tokens"])
            assert corpus[f"{side}_perplexity"] == pytest.approx(perplexity)


def test_held_out_bytes_and_words_are_those_of_the_files(finished: Finished, small_corpus: Path) -> None:
    texts = corpus_texts(small_corpus)
    rows = finished.run.read_table("scores/documents.parquet")
    for row in (row for row in rows if row["split"] == "held-out"):
        text = texts[row["document"].removesuffix("#0")]
        assert (row["bytes"], row["words"]) == (len(text.encode()), len(text.split()))


def test_no_sentence_of_the_corpus_stands_in_the_comparison(finished: Finished, small_corpus: Path) -> None:
    numbers = "".join(
        (finished.run.folder / name).read_text()
        for name in ("comparison.json", "run.json", "metrics.jsonl", "run.log")
    )
    sentences = [part for text in corpus_texts(small_corpus).values() for part in text.split(". ")]
    assert len(sentences) > 200
    assert not [sentence for sentence in sentences if len(sentence) > 25 and sentence in numbers]


def test_what_is_handed_on_names_no_folder_of_this_machine(
    finished: Finished, checkpoints: dict[str, Path], small_corpus: Path, other_text: Path
) -> None:
    folders = [checkpoints["gpt2"], small_corpus, other_text, finished.run.folder, Path.home(), Path.cwd()]
    for name in ("comparison.json", "run.json", "metrics.jsonl"):
        text = (finished.run.folder / name).read_text()
        assert not [folder for folder in folders if f"{folder.parent}/" in text and len(folder.parts) > 2]
    assert read_json(finished.run.folder / "comparison.json")["base"] == "tiny-gpt2"


def test_a_line_of_metrics_stands_for_each_step(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(math.isfinite(line["loss_nats"]) for line in lines)
    best = min(line["validation_nats"] for line in lines if "validation_nats" in line)
    assert best == finished.run.facts["training"]["best_validation_nats"]


def test_the_adapter_loads_without_the_toolkit_and_writes(finished: Finished) -> None:
    config = read_json(finished.run.adapter_folder / "adapter_config.json")
    base = config["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), finished.run.adapter_folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompt = tokenizer("A fever", return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6, pad_token_id=0)
        with model.disable_adapter():
            plain = model(**prompt).logits
        assert not torch.equal(model(**prompt).logits, plain)
    assert written.shape[1] == prompt["input_ids"].shape[1] + 6


def test_a_second_run_takes_the_next_name_and_leaves_the_first_alone(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe(training={"steps": 1})
    first = finetune(recipe, tmp_path, options=Options(judge=False, gate=False))
    before = digests(first.folder)
    second = finetune(recipe, tmp_path, options=Options(judge=False, gate=False))
    assert (first.folder.name, second.folder.name) == ("tiny-gpt2", "tiny-gpt2-2")
    assert digests(first.folder) == before


def test_an_unjudged_run_is_finished_by_compare_as_if_it_had_been_judged_at_once(
    finished: Finished, tmp_path: Path
) -> None:
    run = finetune(finished.recipe, tmp_path, options=Options(judge=False, gate=False))
    assert not (run.folder / "comparison.json").exists()
    assert not (run.folder / "scores").exists()
    assert not run.is_finished
    assert "the test part was not scored" in (run.folder / "run.log").read_text()
    compare_run(Run.open(run.folder), screen=Screen(quiet=True))
    assert run.is_finished
    late, at_once = (read_json(r.folder / "comparison.json") for r in (run, finished.run))
    assert late == at_once
    for name in ("scores/documents.parquet", "scores/tokens.parquet"):
        assert digests(run.folder)[name] == digests(finished.run.folder)[name]


def test_a_used_up_budget_still_ends_with_a_verdict(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    run = finetune(tiny_recipe(training={"steps": 500, "budget": "0.01s"}), tmp_path)
    assert run.facts["training"]["stopped_by"] == "budget"
    assert run.facts["training"]["steps"] < 500
    assert run.is_finished
    comparison = read_json(run.folder / "comparison.json")
    assert [corpus["kind"] for corpus in comparison["corpora"]] == ["held-out", "train"]  # general: null
    assert comparison["verdict"]["forgotten"] == "not measured: no general text"


def test_several_seeds_without_a_verdict_leave_the_test_part_unseen_and_tell_the_validation_gains(
    tiny_recipe: TinyRecipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(name="mine", training={"steps": 2}).model_dump()))
    arguments = ["finetune", str(recipe), "--runs", str(tmp_path / "runs"), "--seeds", "2", "--no-judge"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["ft", *arguments])
        cli.main()
    assert ended.value.code == 0
    runs = [Run.open(tmp_path / "runs" / name) for name in ("mine", "mine-seed1")]
    assert not [run for run in runs if (run.folder / "comparison.json").exists() or run.is_finished]
    trained = [run.facts["training"] for run in runs]
    gains = [
        100 * (math.exp(one["best_validation_nats"] - one["base_validation_nats"]) - 1) for one in trained
    ]
    assert gains[0] != gains[1]
    words = capfd.readouterr().out.splitlines()[-1]
    assert words.startswith(f"mine over 2 training seeds: {gains[0]:+.1f}, {gains[1]:+.1f} %; mean ")
    assert words.endswith("on the validation part; the test part was not scored")


@dataclass
class Trained:
    weights: dict[str, Tensor]
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    outcome: dict[str, Any]
    documents: list[dict[str, Any]]

    def differs_from(self, other: Trained) -> bool:
        return any(not torch.equal(weight, other.weights[name]) for name, weight in self.weights.items())


@pytest.fixture(scope="module")
def already_trained() -> dict[str, Trained]:
    return {}


@pytest.fixture
def trained(
    tiny_recipe: TinyRecipe, tmp_path: Path, already_trained: dict[str, Trained]
) -> Callable[..., Trained]:
    """Train tiny-gpt2 for two steps with some keys changed; the same question is answered once."""

    def train(**sections: Any) -> Trained:
        asked = json.dumps(sections, sort_keys=True)
        if asked not in already_trained:
            sections["training"] = {"steps": 2} | sections.get("training", {})
            run = finetune(
                tiny_recipe(**sections),
                tmp_path,
                options=Options(judge=False, gate=False),
                screen=Screen(quiet=True),
            )
            lines = (run.folder / "metrics.jsonl").read_text().splitlines()
            already_trained[asked] = Trained(
                load_file(run.adapter_folder / "adapter_model.safetensors"),
                read_json(run.adapter_folder / "adapter_config.json"),
                [json.loads(line) for line in lines],
                run.facts["training"],
                run.read_table("documents.parquet"),
            )
        return already_trained[asked]

    return train


Train = Callable[..., Trained]


@pytest.mark.parametrize(
    ("base", "block_tokens"), [("starter/bert", 128), ("starter/gpt2", 256), ("tiny bert", POSITIONS)]
)
def test_a_base_and_a_corpus_are_enough_to_train(
    base: str, block_tokens: int, checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path
) -> None:
    place = str(checkpoints["bert"]) if base == "tiny bert" else base
    recipe = Recipe.model_validate({"name": "x", "base": place, "corpus": {"source": str(small_corpus)}})
    quick = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 1})})
    run = finetune(quick, tmp_path, options=Options(judge=False, gate=False), screen=Screen(quiet=True))
    assert Run.open(run.folder).recipe.training.block_tokens == block_tokens


def test_rank_is_the_adapters_width(trained: Train) -> None:
    weights = trained(adapter={"rank": 3}).weights
    assert {w.shape[0] for name, w in weights.items() if "lora_A" in name} == {3}
    assert {w.shape[1] for name, w in weights.items() if "lora_B" in name} == {3}


def test_alpha_scales_the_update(trained: Train) -> None:
    changed = trained(adapter={"alpha": 99})
    assert changed.config["lora_alpha"] == 99
    assert changed.differs_from(trained())


def test_dropout_changes_what_is_learnt(trained: Train) -> None:
    changed = trained(adapter={"dropout": 0.5})
    assert changed.config["lora_dropout"] == 0.5
    assert changed.differs_from(trained())


@pytest.mark.parametrize("targets", ["attention", ["attn.c_attn"]])
def test_targets_choose_the_matrices(trained: Train, targets: str | list[str]) -> None:
    everything, some = set(trained().weights), set(trained(adapter={"targets": targets}).weights)
    assert some < everything
    assert all(".attn." in name for name in some)
    assert any(".mlp." in name for name in everything)
    assert any("c_proj" in name for name in some) == (targets == "attention")


def test_epochs_are_passes_over_the_training_part(trained: Train) -> None:
    small = {"split": {"validation": 0.1, "test": 0.7}}
    once, twice = (
        trained(corpus=small, training={"steps": None, "epochs": epochs, "batch_tokens": 512, "patience": 99})
        for epochs in (1, 2)
    )
    assert twice.outcome["planned_steps"] == 2 * once.outcome["planned_steps"]
    assert twice.outcome["tokens"] == 2 * once.outcome["tokens"]
    assert {line["epoch"] for line in twice.lines} == {0, 1}


def test_steps_stand_in_place_of_epochs(trained: Train) -> None:
    assert trained(training={"steps": 3, "epochs": 50}).outcome["planned_steps"] == 3


def test_a_budget_ends_training(trained: Train) -> None:
    outcome = trained(training={"steps": 500, "budget": "0.001s"}).outcome
    assert (outcome["stopped_by"], outcome["steps"]) == ("budget", 1)


def largest_step(run: Trained) -> int:
    tokens = [0, *(line["tokens"] for line in run.lines)]
    return max(after - before for before, after in pairwise(tokens))


def test_block_tokens_is_the_length_of_a_row(trained: Train) -> None:
    short, long = (trained(training={"batch_tokens": 48, "block_tokens": size}) for size in (16, 32))
    assert largest_step(short) == 48  # three rows of 16
    assert largest_step(long) == 32  # one row of 32: a second would not fit


def test_batch_tokens_is_the_size_of_a_step(trained: Train) -> None:
    assert trained(training={"batch_tokens": 64}).lines[0]["tokens"] == 64
    assert trained().lines[0]["tokens"] == 256


def test_learning_rate_is_the_peak(trained: Train) -> None:
    assert max(line["learning_rate"] for line in trained().lines) == 0.01
    assert max(line["learning_rate"] for line in trained(training={"learning_rate": 3e-3}).lines) == 3e-3


def test_warmup_fraction_is_the_share_of_steps_below_the_peak(trained: Train) -> None:
    warm = trained(training={"steps": 4, "warmup_fraction": 0.5}).lines
    assert [line["learning_rate"] for line in warm[:3]] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])


def test_patience_ends_a_training_that_no_longer_gains(trained: Train) -> None:
    wild = {"steps": 8, "learning_rate": 0.2}  # best at step 3, and 0.03 nats worse at the next
    patient, hasty = (trained(training=wild | {"patience": patience}).outcome for patience in (99, 1))
    assert (patient["stopped_by"], patient["steps"]) == ("done", 8)
    assert (hasty["stopped_by"], hasty["steps"]) == ("patience", hasty["best_step"] + 1)


def test_seed_changes_the_adapter_and_not_the_split(trained: Train) -> None:
    changed = trained(training={"seed": 5})
    assert changed.differs_from(trained())
    assert changed.documents == trained().documents


def test_split_moves_documents(trained: Train) -> None:
    parts = {row["id"]: row["split"] for row in trained().documents}
    other_seed = trained(corpus={"split": {"seed": 3}}, training={"steps": 1}).documents
    assert {row["id"]: row["split"] for row in other_seed} != parts
    shares = {"validation": 0.3, "test": 0.4}
    larger = trained(corpus={"split": shares}, training={"steps": 1}).documents
    for part, share in shares.items():
        assert sum(row["split"] == part for row in larger) == pytest.approx(40 * share, abs=6)


def test_one_document_may_be_a_file_a_paragraph_or_a_line(trained: Train) -> None:
    sizes = [
        len(trained(corpus={"documents": unit}, training={"steps": 1}).documents)
        for unit in ("file", "paragraph", "line")
    ]
    assert sizes[0] == 40
    assert sizes[0] < sizes[1] <= sizes[2]


def test_base_decides_the_family_and_name_the_folder(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    run = finetune(tiny_recipe("distilbert", name="my-run", training={"steps": 1}), tmp_path)
    assert run.folder == tmp_path / "my-run"
    comparison = read_json(run.folder / "comparison.json")
    assert comparison["protocol"]["metric"] == "pseudo-perplexity"
    assert comparison["verdict"]["headline"].startswith("my-run: ")
