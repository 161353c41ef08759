"""An adapter that was not made here: ft compare --base X --adapter PATH --on TEXT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    AdaptionPromptConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import How
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_adapter
from ft_toolkit.text.corpus import read_source

QUIET = Screen(quiet=True)
ON_GPT2: dict[str, Any] = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
ON_LLAMA: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
ON_BERT: dict[str, Any] = {"target_modules": ["query", "output.dense"]}
KINDS: dict[str, tuple[str, Any]] = {
    "lora": ("gpt2", LoraConfig(r=4, **ON_GPT2)),
    "dora": ("gpt2", LoraConfig(r=4, use_dora=True, **ON_GPT2)),
    "biases": ("gpt2", LoraConfig(r=4, bias="all", **ON_GPT2)),
    "a norm besides": ("gpt2", LoraConfig(r=4, modules_to_save=["ln_f"], **ON_GPT2)),
    "a head of its own": ("gpt2", LoraConfig(r=4, modules_to_save=["lm_head"], **ON_GPT2)),
    "embeddings": ("gpt2", LoraConfig(r=4, **ON_GPT2 | {"target_modules": ["c_attn", "wte"]})),
    "words": ("gpt2", LoraConfig(r=4, trainable_token_indices=[11, 12, 13, 300], **ON_GPT2)),
    "ia3": ("gpt2", IA3Config(feedforward_modules=[], **ON_GPT2)),
    "pissa": ("gpt2", LoraConfig(r=4, init_lora_weights="pissa", **ON_GPT2)),
    "adalora": ("gpt2", AdaLoraConfig(init_r=4, target_r=4, total_step=9, **ON_GPT2)),
    "loha": ("llama", LoHaConfig(r=4, **ON_LLAMA)),
    "oft": ("llama", OFTConfig(oft_block_size=4, **ON_LLAMA)),
    "vera": ("bert", VeraConfig(r=4, target_modules=["query", "value"])),
    "norms": ("bert", LNTuningConfig(target_modules=["LayerNorm"])),
    "the head's transform": ("bert", LoraConfig(r=4, target_modules=["query", "transform.dense"])),
}


@pytest.fixture
def text(small_corpus: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for path in sorted(small_corpus.iterdir())[:9]:
        (folder / path.name).write_text(path.read_text()[:100])
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


def own_nats(model: Any, place: Path, text: Path) -> float:
    """What a model's own logits make of each text that fits into a row, in float64, by definition."""
    base, total = load_base(str(place)), 0.0
    begin, end, hidden = base.special.begin, base.special.end, base.special.mask
    with torch.inference_mode():
        for document in read_source(str(text)).documents:
            ids = base.tokenizer(document.text, add_special_tokens=False)["input_ids"]
            assert len(ids) + 2 <= base.positions
            if hidden is None:
                logits = model(input_ids=torch.tensor([[begin, *ids]])).logits[0, :-1]
            else:  # one row a token: hidden in its turn
                rows = torch.tensor([begin, *ids, end]).repeat(len(ids), 1)
                turn = torch.arange(len(ids))
                rows[turn, turn + 1] = hidden
                logits = model(input_ids=rows).logits[turn, turn + 1]
            chosen = logits.double().log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
            total -= float(chosen.sum())
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_its_base_side_is_the_bare_base_and_its_own_side_what_peft_computes(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, kind: str
) -> None:
    family, config = KINDS[kind]
    place = checkpoints[family]
    theirs = made_elsewhere(place, config, tmp_path / "elsewhere")
    how = How(protocol="pll" if family == "bert" else "document")
    found = compare_adapter(str(place), tmp_path / "elsewhere", [str(text)], how, screen=QUIET).corpora[0]
    assert found.base.nll_nats == pytest.approx(own_nats(load_base(str(place)).model, place, text), rel=1e-6)
    assert found.adapter.nll_nats == pytest.approx(own_nats(theirs, place, text), rel=1e-6)
    assert abs(found.adapter.nll_nats - found.base.nll_nats) > 0.004  # which the line above would notice


def prompted(place: Path, config: Any, folder: Path) -> None:
    get_peft_model(load_base(str(place)).model, config).save_pretrained(folder)


