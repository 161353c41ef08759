"""An adapter that was not made here: ft compare --base X --adapter PATH --on TEXT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.compare import compare_adapter
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.totals import corpus_totals, document_totals
from ft_toolkit.models.checkpoints import Base, load_base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.progress import Screen
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source

QUIET = Screen(quiet=True)
ON_GPT2: dict[str, Any] = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
KINDS: dict[str, Any] = {
    "lora": LoraConfig(r=4, **ON_GPT2),
    "dora": LoraConfig(r=4, use_dora=True, **ON_GPT2),
    "biases": LoraConfig(r=4, bias="all", **ON_GPT2),
    "a norm besides": LoraConfig(r=4, modules_to_save=["ln_f"], **ON_GPT2),
    "ia3": IA3Config(feedforward_modules=[], **ON_GPT2),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa", **ON_GPT2),
}


@pytest.fixture
def text(small_corpus: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for path in sorted(small_corpus.iterdir())[:9]:
        (folder / path.name).write_text(path.read_text()[:300])
    return folder


def made_elsewhere(place: Path, config: Any, folder: Path) -> PeftModel:
    """By plain PEFT: every trainable weight moved, saved as anybody saves it."""
    model = get_peft_model(load_base(str(place)).model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


def total_nats(model: torch.nn.Module, base: Base, text: Path) -> float:
    documents = encode(read_source(str(text)).documents, base.tokenizer)
    scores = score(TokenLosses(model, base.family), documents, base, choose_protocol(base))
    return corpus_totals(document_totals(d, n) for d, n in zip(documents, scores, strict=True)).nll_nats


@pytest.mark.parametrize("kind", KINDS)
def test_its_base_side_is_the_bare_base_and_its_own_side_what_peft_computes(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, kind: str
) -> None:
    place = checkpoints["gpt2"]
    theirs = made_elsewhere(place, KINDS[kind], tmp_path / "elsewhere")
    found = compare_adapter(str(place), tmp_path / "elsewhere", [str(text)], screen=QUIET).corpora[0]
    bare = load_base(str(place))
    assert found.base.nll_nats == total_nats(bare.model, bare, text)
    assert found.adapter.nll_nats == pytest.approx(total_nats(theirs, bare, text), rel=1e-6)
    assert abs(found.difference.nats_per_token) > 1e-4


def test_the_verdict_says_that_nobody_knows_what_it_was_trained_on(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    made_elsewhere(checkpoints["gpt2"], KINDS["lora"], tmp_path / "elsewhere")
    asked = ["--base", str(checkpoints["gpt2"]), "--adapter", str(tmp_path / "elsewhere"), "--on", str(text)]
    shown = CliRunner().invoke(app, ["compare", *asked])
    assert shown.exit_code == 0
    assert "What this adapter was trained on is unknown" in " ".join(shown.stdout.split())
    machine = CliRunner().invoke(app, ["compare", *asked, "--json"])
    assert json.loads(machine.stdout)["comparisons"][0]["knows_training_text"] is False


@pytest.mark.parametrize(
    ("asked", "missing"),
    [(["--base", "starter/gpt2"], "--adapter, --on"), (["--adapter", "x", "--on", "y"], "--base")],
)
def test_base_adapter_and_text_are_all_needed(asked: list[str], missing: str) -> None:
    found = CliRunner().invoke(app, ["compare", *asked])
    assert found.exit_code == 2
    assert f"found no {missing}." in found.stderr


def test_nothing_to_compare_is_said_in_one_line() -> None:
    found = CliRunner().invoke(app, ["compare"])
    assert found.exit_code == 2
    assert "expected a run, or --base and --adapter, found neither" in found.stderr


def test_runs_beside_an_adapter_from_elsewhere_are_refused(tmp_path: Path) -> None:
    asked = ["compare", str(tmp_path), "--base", "starter/gpt2", "--adapter", str(tmp_path), "--on", "x.txt"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 2
    assert found.stderr == (
        "ft compare: expected runs, or --base and --adapter, found both. Ask for one of them at a time.\n"
    )


def test_a_pickled_adapter_is_not_opened(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(FtError, match=r"expected adapter_model\.safetensors, found adapter_mod"):
        compare_adapter(str(checkpoints["gpt2"]), tmp_path, [str(text)], screen=QUIET)


def test_an_adapter_of_other_shapes_is_refused_in_one_line(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    made_elsewhere(checkpoints["gpt2"], KINDS["lora"], tmp_path / "elsewhere")
    with pytest.raises(FtError, match=r"expected an adapter for starter/gpt2"):
        compare_adapter("starter/gpt2", tmp_path / "elsewhere", [str(text)], screen=QUIET)
