"""A pretrained checkpoint: from a name to a model in float32, its tokenizer, and what its family says."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.models.families import Family, SpecialTokens, family_of, special_tokens
from ft_toolkit.network import hub_or_cache, hub_reason

_AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}


@dataclass(frozen=True)
class Base:
    """A pretrained checkpoint in float32, and what its family says of it."""

    name: str  # as the recipe names it
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    special: SpecialTokens
    weights_sha256: str
    tokenizer_sha256: str

    @property
    def positions(self) -> int:
        """The longest row, in tokens, that the checkpoint can read; from its config."""
        return self.family.positions(self.model.config)


def load_base(name: str, device: str | torch.device = "cpu") -> Base:
    """Load a starter, a local folder or a Hub id; float32, safetensors only, never remote code.

    raises   FtError for an unknown family, a missing head, a checkpoint that is not there
    """
    place, revision = _place(name)
    where = f"base {name}"
    with nullcontext() if Path(place).is_dir() else hub_or_cache() as silence:
        try:
            config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
            family = family_of(config, where)
            model, loading = _AUTO[family.objective].from_pretrained(
                place,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(where, place, error, silence) from None
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = ", ".join(sorted(map(str, loading["missing_keys"] or loading["mismatched_keys"]))[:3])
        wanted = f"weights for every part of {type(model).__name__}"
        raise FtError(where, wanted, f"no {missing}", "Use a checkpoint that was trained with its head.")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one up where there is no file
        raise FtError(where, "a tokenizer", "one without a vocabulary", "Save it beside the weights.")
    return base_of(name, model.to(device), tokenizer)


def base_of(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Base:
    """A base from a loaded model and its tokenizer; the model is frozen, and switched to evaluation."""
    where = f"base {name}"
    family = family_of(model.config, where)
    model.requires_grad_(False)
    model.eval()
    return Base(
        name,
        model,
        tokenizer,
        family,
        special_tokens(family, tokenizer, where),
        hash_weights(model),
        hash_tokenizer(tokenizer),
    )


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of tokenizer.json's content: pieces, merges, normalisation."""
    return sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def hash_weights(model: nn.Module) -> str:
    """sha256 over the names and values of all weights: who a base is, wherever it was loaded from.

    Adapters that sit in it do not count: neither their weights nor the names that they give to the base's.
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


def _place(name: str) -> tuple[str, str]:
    """Where to load from, and which revision of it."""
    shelf, _, starter = name.partition("/")
    if shelf == "starter":
        return str(shipped.starter(starter)), "main"
    if Path(name).is_dir():
        return name, "main"
    hub_id, _, revision = name.partition("@")
    return hub_id, revision or "main"


def _unreadable(where: str, place: str, error: Exception, silence: str | None) -> FtError:
    if isinstance(error, FtError):
        return error
    folder = Path(place)
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if folder.is_dir():
        if not any(folder.glob("*.safetensors")):
            pickles = any(folder.glob("*.bin"))
            found = "pytorch_model.bin alone" if pickles else "no weights"
            return FtError(where, "safetensors weights", found, "Save the model there with save_pretrained.")
        return FtError(where, "a readable checkpoint", reason, "Download or save it again.")
    wanted = "a checkpoint on the Hub, in the cache, or a folder"
    fix = f"Check the {'network' if silence else 'name'}, or use starter/gpt2."
    return FtError(where, wanted, hub_reason(error, silence), fix)
