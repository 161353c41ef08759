"""Attach, save and load what is trained: an adapter, or all weights. Saving never uses the network.

A method that does not change the base's weights works on them in place; switched off, it gives back the base
bitwise. A method that changes them (pissa, full, scratch) works on a copy, so that the base stays intact.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ft_toolkit.artefacts import folder_written_whole, read_json
from ft_toolkit.errors import FtError
from ft_toolkit.models.checkpoints import load_base, load_model
from ft_toolkit.models.language_model import LanguageModel, for_scoring
from ft_toolkit.models.scratch import fresh_model
from ft_toolkit.models.untrusted import refuse_adapter
from ft_toolkit.sections import Adapter


def attach_adapter(base: LanguageModel, plan: Adapter, seed: int) -> PeftModel | PreTrainedModel:
    """The model to train: a base with a fresh adapter, or weights that are all trainable.

    A fresh adapter changes nothing (LoRA's B starts at zero, IA3's scales at one); PiSSA initially matches
    the base up to rounding.

    raises   FtError for a target that is no matrix of the trunk; the base is then untouched
    """
    torch.manual_seed(seed)
    if plan.method == "full":
        return copy.deepcopy(base.model).requires_grad_(True)
    if plan.method == "scratch":
        return fresh_model(base)
    config = _ia3_config(base, plan) if plan.method == "ia3" else _lora_config(base, plan)
    # PiSSA subtracts the adapter's start from the weights
    under = copy.deepcopy(base.model) if plan.method == "pissa" else base.model
    model = get_peft_model(under, config)
    model.peft_config["default"].base_model_name_or_path = base.name
    if plan.method == "pissa":
        model.pissa_start = {name: p.detach().clone() for name, p in trainable(model).items()}  # type: ignore[assignment]  # an attribute of ours
    model.eval()  # PEFT's new layers start in training mode, where the base's dropout would be on
    return model


def load_trained(
    base: LanguageModel, folder: Path, onto: PeftModel | None = None
) -> PeftModel | PreTrainedModel:
    """What a run saved: an adapter, put onto the base, or a whole model beside it; onto: as load_adapter."""
    # by name too: an empty adapter/ reports a missing adapter, not a missing model
    is_adapter = (folder / "adapter_config.json").is_file() or folder.name == "adapter"
    return load_adapter(base, folder, onto) if is_adapter else load_whole(base, folder)


def load_adapter(base: LanguageModel, folder: Path, onto: PeftModel | None = None) -> PeftModel:
    """Load a saved adapter onto a freshly loaded base, or beside another adapter of it, and switch it on.

    onto     what an earlier call returned: adapters of one type share one set of base weights
    raises   FtError for an adapter that is not made of layers, that adapts the output projection (TokenScorer
             reads its matrix directly), that is damaged, or that was made for another base
    """
    weights, made_for = _weights(folder), None
    refuse_adapter(folder, base.model)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        made_for = config.base_model_name_or_path
        _refuse_virtual_tokens(config, folder)
        exact = _switches_off_exactly(config)
        if onto is not None and exact and onto.peft_type == config.peft_type:
            name, model = f"beside_{len(onto.peft_config)}", onto
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            model.set_adapter(name)
        else:
            name, under = "default", base.model
            if onto is not None:  # base.model has other adapters in it
                under = load_base(base.name, base.device).model
            elif not exact:
                under = copy.deepcopy(base.model)
            model = PeftModel.from_pretrained(under, str(folder), is_trainable=False)
    except FtError:
        raise
    except Exception as error:  # PEFT raises many types at a damaged or foreign config
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "size mismatch" in line), lines[0])
        raise _unfit(folder, base, made_for, reason) from None
    if isinstance(model.get_base_model().get_submodule(base.family.output), BaseTunerLayer):
        found = f"one on {base.family.output}"
        raise FtError(
            folder, "an adapter below the output projection", found, f"Train without {base.family.output}."
        )
    strangers = (
        weights.keys()
        ^ get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
    )
    if strangers:  # PEFT silently drops weights without a module and leaves modules without weights at zero
        reason = f"{len(strangers)} matrices without a counterpart, such as {min(strangers)}"
        if all(".base_layer." in name for name in strangers):  # PEFT adds the embedding that it adapted
            raise FtError(folder, "an adapter alone", reason, "Save it with save_embedding_layers=False.")
        raise _unfit(folder, base, made_for, reason)
    model.eval()
    return model


def _weights(folder: Path) -> dict[str, Tensor]:
    """A saved adapter's matrices by name.

    raises   FtError for files that are missing, damaged, or no adapter's
    """
    if not (folder / "adapter_model.safetensors").is_file():
        if (folder / "adapter_model.bin").is_file():
            fix = "Save it again with PEFT."
            raise FtError(folder, "adapter_model.safetensors", "adapter_model.bin, a pickle", fix)
        raise FtError(
            folder, "a saved adapter", "no adapter_model.safetensors", "Did the run's training finish?"
        )
    if "peft_type" not in read_json(folder / "adapter_config.json", {"peft_type": str}):
        fix = "Restore it, or make the adapter again."
        raise FtError(folder / "adapter_config.json", "a PEFT adapter's settings", "no peft_type", fix)
    try:
        return load_file(folder / "adapter_model.safetensors")
    except SafetensorError as error:
        fix = "Copy it again, or train again."
        raise FtError(folder, "whole weights", f"adapter_model.safetensors damaged: {error}", fix) from None


def load_whole(base: LanguageModel, folder: Path) -> PreTrainedModel:
    """Load the weights that full or scratch training saved, on the base's device; the base is not touched.

    raises   FtError where they are missing or damaged
    """
    if not (folder / "model.safetensors").is_file():
        raise FtError(folder, "a saved model", "no model.safetensors", "Did the run's training finish?")
    try:
        model = load_model(str(folder), "main", str(folder))
    except FtError:
        raise
    except Exception as error:  # the libraries raise many types at a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FtError(folder, "a readable model", reason, "Train again.") from None
    if type(model) is not type(base.model):
        expected, found = type(base.model).__name__, type(model).__name__
        raise FtError(folder, f"a {expected}, as its base", found, "Was it made for another base?")
    model.to(base.device)  # type: ignore[arg-type]  # transformers types it so
    return for_scoring(model)


def save_adapter(
    model: PeftModel | PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Save a plain PEFT adapter or a plain checkpoint, atomically and without the network.

    tokenizer   saved beside the weights of a whole model
    """
    with folder_written_whole(folder) as temporary:
        if isinstance(model, PeftModel) and hasattr(model, "pissa_start"):
            _save_pissa(model, temporary)
        elif isinstance(model, PeftModel):
            # by default PEFT asks the Hub whether the vocabulary grew (peft issue 1452)
            model.save_pretrained(str(temporary), save_embedding_layers=False)
        else:
            model.save_pretrained(str(temporary))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(temporary))
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's unfilled template is not our card
        if isinstance(model, PeftModel):
            _sort_names(temporary / "adapter_config.json")


