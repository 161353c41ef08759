"""A base in one GGUF file: read exactly where transformers reads it exactly, refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import TextDocument

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
# how llama.cpp names GPT-2's tensors, and which of them it keeps the other way round
NAMES = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
TEXT = "Boil the pasta in salted water until it is nearly done. " * 4


def tiny(positions: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=8192, n_positions=positions, n_embd=32, n_layer=2, n_head=2,
                        initializer_range=0.3, bos_token_id=0, eos_token_id=0)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def write_gguf(path: Path, model: GPT2LMHeadModel, architecture: str = "gpt2") -> None:
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in vocabulary])
    merges = __import__("json").loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in model.transformer.state_dict().items():
        kind = name.rpartition(".")[2]
        if name.startswith("h."):
            _, layer, inner = name.split(".", 2)
            inner = inner.removesuffix(f".{kind}")
            target = f"blk.{layer}.{NAMES[inner]}.{kind}"
        else:
            target = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}[name.split(".")[0]]
            target += f".{kind}"
        turned = tensor.T if ".c_" in name and kind == "weight" else tensor
        writer.add_tensor(target, turned.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gpt2_in_a_gguf_file_scores_as_the_same_weights_in_safetensors(tmp_path: Path) -> None:
    model = tiny(1024)
    write_gguf(tmp_path / "tiny.gguf", model)
    model.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(shipped.starter("gpt2")).save_pretrained(tmp_path / "plain")
    found = []
    for place in (tmp_path / "tiny.gguf", tmp_path / "plain"):
        base = load_base(str(place))
        documents = encode([TextDocument("t", 0, TEXT)], base.tokenizer)
        assert base.positions == 1024
        assert base.special.begin == 0
        found += score(base, documents, choose_protocol(base))
    np.testing.assert_array_equal(found[0], found[1])


def test_a_gpt2_of_other_positions_is_refused_since_they_would_be_lost(tmp_path: Path) -> None:
    write_gguf(tmp_path / "short.gguf", tiny(256))
    with pytest.raises(FtError, match="expected a gpt2 of 1024 positions, found 256"):
        load_base(str(tmp_path / "short.gguf"))


def test_an_architecture_that_is_not_read_exactly_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "bert.gguf", tiny(64), architecture="bert")
    with pytest.raises(FtError, match="expected a GGUF file of gpt2 or llama, found bert"):
        load_base(str(tmp_path / "bert.gguf"))


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(FtError, match="expected a readable GGUF file"):
        load_base(str(tmp_path / "x.gguf"))


def test_without_the_package_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(FtError, match=r"pip install 'ft-toolkit\[gguf\]'"):
        load_base(str(tmp_path / "x.gguf"))
