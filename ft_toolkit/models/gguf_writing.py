"""A GPT-2, or a LoRA on one, as a GGUF file that llama.cpp reads; what it would read differently is refused.

source   llama.cpp, docs/development/HOWTO-add-model.md and gguf-py (names of keys and tensors)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.models.language_model import LanguageModel

if TYPE_CHECKING:  # an extra
    from gguf import GGUFWriter

ARCHITECTURE = "gpt2"
PRE_TOKENIZER = "gpt-2"  # by this name llama.cpp splits text as GPT-2's regular expression does
_WHERE = "ft export --to gguf"
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")  # the only activation that llama.cpp has for gpt2
_CURE = "Use ft merge: transformers loads that."
_LARGEST_HALF = 65504.0
_TURNED = (".c_attn.weight", ".c_fc.weight", ".c_proj.weight")  # Conv1D's, stored (in, out)
_ALWAYS_WHOLE = ("position_embd.weight",)  # llama.cpp adds it to float32 and has no other kernel for that
Matrix = NDArray[np.float32]


def check_writable(model: LanguageModel) -> None:
    """raises   FtError without the extra `gguf`, and for what a GGUF file of gpt2 cannot say"""
    try:
        import gguf  # noqa: F401
    except ImportError:
        cure = "pip install 'ft-toolkit[gguf]'"
        raise FtError(_WHERE, "the package gguf", "none installed", cure) from None
    config: Any = model.config
    if config.model_type != ARCHITECTURE:
        raise FtError(_WHERE, "a run of a GPT-2", f"{config.model_type} ({model.name})", _CURE)
    faults = {
        f"activation {config.activation_function}": config.activation_function not in _TANH_GELU,
        "scale_attn_weights: false": not config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx: true": config.scale_attn_by_inverse_layer_idx,
        "add_cross_attention: true": config.add_cross_attention,
    }
    found = next((fault for fault, is_there in faults.items() if is_there), None)
    if found is not None:
        raise FtError(_WHERE, "what llama.cpp computes for gpt2", found, _CURE)
    _check_tokenizer(model.tokenizer)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """raises   FtError for anything but GPT-2's byte-level BPE"""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces, cut = whole["model"], whole["pre_tokenizer"] or {}
    flags = ("single_word", "lstrip", "rstrip")
    odd = [token["content"] for token in whole["added_tokens"] if any(token[flag] for flag in flags)]
    plain, framed = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    faults = {
        f"a {pieces['type']} tokenizer": pieces["type"] != "BPE",
        f"pre-tokenizer {cut.get('type')}": cut.get("type") != "ByteLevel" or not cut.get("use_regex"),
        "add_prefix_space": bool(cut.get("add_prefix_space")),
        "a normaliser": whole["normalizer"] is not None,
        "BPE with dropout, a prefix, a suffix or other merges": any(
            pieces.get(key)
            for key in (
                "dropout",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "byte_fallback",
                "ignore_merges",
            )
        ),
        f"token {odd[0]!r} that takes in blanks or whole words" if odd else "": bool(odd),
        "tokens that are added to every text": plain != framed,
    }
    found = next((fault for fault, is_there in faults.items() if is_there), None)
    if found is not None:
        raise FtError(_WHERE, "GPT-2's byte-level BPE tokenizer", found, _CURE)


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, name: str, *, half: bool
) -> None:
    """A whole GPT-2 and its tokenizer; check_writable must have passed.

    name     as llama.cpp shows it
    half     matrices in float16; vectors and positions stay in float32, as in llama.cpp's own conversion
    raises   NumbersGoneWrong for a weight that is beyond float16
    """
    from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, get_tensor_name_map

    config: Any = model.config
    writer = GGUFWriter(str(path), ARCHITECTURE)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if half else LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    names = get_tensor_name_map(MODEL_ARCH.GPT2, config.n_layer)
    for ours, tensor in _tensors(model):
        theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise FtError(_WHERE, "the weights of a plain GPT-2", ours, _CURE)
        is_half = half and tensor.ndim > 1 and theirs not in _ALWAYS_WHOLE
        if is_half and not np.abs(tensor).max() <= _LARGEST_HALF:
            raise NumbersGoneWrong(ours, "weights that float16 holds", "larger ones", "Use --dtype float32.")
        writer.add_tensor(theirs, tensor.astype(np.float16) if is_half else tensor)
    _close(writer)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Matrix]]:
    """(name, weights) as llama.cpp lays them out: matrices are (out, in)."""
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # without one llama.cpp takes the embedding
        values = tensor.detach().cpu().float().numpy()
        yield name, np.ascontiguousarray(values.T if name.endswith(_TURNED) else values)


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    from gguf import TokenType

    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    kinds = {
        token["id"]: TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        for token in whole["added_tokens"]
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([pieces.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(
        [
            kinds.get(number, TokenType.NORMAL if number in pieces else TokenType.UNUSED)
            for number in range(rows)
        ]
    )
    merges = whole["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)  # transformers adds none either


def write_adapter(model: PeftModel, path: Path, name: str) -> None:
    """The LoRA alone, in float32, for the base's own GGUF file; check_adapter must have passed."""
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    adapter = model.active_adapter
    config = model.peft_config[adapter]
    assert isinstance(config, LoraConfig)  # check_adapter
    writer = GGUFWriter(str(path), ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config.lora_alpha))
    bare: Any = model.get_base_model()
    names = get_tensor_name_map(MODEL_ARCH.GPT2, bare.config.n_layer)
    for place, layer in bare.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
            continue
        matrices: tuple[Any, Any] = layer.lora_A[adapter], layer.lora_B[adapter]
        theirs = names.get_name(f"{place}.weight", try_suffixes=(".weight",))
        if theirs is None:
            raise FtError(
                _WHERE, "LoRA on the matrices of a GPT-2", f"one on {place}", "Leave out --adapter."
            )
        down, up = (each.weight.detach().cpu().float().numpy() for each in matrices)
        # llama.cpp multiplies by alpha / rank; what else a layer's own scale holds goes into B
        scale = layer.scaling[adapter] * down.shape[0] / config.lora_alpha
        writer.add_tensor(f"{theirs}.lora_a", np.ascontiguousarray(down))
        writer.add_tensor(f"{theirs}.lora_b", np.ascontiguousarray((up * scale).astype(np.float32)))
    _close(writer)


def check_adapter(model: PeftModel) -> None:
    """raises   FtError for an adapter that is more than LoRA on matrices"""
    config: Any = model.peft_config[model.active_adapter]
    is_lora = isinstance(config, LoraConfig)
    faults = {
        str(getattr(config.peft_type, "value", config.peft_type)): not is_lora,
        "DoRA": is_lora and config.use_dora,
        f"trained biases ({getattr(config, 'bias', None)})": is_lora and config.bias != "none",
        "trained embedding rows": is_lora and bool(config.trainable_token_indices),
        "modules trained whole": is_lora and bool(config.modules_to_save),
    }
    found = next((fault for fault, is_there in faults.items() if is_there), None)
    if found is not None:
        raise FtError(_WHERE, "plain LoRA for --adapter", found, "Leave out --adapter: it is then merged.")


def _close(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
