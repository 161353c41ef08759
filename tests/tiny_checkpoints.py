"""A tiny checkpoint of every family, with a real tokenizer of its kind: built when a test first asks for it.

2 layers, width 16, random weights wide enough that every part matters. The tokenizers
of gpt2, bert, distilbert and electra are the starters'; the others are trained here on the bundled
corpora. Of these only the byte-level ones are the same in every process: docs/log.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from ft_toolkit import shipped
from ft_toolkit.models.families import FAMILIES

POSITIONS = 64  # tokens that fit into a row of any of them
WIDTH = 16
VOCABULARY = 600
CORPORA = ("everyday-medicine", "italian-cooking")
_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": POSITIONS, "initializer_range": 0.3,
}  # fmt: skip
_GPT2_SIZES: dict[str, Any] = {
    "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "initializer_range": 0.3,
}  # fmt: skip
_BEHIND_PADDING = _SIZES | {"max_position_embeddings": POSITIONS + 2}
# what differs from transformers' defaults, and what the published checkpoints of the family have
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2_SIZES,
    "openai-gpt": _GPT2_SIZES,
    "gpt_neo": {
        "hidden_size": WIDTH, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "max_position_embeddings": POSITIONS, "initializer_range": 0.3,
    },
    "gptj": _GPT2_SIZES | {"rotary_dim": 4},
    "opt": {  # as opt-350m: embeddings narrower than the layers
        "hidden_size": WIDTH, "word_embed_proj_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "ffn_dim": 32, "max_position_embeddings": POSITIONS, "init_std": 0.3,
    },
    "gpt_neox": _SIZES,
    "llama": _SIZES | {"num_key_value_heads": 1},
    "bert": _SIZES,
    "distilbert": {
        "dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": POSITIONS,
        "initializer_range": 0.3,
    },
    "roberta": _BEHIND_PADDING,
    "xlm-roberta": _BEHIND_PADDING,
    "albert": _SIZES | {"embedding_size": 8},
    "electra": _SIZES | {"embedding_size": 8},
    "deberta-v2": _SIZES | {  # as deberta-v3: positions by distance alone
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "mpnet": _BEHIND_PADDING,
    "modernbert": _SIZES | {"local_attention": 8, "global_attn_every_n_layers": 2},
}  # fmt: skip


class TinyCheckpoints(dict[str, Path]):
    """checkpoints["roberta"] is a folder with config, weights and tokenizer."""

    def __init__(self, shelf: Path) -> None:
        super().__init__()
        self.shelf = shelf
        torch.manual_seed(1)
        for model_type in ("gpt2", "bert", "distilbert"):  # nearly every test wants one of these
            self[model_type] = shelf / f"tiny-{model_type}"
            save(self[model_type], model_type)

    def __missing__(self, model_type: str) -> Path:
        torch.manual_seed(1)
        self[model_type] = self.shelf / f"tiny-{model_type}"
        save(self[model_type], model_type)
        return self[model_type]


def save(folder: Path, model_type: str, like: str | None = None, **changes: Any) -> None:
    """Write a tiny checkpoint, its weights drawn from torch's generator; `changes` go over its configuration.

    like   a family whose sizes and tokenizer serve an architecture that is none of the families
    """
    like = like or model_type
    tokenizer = tokenizer_of(like)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        **(SIZES[like] | changes),
    )
    auto = AutoModelForCausalLM if FAMILIES[like].objective == "causal" else AutoModelForMaskedLM
    model = auto.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenizer_of(model_type: str) -> PreTrainedTokenizerBase:
    """A tokenizer as the family's published checkpoints have it, small."""
    match model_type:
        case "gpt2":
            return AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
        case "bert" | "distilbert" | "electra":  # published ELECTRA has BERT's vocabulary
            return AutoTokenizer.from_pretrained(shipped.starter("bert"))
        case "gpt_neo" | "gptj":
            return trained("GPT2Tokenizer")
        case "opt":
            names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
            return renumbered(trained("GPT2Tokenizer"), ["<s>", "<pad>", "</s>", "<unk>"], **names)
        case "roberta":
            return renumbered(trained("RobertaTokenizer"), ["<s>", "<pad>", "</s>", "<unk>"])
        case "mpnet":
            return renumbered(trained("MPNetTokenizer"), ["<s>", "<pad>", "</s>", "[UNK]"])
        case "modernbert":
            return modernbert_tokenizer()
        case "llama":
            return llama_tokenizer()
        case _:
            classes = {
                "openai-gpt": "OpenAIGPTTokenizer",
                "gpt_neox": "GPTNeoXTokenizer",
                "albert": "AlbertTokenizer",
                "xlm-roberta": "XLMRobertaTokenizer",
                "deberta-v2": "DebertaV2Tokenizer",
            }
            return trained(classes[model_type])


def texts() -> list[str]:
    return [path.read_text() for name in CORPORA for path in sorted(shipped.corpus(name).glob("*.md"))[:40]]


def trained(class_name: str) -> PreTrainedTokenizerBase:
    """transformers' class with its own pipeline, its pieces learnt from the bundled corpora."""
    untrained: TokenizersBackend = getattr(transformers, class_name)()
    return untrained.train_new_from_iterator(texts(), VOCABULARY, show_progress=False)


def renumbered(tokenizer: PreTrainedTokenizerBase, first: list[str], **names: str) -> PreTrainedTokenizerBase:
    """The same pieces, with the special ones where the published vocabularies have them; <mask> is last."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    specials = {*first, "<mask>", "<|endoftext|>"}
    by_id = model["vocab"].get if "merges" in model else None  # WordPiece's numbers differ in every process
    plain = [piece for piece in sorted(model["vocab"], key=by_id) if piece not in specials]
    pieces = [*first, *plain, *(["<mask>"] if tokenizer.mask_token else [])]
    merges = {"merges": [tuple(merge) for merge in model["merges"]]} if "merges" in model else {}
    return type(tokenizer)(vocab={piece: i for i, piece in enumerate(pieces)}, **merges, **names)


def modernbert_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE with BERT's special tokens."""
    specials = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "CLS", "SEP", "PAD", "MASK")}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return TokenizersBackend(tokenizer_object=backend, **specials)


def llama_tokenizer() -> PreTrainedTokenizerBase:
    """BPE over characters; a character that it does not know falls back to its bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=VOCABULARY - 259, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    return transformers.LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[tuple(merge) for merge in model["merges"]]
    )