VIRTUAL = {
    "PROMPT_TUNING": ("gpt2", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "PREFIX_TUNING": ("gpt2", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "P_TUNING": ("gpt2", PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "ADAPTION_PROMPT": (
        "llama",
        AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1),
    ),
    "activated LoRA": ("llama", LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[7], **ON_LLAMA)),
}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_what_is_no_adapter_of_layers_is_refused_and_not_scored_as_the_base(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, kind: str
) -> None:
    family, config = VIRTUAL[kind]
    prompted(checkpoints[family], config, tmp_path / "elsewhere")
    with pytest.raises(FtError, match=rf"expected an adapter of layers, such as LoRA or IA3, found .*{kind}"):
        compare_adapter(str(checkpoints[family]), tmp_path / "elsewhere", [str(text)], screen=QUIET)
    with pytest.raises(FtError, match="expected an adapter of layers"):
        DomainPerplexity(str(checkpoints[family]), adapter=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("family", "targets", "output"),
    [("gpt2", ["c_attn", "lm_head"], "lm_head"), ("llama", ["q_proj", "lm_head"], "lm_head"),
     ("bert", ["query", "decoder"], "cls.predictions.decoder")],
)  # fmt: skip
def test_an_adapter_on_the_output_projection_is_refused_and_not_dropped(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, family: str, targets: list[str], output: str
) -> None:
    config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=family == "gpt2")
    made_elsewhere(checkpoints[family], config, tmp_path / "elsewhere")
    with pytest.raises(
        FtError, match=rf"below the output projection, found one on .*Train without {output}\."
    ):
        compare_adapter(str(checkpoints[family]), tmp_path / "elsewhere", [str(text)], screen=QUIET)


def test_what_peft_computes_otherwise_is_refused_with_the_difference(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    """PEFT 0.21 leaves the output's bias out where rows of a tied embedding are trained; we do not."""
    place = tmp_path / "biased"
    base = load_base(str(checkpoints["bert"]))
    with torch.no_grad():
        base.model.get_submodule(base.family.output).bias.copy_(torch.linspace(-3, 3, len(base.tokenizer)))
    base.model.save_pretrained(place)
    base.tokenizer.save_pretrained(place)
    made_elsewhere(place, LoraConfig(r=4, trainable_token_indices=[5, 6], **ON_BERT), tmp_path / "elsewhere")
    with pytest.raises(FtError, match=r"cannot be scored here: it adapts cls\.predictions\.decoder"):
        compare_adapter(str(place), tmp_path / "elsewhere", [str(text)], screen=QUIET)


def test_an_adapter_that_brings_the_bases_embedding_along_is_told_how_to_leave_it(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"])
    made_elsewhere(checkpoints["llama"], config, tmp_path / "elsewhere")
    with pytest.raises(FtError, match=r"expected an adapter alone, .* save_embedding_layers=False"):
        compare_adapter(str(checkpoints["llama"]), tmp_path / "elsewhere", [str(text)], screen=QUIET)


def test_the_verdict_says_that_nobody_knows_what_it_was_trained_on(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    made_elsewhere(checkpoints["gpt2"], KINDS["lora"][1], tmp_path / "elsewhere")
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
        "ft compare: expected runs, or --base and --adapter, found both. Choose one of them.\n"
    )


def test_a_pickled_adapter_is_not_opened(checkpoints: dict[str, Path], text: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(FtError, match=r"expected adapter_model\.safetensors, found adapter_mod"):
        compare_adapter(str(checkpoints["gpt2"]), tmp_path, [str(text)], screen=QUIET)


def named(folder: Path, base: str | None) -> None:
    """Rewrite which base an adapter says that it was made for."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("owner/other", r"found one made for owner/oth.*Use --base owner/other"),
        (None, r"found size mismatch .*\. Was it made for another base\?"),
    ],
)
def test_an_adapter_of_other_shapes_is_refused_by_the_base_that_it_was_made_for(
    checkpoints: dict[str, Path], text: Path, tmp_path: Path, base: str | None, words: str
) -> None:
    made_elsewhere(checkpoints["gpt2"], KINDS["lora"][1], tmp_path / "elsewhere")
    named(tmp_path / "elsewhere", base)
    with pytest.raises(FtError, match=rf"expected an adapter for starter/gpt2, {words}"):
        compare_adapter("starter/gpt2", tmp_path / "elsewhere", [str(text)], screen=QUIET)


@pytest.mark.parametrize(
    ("base", "is_said"), [("owner/other", True), ("/elsewhere/tiny-gpt2", False), (None, False), ("", False)]
)
def test_an_adapter_that_fits_but_names_another_base_is_scored_and_both_are_named(
    checkpoints: dict[str, Path],
    text: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    base: str | None,
    is_said: bool,
) -> None:
    made_elsewhere(checkpoints["gpt2"], KINDS["lora"][1], tmp_path / "elsewhere")
    named(tmp_path / "elsewhere", base)
    compare_adapter(str(checkpoints["gpt2"]), tmp_path / "elsewhere", [str(text)])
    said = "".join("".join(capfd.readouterr()).split())
    assert ("madeforowner/other,scoredon" in said) is is_said
    assert ("arethey" in said) is is_said
