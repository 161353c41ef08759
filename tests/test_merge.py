"""ft merge: one plain checkpoint that reads as base and adapter did, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.finetune import finetune
from ft_toolkit.judging import merging
from ft_toolkit.judging.integrity import probe_scores
from ft_toolkit.merge import merge
from ft_toolkit.models.adapters import load_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import hash_weights
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
AUTO = {"gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM, "distilbert": AutoModelForMaskedLM}
CASES = [
    *((family, method) for family in AUTO for method in ("lora", "dora", "ia3")),
    ("gpt2", "rslora"),
    ("gpt2", "pissa"),
]
Trained = Callable[..., Run]


@pytest.fixture(scope="module")
def trained(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    made: dict[tuple[str, str], Run] = {}

    def run(family: str, method: str = "lora", **adapter: object) -> Run:
        key = family, method + str(adapter)
        if key not in made:
            values = {
                "name": f"{family}-{method}",
                "base": str(checkpoints[family]),
                "corpus": {"source": str(small_corpus)},
                "adapter": {"method": method, "rank": 4, **adapter},
                "training": {"steps": 3, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.02},
            }
            folder = tmp_path_factory.mktemp("runs")
            made[key] = finetune(
                Recipe.model_validate(values), folder, options=Options(judge=False, gate=False), screen=QUIET
            )
        return made[key]

    return run


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_merged_checkpoint_loads_plainly_and_reads_as_base_and_adapter_did(
    trained: Trained, tmp_path: Path, family: str, method: str
) -> None:
    run = trained(family, method)
    folder = merge(run, tmp_path / "merged", screen=QUIET)
    plain = AUTO[family].from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    base = load_base(run.recipe.base)
    texts = ["Drink water when a fever rises.", "Rest, and call a doctor if it lasts. " * 20]
    bare = probe_scores(base, texts)
    model = load_adapter(base, run.adapter_folder)
    live, merged = (probe_scores(base.with_model(one), texts) for one in (model, plain.eval()))
    for one, other, without in zip(live, merged, bare, strict=True):
        assert abs(one.sum() - other.sum()) / len(one) < merging.MERGED_NATS
        assert abs(one - without).mean() > 1e-3  # and the adapter did something
    assert hash_weights(plain) != base.weights_sha256
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        there, here = plain(ids).logits, model(ids).logits
    assert ((there - here).abs() <= 1e-5 * here.abs().clamp(min=1)).all()


def test_a_merge_at_half_strength_is_plain_peft_with_half_the_alpha(trained: Trained, tmp_path: Path) -> None:
    run = trained("gpt2")
    merged = AutoModelForCausalLM.from_pretrained(merge(run, tmp_path / "half", strength=0.5, screen=QUIET))
    halved = shutil.copytree(run.adapter_folder, tmp_path / "halved")
    config = json.loads((halved / "adapter_config.json").read_text())
    config["lora_alpha"] /= 2
    (halved / "adapter_config.json").write_text(json.dumps(config))
    base = AutoModelForCausalLM.from_pretrained(run.recipe.base)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        expected = PeftModel.from_pretrained(base, halved).eval()(input_ids=ids).logits
        found = merged.eval()(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-5
    assert (expected - plain).abs().max() > 1e-3  # else this test could not tell


@pytest.mark.parametrize("strength", [0, -1, float("nan"), 11])
def test_a_strength_that_is_none_is_refused(trained: Trained, tmp_path: Path, strength: float) -> None:
    with pytest.raises(FtError, match="--strength: expected above 0"):
        merge(trained("gpt2"), tmp_path / "merged", strength=strength, screen=QUIET)


def test_dora_has_no_strength(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(FtError, match=r"(?i)dora"):
        merge(trained("gpt2", "dora"), tmp_path / "merged", strength=0.5, screen=QUIET)
    assert not list(tmp_path.iterdir())


def test_trained_rows_of_words_are_merged_too(trained: Trained, tmp_path: Path) -> None:
    run = trained("bert", tokens=["fever"])
    folder = merge(run, tmp_path / "merged", screen=QUIET)
    base, plain = load_base(run.recipe.base), load_base(str(folder))
    moved = (plain.model.get_input_embeddings().weight != base.model.get_input_embeddings().weight).any(1)
    assert moved.nonzero().flatten().tolist() == sorted(
        base.tokenizer("fever", add_special_tokens=False).input_ids
    )


def test_bfloat16_is_half_the_size_and_says_what_its_rounding_costs(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("gpt2")
    whole = merge(run, tmp_path / "whole", screen=QUIET)
    half = merge(run, tmp_path / "half", "bfloat16")
    weights = load_file(half / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    said = capsys.readouterr().err
    assert "weights rounded to bfloat16" in said and "nats a token" in said
    assert "rounded to bfloat16" in (half / "README.md").read_text()
    assert "rounded" not in (whole / "README.md").read_text()


def test_a_merge_that_reads_differently_fails_with_code_four_and_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MERGED_NATS", -1.0)  # no merge is that exact
    with pytest.raises(IntegrityFailed, match="the merged checkpoint") as failure:
        merge(trained("gpt2"), tmp_path / "merged", screen=QUIET)
    assert failure.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(FtError, match="expected a folder that is not there yet"):
        merge(trained("gpt2"), tmp_path / "merged", screen=QUIET)


def test_a_full_run_has_nothing_to_merge_and_says_where_its_model_is(trained: Trained) -> None:
    run = trained("gpt2", "full")
    with pytest.raises(FtError, match=r"found method full\. Its model/ is whole already"):
        merge(run, screen=QUIET)


def test_an_adapter_that_is_not_the_one_that_was_trained_is_not_merged(
    trained: Trained, tmp_path: Path
) -> None:
    run = Run.open(shutil.copytree(trained("gpt2").folder, tmp_path / "run"))
    path = run.adapter_folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        IntegrityFailed, match=r"adapter_model\.safetensors: expected the file that was trained"
    ):
        merge(run, tmp_path / "merged", screen=QUIET)
    assert not (tmp_path / "merged").exists()


def test_a_base_that_changed_since_training_is_not_merged_with(
    trained: Trained, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run = trained("gpt2")
    weights = load_file(checkpoints["gpt2"] / "model.safetensors")
    kept = (checkpoints["gpt2"] / "model.safetensors").read_bytes()
    try:
        weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"] + 0.01
        save_file(weights, checkpoints["gpt2"] / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(FtError, match="the base of training"):
            merge(run, tmp_path / "merged", screen=QUIET)
    finally:
        (checkpoints["gpt2"] / "model.safetensors").write_bytes(kept)
