"""How large a model and its adapter are: counted on the meta device, where tensors have no memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from ft_toolkit.errors import FtError
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.families import FAMILIES, SpecialTokens, family_of, special_tokens
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.untrusted import refuse_config
from ft_toolkit.sections import Adapter

_AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
FEED_FORWARD_FIELDS = ("intermediate_size", "ffn_dim", "hidden_dim")  # four widths, unless a config.json says
AS_WIDE_AS_THE_MODEL = ("word_embed_proj_dim", "embedding_size")


# kept for backward in 16 bits, bytes a token, layer and unit of width: Korthikanti et al. 2022,
# arXiv:2205.05198, equation 2 without the attention scores, which scaled_dot_product_attention does not keep
ACTIVATION_BYTES = 34


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters; tied ones once."""

    parameters: int  # of the base
    trained: int  # of the adapter, or all of them
    layers: int
    width: int
    objective: Literal["causal", "masked"]
    matrices: int = 0  # of the base's parameters: those in the matrices of its layers


def shape(
    family: str,
    layers: int,
    width: int,
    heads: int,
    vocabulary: int | None = None,
    positions: int | None = None,
) -> PretrainedConfig:
    """The config of a family at another size; its feed-forward part is four widths wide.

    raises   FtError for an unknown family, or a width that its heads do not divide
    """
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else "docs/models.md lists them."
        raise FtError("--family", f"one of {', '.join(FAMILIES)}", family, hint)
    if width % heads:
        raise FtError("--width", f"a multiple of the {heads} heads", width, "Change --width or --heads.")
    config: Any = AutoConfig.for_model(family)
    wanted: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    if vocabulary is not None:
        wanted["vocab_size"] = vocabulary
    if positions is not None:
        wanted["max_position_embeddings"] = positions
    wanted |= {field: 4 * width for field in FEED_FORWARD_FIELDS if getattr(config, field, None)}
    wanted |= {field: width for field in AS_WIDE_AS_THE_MODEL if getattr(config, field, None)}
    if getattr(config, "num_key_value_heads", None):
        wanted["num_key_value_heads"] = heads
    if getattr(config, "head_dim", None):
        wanted["head_dim"] = width // heads
    if family == "gpt_neo":  # names the kind of attention of every layer
        wanted |= {"attention_types": [[["global"], layers]], "attention_layers": ["global"] * layers}
    for field, value in wanted.items():
        setattr(config, field, value)
    return config  # type: ignore[no-any-return]


def read_config(path: Path) -> PretrainedConfig:
    """The config.json of a checkpoint, or its folder's.

    raises   FtError for a file that is not there, or names no architecture
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        refuse_config(json.loads(file.read_text(encoding="utf-8")), str(path))
        found: PretrainedConfig = AutoConfig.from_pretrained(str(file), trust_remote_code=False)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise FtError(path, "a config.json with a model_type", reason, "Check the file.") from None
    return found


def without_weights(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> LanguageModel:
    """A model of this shape on the meta device; its tokenizer, where there is one, can make training rows."""
    family = family_of(config, "plan")
    with torch.device("meta"):
        model: Any = _AUTO[family.objective].from_config(config, trust_remote_code=False)
    special = special_tokens(family, tokenizer, "plan") if tokenizer else SpecialTokens(None, None, None)
    # what is only counted needs no hashes
    return LanguageModel("plan", model.requires_grad_(False), tokenizer, family, special, "", "", "")  # type: ignore[arg-type]


def count(config: PretrainedConfig, plan: Adapter) -> Sizes:
    """Build model and adapter without memory, and count."""
    base = without_weights(config)
    model = base.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = parameters
    matrices = layer_matrices(model, base.family.output)
    if not plan.is_whole_model:
        # pissa has lora's shapes, and its start is a decomposition of weights that are not here
        method = "lora" if plan.method == "pissa" else plan.method
        with torch.device("meta"):
            adapted = attach_adapter(base, plan.model_copy(update={"method": method, "tokens": []}), seed=0)
        trained = sum(parameter.numel() for parameter in trainable(adapted).values())
    shaped = config.num_hidden_layers, config.hidden_size
    return Sizes(parameters, trained, *shaped, base.family.objective, matrices)


def layer_matrices(model: nn.Module, output: str) -> int:
    """Parameters in the matrices of a base's layers, its output projection left out."""
    head = model.get_submodule(output)
    weights = {
        id(layer.weight): layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    }
    return sum(weights.values())
