"""From a checkpoint's name to its language model: loaded in float32, no pickles, no remote code."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.hub import resolve_revision

from ft_toolkit.errors import FtError
from ft_toolkit.models.gguf import load_gguf
from ft_toolkit.models.inspection import objective_of
from ft_toolkit.models.language_model import LanguageModel, for_scoring, language_model_of
from ft_toolkit.models.untrusted import refuse_config, refuse_size, weight_files
from ft_toolkit.network import hub_or_cache, hub_reason
from ft_toolkit.references import BaseReference, parse_base

_AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
_SAVE, _AGAIN = "Save the model there with save_pretrained.", "Download or save it again."


def load_base(name: str, device: str | torch.device = "cpu") -> LanguageModel:
    """Load a starter, a local folder, a .gguf file or a Hub id; float32, no pickles, never remote code.

    raises   FtError for an architecture that is not understood, missing weights, a checkpoint not there
    """
    reference, where = parse_base(name), f"base {name}"
    if reference.kind == "gguf":
        model, tokenizer = load_gguf(Path(reference.place), where, device)
        return language_model_of(name, for_scoring(model), tokenizer)
    place, revision = reference.place, reference.revision
    with nullcontext() if reference.folder else hub_or_cache() as silence:
        try:
            model = load_model(place, revision, where)
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
        except FtError:
            raise
        except Exception as error:  # the libraries raise many types at a damaged or foreign file
            raise _unreadable(reference, error, silence) from None
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # transformers makes up an empty one when the file is missing
        raise FtError(where, "a tokenizer", "one without a vocabulary", "Save it beside the weights.")
    model.to(device)  # type: ignore[arg-type]  # transformers types it so
    return language_model_of(name, for_scoring(model), tokenizer)


def load_model(place: str, revision: str, where: str) -> PreTrainedModel:
    """The weights of a folder or a Hub id in float32, after its config and files were checked.

    raises   FtError for a config that does not fit its files; whatever the libraries raise at a damaged file
    """
    revision = (
        resolve_revision(place, revision) or revision
    )  # the revision that is checked is the one that is loaded
    config = _config(place, revision, where)
    kind, files = _AUTO[objective_of(config, where)], weight_files(place, revision, where)
    if not files:
        raise OSError("no safetensors weights")
    refuse_size(lambda config: kind.from_config(config, trust_remote_code=False), config, files, where)
    model, loading = kind.from_pretrained(
        place,
        config=config,
        revision=revision,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if any("discriminator_predictions" in key for key in loading["unexpected_keys"]):
        found = "a discriminator, which predicts no tokens"
        raise FtError(where, "an ELECTRA generator", found, "Use the generator's checkpoint.")
    if loading["missing_keys"] or loading["mismatched_keys"]:
        missing = ", ".join(sorted(map(str, loading["missing_keys"] or loading["mismatched_keys"]))[:3])
        wanted = f"weights for every part of {type(model).__name__}"
        raise FtError(where, wanted, f"no {missing}", "Use a checkpoint that was trained with its head.")
    return model  # type: ignore[no-any-return]


def base_config(name: str) -> PretrainedConfig:
    """The config alone of a starter, a folder or a Hub id: its shape, without its weights."""
    reference = parse_base(name)
    with nullcontext() if reference.folder else hub_or_cache() as silence:
        try:
            return _config(reference.place, reference.revision, f"base {name}")
        except FtError:
            raise
        except Exception as error:  # likewise
            raise _unreadable(reference, error, silence) from None


def _config(place: str, revision: str, where: str) -> PretrainedConfig:
    written, _ = PretrainedConfig.get_config_dict(place, revision=revision)
    refuse_config(written, where)
    config: Any = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    # transformers chooses the attention: a config could name code from the Hub for it
    config._attn_implementation = config._experts_implementation = None
    return config  # type: ignore[no-any-return]


def _unreadable(reference: BaseReference, error: Exception, silence: str | None) -> FtError:
    where, folder = f"base {reference.name}", reference.folder
    if folder is not None:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return _fault_of_folder(where, folder) or FtError(where, "a readable checkpoint", reason, _AGAIN)
    wanted = "a checkpoint on the Hub, in the cache, or a folder"
    fix = f"Check the {'network' if silence else 'name'}, or use starter/gpt2."
    return FtError(where, wanted, hub_reason(error, silence), fix)


def _fault_of_folder(where: str, folder: Path) -> FtError | None:
    """An obvious fault in a checkpoint's files, if there is one."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(folder.glob("*.bin")):
        kind = "AutoModelForCausalLM"
        with suppress(Exception):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            kind = _AUTO[objective_of(config, where)].__name__
        command = f"import transformers as t; t.{kind}.from_pretrained('.').save_pretrained('.')"
        place = f"base {folder.name}"
        return FtError(place, "safetensors", "pytorch_model.bin", f'In it: python -c "{command}"')
    if not weights:
        return FtError(where, "safetensors weights", "no weights", _SAVE)
    return None
