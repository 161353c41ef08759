"""What loading promises: a whole checkpoint of a known kind, or one clear line that says what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertModel, ElectraForPreTraining

from ft_toolkit.errors import LINE_CHARACTERS, FtError
from ft_toolkit.models.checkpoints import load_base

Copied = Callable[[str], Path]


@pytest.fixture
def copied(checkpoints: dict[str, Path], tmp_path: Path) -> Copied:
    return lambda name: Path(shutil.copytree(checkpoints[name], tmp_path / "copied"))


def refusal(folder: Path) -> FtError:
    with pytest.raises(FtError) as refused:
        load_base(str(folder))
    line = str(refused.value)
    assert "\n" not in line and len(line) <= LINE_CHARACTERS
    assert refused.value.exit_code == 2
    return refused.value


def changed_config(folder: Path, **changes: object) -> None:
    """Overwrite keys of config.json; None takes one out."""
    written = json.loads((folder / "config.json").read_text()) | changes
    written = {key: value for key, value in written.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(written))


def test_a_checkpoint_without_its_mlm_head_is_refused(copied: Copied) -> None:
    folder = copied("bert")
    headless = BertModel.from_pretrained(folder, add_pooling_layer=False)
    (folder / "model.safetensors").unlink()
    headless.save_pretrained(folder)
    changed_config(folder, architectures=["BertForMaskedLM"])
    fault = refusal(folder)
    assert fault.expected == "weights for every part of BertForMaskedLM"
    assert "cls.predictions.bias" in fault.found


def test_an_electra_discriminator_is_refused_with_the_reason(copied: Copied) -> None:
    folder = copied("electra")
    discriminator = ElectraForPreTraining.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    discriminator.save_pretrained(folder)
    fault = refusal(folder)
    assert "found a discriminator, which predicts no tokens" in str(fault)
    assert "generator" in fault.fix


def test_a_missing_shard_is_named(copied: Copied) -> None:
    folder = copied("gpt2")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) >= 2
    whole = load_base(str(folder)).weights_sha256
    (folder / shards[1]).rename(folder / "elsewhere")
    assert f"all {len(shards)} shards of the weights, found no {shards[1]}." in str(refusal(folder))
    (folder / "elsewhere").rename(folder / shards[1])
    assert load_base(str(folder)).weights_sha256 == whole


@pytest.mark.parametrize(
    ("name", "auto"), [("gpt2", AutoModelForCausalLM), ("roberta", AutoModelForMaskedLM)]
)
def test_pickled_weights_alone_are_refused_with_the_command_that_converts_them(
    copied: Copied, name: str, auto: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(name)
    before = load_base(str(folder)).weights_sha256
    torch.save(auto.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    fault = refusal(folder)
    assert "expected safetensors, found pytorch_model.bin" in str(fault)
    command = re.search('python -c "(.*)"$', str(fault))
    assert command is not None
    monkeypatch.chdir(folder)
    exec(command[1])
    assert load_base(str(folder)).weights_sha256 == before


def test_a_folder_without_weights_says_so(copied: Copied) -> None:
    folder = copied("gpt2")
    (folder / "model.safetensors").unlink()
    assert "safetensors weights, found no weights" in str(refusal(folder))


@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_weights_file_that_was_cut_short_is_named(copied: Copied, kept: float) -> None:
    folder = copied("gpt2")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert "expected whole weights, found model.safetensors cut short" in str(refusal(folder))


def test_a_folder_without_a_config_says_so(copied: Copied) -> None:
    folder = copied("gpt2")
    (folder / "config.json").unlink()
    assert "expected a config.json with its model_type, found no config.json" in str(refusal(folder))


def test_a_config_without_model_type_is_refused_and_never_guessed_from_the_folders_name(
    copied: Copied, tmp_path: Path
) -> None:
    folder = copied("gpt2").rename(tmp_path / "my-gpt2")  # transformers would guess from such a name
    changed_config(folder, model_type=None)
    assert "a config.json with its model_type, found one without" in str(refusal(folder))


def test_a_config_that_is_no_json_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    (folder / "config.json").write_text('{"model_type": "gpt2",')
    assert "a readable checkpoint" in str(refusal(folder))


def test_a_config_with_a_value_of_the_wrong_kind_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    changed_config(folder, n_embd="sixteen")
    assert "n_embd" in str(refusal(folder))


def test_a_checkpoint_without_its_tokenizer_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    (folder / "tokenizer.json").unlink()
    assert "expected a tokenizer" in str(refusal(folder))


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    base = load_base(str(folder))
    base.tokenizer.add_tokens(["ribollita"])
    base.tokenizer.save_pretrained(folder)
    assert "at most 8192 tokens, as the model, found token 8192, 'ribollita'" in str(refusal(folder))


def test_an_unused_padding_token_beyond_the_models_rows_does_no_harm(copied: Copied) -> None:
    folder = copied("gpt2")
    base = load_base(str(folder))
    base.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    base.tokenizer.save_pretrained(folder)
    again = load_base(str(folder))
    assert again.special == base.special
    assert len(again.model.get_input_embeddings().weight) == 8192  # nothing grew


def test_a_base_that_is_nowhere_is_refused_with_a_way_out() -> None:
    with pytest.raises(FtError, match="starter/gpt2"):
        load_base("nobody/no-such-model")


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_an_encoder_decoder_is_refused(copied: Copied, model_type: str) -> None:
    folder = copied("gpt2")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    fault = refusal(folder)
    assert f"found {model_type}, an encoder-decoder" in str(fault)


def test_what_is_no_language_model_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "a causal or a masked language model, found model_type vit" in str(refusal(folder))


def test_an_architecture_that_transformers_does_not_know_is_refused(copied: Copied) -> None:
    folder = copied("gpt2")
    changed_config(folder, model_type="gpt7")
    assert "an architecture that transformers knows, found gpt7" in str(refusal(folder))


def test_half_precision_weights_become_float32(copied: Copied) -> None:
    folder = copied("gpt2")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in load_base(str(folder)).model.parameters()} == {torch.float32}
