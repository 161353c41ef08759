"""A language model: one module, its own tokenizer, and what its family says of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError
from ft_toolkit.models.families import Family, SpecialTokens, special_tokens
from ft_toolkit.models.inspection import family_for
from ft_toolkit.models.token_nll import fuse_activations

_MOVES_NO_SCORE = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "id2label",
    "label2id",
)


@dataclass(frozen=True)
class LanguageModel:
    """One module in float32, its own tokenizer, and what its family says of both.

    name    as the recipe names the checkpoint
    sha256  of weights and config: those of the checkpoint as it was loaded, whatever was trained since
    """

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    special: SpecialTokens
    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str

    @property
    def sha256s(self) -> dict[str, str]:
        """What a run records of its base: by these it is recognised, under any name."""
        return {
            "base": self.weights_sha256,
            "config": self.config_sha256,
            "tokenizer": self.tokenizer_sha256,
        }

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def positions(self) -> int:
        """The longest row, in tokens, that the checkpoint can read; from its config."""
        return self.family.positions(self.config)

    @property
    def ordinary_ids(self) -> NDArray[np.int32]:
        """Ids of all tokens of the vocabulary that are not special, ascending."""
        special = set(self.tokenizer.all_special_ids)
        return np.array(sorted({*self.tokenizer.get_vocab().values()} - special), dtype=np.int32)

    def with_model(self, model: PreTrainedModel | PeftModel) -> LanguageModel:
        """The same tokenizer and family over another module: an adapter's, or trained weights."""
        return replace(self, model=model)

    def with_tokenizer(self, tokenizer: PreTrainedTokenizerBase, where: str) -> LanguageModel:
        """The same module read by another tokenizer of its size."""
        special = special_tokens(self.family, tokenizer, where)
        return replace(self, tokenizer=tokenizer, special=special, tokenizer_sha256=hash_tokenizer(tokenizer))


def language_model_of(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """A language model from a module in evaluation mode and its tokenizer; the module is left as it is.

    raises   FtError for an architecture that is not understood, or a tokenizer with more tokens than rows
    """
    where = f"base {name}"
    family = family_for(model, where)
    special = special_tokens(family, tokenizer, where)
    rows = model.config.vocab_size
    written = {*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids}
    highest = max(written | {special.begin or 0, special.end or 0, special.mask or 0})
    if highest >= rows:  # a grown vocabulary would need new rows, which no adapter holds
        found = f"token {highest}, {tokenizer.convert_ids_to_tokens(highest)!r}"
        raise FtError(where, f"a tokenizer of at most {rows} tokens, as the model", found, "Use its own.")
    return LanguageModel(
        name,
        model,
        tokenizer,
        family,
        special,
        hash_weights(model),
        hash_config(model.config),
        hash_tokenizer(tokenizer),
    )


def for_scoring(model: PreTrainedModel) -> PreTrainedModel:
    """Prepare a module that we loaded: frozen, in evaluation mode, with fused activations."""
    fuse_activations(model)
    model.requires_grad_(False)
    model.eval()
    return model


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of tokenizer.json's content: pieces, merges, normalisation."""
    return sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def hash_config(config: PretrainedConfig) -> str:
    """sha256 of the values in a config that differ from its class's defaults: heads, epsilons, sizes.

    Defaults are left out, since versions of transformers add new ones; so are values that move no score.
    """
    defaults = type(config).default_config_fields()
    own = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _MOVES_NO_SCORE and value != defaults.get(name)
    }
    written = json.dumps({"model_type": config.model_type} | own, sort_keys=True, default=str)
    return sha256(written.encode()).hexdigest()


def hash_weights(model: nn.Module) -> str:
    """sha256 over the names and values of all weights: identifies a base wherever it was loaded from.

    Adapters inside it do not count: neither their weights nor the way they rename the base's.
    """
    layers = {
        f"{place}.{part}."
        for place, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for part in (*layer.adapter_layer_names, *layer.other_param_names)
    }
    own = {
        name.replace("token_adapter.", "").replace("base_layer.", ""): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(tuple(layers))
    }
    digest = sha256()
    for name, tensor in sorted(own.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