def _sort_names(config: Path) -> None:
    """Give an adapter's config the same bytes in every process: PEFT keeps target names in a set."""
    values = {
        key: sorted(value)
        if isinstance(value, list) and all(isinstance(one, str) for one in value)
        else value
        for key, value in read_json(config).items()
    }
    config.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def set_dropout(model: nn.Module, *, active: bool) -> None:
    """Switch the adapter's own dropout; the base's stays off, in training too.

    The base's dropout would slow every step, and a frozen base cannot overfit.
    """
    for name, module in model.named_modules():
        if name.endswith("lora_dropout.default"):
            module.train(active)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training may move, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _lora_config(base: LanguageModel, plan: Adapter) -> LoraConfig:
    return LoraConfig(
        r=plan.known_rank,
        lora_alpha=plan.known_alpha,
        lora_dropout=plan.dropout,
        target_modules=_trunk_targets(base, plan.targets),
        fan_in_fan_out=base.family.conv1d,
        bias="none",
        use_rslora=plan.method == "rslora",
        use_dora=plan.method == "dora",
        init_lora_weights="pissa" if plan.method == "pissa" else True,
        trainable_token_indices=_token_rows(base, plan.tokens) or None,
        task_type=_task(base),
    )


def _token_rows(base: LanguageModel, words: list[str]) -> list[int]:
    """The embedding rows of words: of each piece, at the start of a text and after a space.

    The vocabulary never grows: a checkpoint with more rows than its base cannot be loaded as a plain adapter
    (PEFT raises IndexError), so a word without pieces of its own is refused.
    """
    if not words:
        return []
    tokenizer = base.tokenizer
    known, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    rows: set[int] = set()
    for word in words:
        one_row = [known[word]] if word in known else []  # also a slot such as BERT's [unused7]
        spelled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, f" {word}")]
        found = {row for row in [*one_row, *spelled[0], *spelled[1]] if row not in special}
        if not found or (tokenizer.unk_token_id in spelled[0] and not one_row):
            hint = "Growing the vocabulary is refused: plain PEFT could not load such an adapter."
            raise FtError("adapter.tokens", "words that the vocabulary can spell", word, hint)
        rows |= found
    return sorted(rows)


def _ia3_config(base: LanguageModel, plan: Adapter) -> IA3Config:
    """Scales on keys, values and the inner feed-forward activations (Liu et al. 2022, arXiv:2205.05638)."""
    if plan.targets != "auto":
        raise FtError("adapter.targets", "auto, with ia3", plan.targets, "ia3 chooses its own.")
    if not base.family.keys_values:
        found = f"{base.family.model_type}, detected automatically"
        raise FtError("adapter.method ia3", "a family whose keys and values are known", found, "Use lora.")
    names = [name for name, _ in base.model.named_modules()]

    def ending(suffixes: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
        ends, not_ends = (tuple(f".{suffix}" for suffix in some) for some in (suffixes, but))
        return [name for name in names if name.endswith(ends) and not name.endswith(not_ends)]

    # whole names: BERT's output.dense alone would match attention.output.dense too
    inner = ending(base.family.feed_forward_out, but=base.family.attention)
    return IA3Config(
        target_modules=[*ending(base.family.keys_values), *inner],
        feedforward_modules=inner,
        fan_in_fan_out=base.family.conv1d,
        task_type=_task(base),
    )


def _task(base: LanguageModel) -> str | None:
    """PEFT has no task type for masked models; None leaves the model's class as it is (peft issue 1229)."""
    return "CAUSAL_LM" if base.family.objective == "causal" else None


def _save_pissa(model: PeftModel, folder: Path) -> None:
    """Save as a plain LoRA adapter of twice the rank, which fits the unchanged base.

    W + s(B A - B0 A0) = W + s [B, -B0] [A; A0]: this adds the subtracted start back
    (Meng et al. 2024, arXiv:2404.02948, appendix C).
    """
    config: Any = model.peft_config["default"]
    start: dict[str, Tensor] = model.pissa_start
    now = trainable(model)
    whole = {
        name: torch.cat([now[name], start[name]], 0)
        if ".lora_A." in name
        else torch.cat([now[name], -start[name]], 1)
        for name in now
    }
    plain = copy.deepcopy(config)
    plain.r, plain.lora_alpha, plain.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    model.peft_config["default"] = plain
    try:
        model.save_pretrained(str(folder), state_dict=model.state_dict() | whole, save_embedding_layers=False)
    finally:
        model.peft_config["default"] = config


def _refuse_virtual_tokens(config: Any, folder: Path) -> None:
    """Refuse adapters that are not layers inside the trunk: they prepend rows or act from outside it."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    # an activated LoRA is off until PEFT's own forward sees its invocation tokens
    if not hasattr(tuner, "tuner_layer_cls") or getattr(config, "alora_invocation_tokens", None):
        found = "an activated LoRA" if hasattr(tuner, "tuner_layer_cls") else config.peft_type.value
        raise FtError(folder, "an adapter of layers, such as LoRA or IA3", found, "No other can be scored.")


def _unfit(folder: Path, base: LanguageModel, made_for: str | None, reason: str) -> FtError:
    expected = f"an adapter for {base.name}"
    if made_for in (None, base.name):
        return FtError(folder, expected, reason, "Was it made for another base?")
    return FtError(
        folder, expected, f"one made for {made_for} ({reason.rstrip('.')})", f"Use --base {made_for}."
    )


def _switches_off_exactly(config: Any) -> bool:
    """Whether switching the adapter off restores the base bitwise (tests/models/test_adapters.py)."""
    if config.peft_type not in ("LORA", "IA3"):
        return False
    is_plain = getattr(config, "bias", "none") == "none" and not getattr(config, "modules_to_save", None)
    return is_plain and getattr(config, "init_lora_weights", True) in (True, False, "gaussian")


def _trunk_targets(base: LanguageModel, choice: str | list[str]) -> list[str]:
    """The suffixes to adapt. PEFT itself would accept the head, an embedding or a misspelling."""
    targets, matrices = base.family.targets(choice), base.family.targets("auto")
    names = [f".{name}" for name, _ in base.model.named_modules()]
    ends = tuple(f".{matrix}" for matrix in matrices)
    for target in targets or ["nothing"]:
        matched = [name for name in names if name.endswith(f".{target}")]
        outside = [name[1:] for name in matched if not name.endswith(ends)]
        if outside or not matched:
            hint = f"Choose among {', '.join(matrices)}."
            raise FtError("adapter.targets", "matrices of the trunk", (outside or [target])[0], hint)
    return targets
