"""A base and its adapter: load, attach, save without the network, load again."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ft_toolkit.errors import FtError
from ft_toolkit.models.checkpoints import Base
from ft_toolkit.recipe import Adapter


def attach_adapter(base: Base, plan: Adapter, seed: int) -> PeftModel:
    """Put a LoRA adapter on a base, in place; at first it changes nothing, since B starts at zero.

    raises   FtError for a target that is no matrix of the trunk; the base is then untouched
    """
    targets = _trunk_targets(base, plan.targets)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=targets,
        fan_in_fan_out=base.family.conv1d,
        bias="none",
        # PEFT has no task type for masked models; None leaves the model's class as it is (peft issue 1229)
        task_type="CAUSAL_LM" if base.family.objective == "causal" else None,
    )
    model = get_peft_model(base.model, config)
    model.peft_config["default"].base_model_name_or_path = base.name
    model.eval()  # new layers come in training mode, where the base's dropout would be on
    return model


def load_adapter(base: Base, folder: Path, onto: PeftModel | None = None) -> PeftModel:
    """Load a saved adapter onto a freshly loaded base, or beside another adapter of it, and switch it on.

    onto   what an earlier call returned: its weights serve this adapter too
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise FtError(
            folder, "a saved adapter", "no adapter_model.safetensors", "Did the run's training finish?"
        )
    try:
        name = "default" if onto is None else f"beside_{len(onto.peft_config)}"
        if onto is None:
            model = PeftModel.from_pretrained(base.model, str(folder), is_trainable=False)
        else:
            model = onto
            model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            model.set_adapter(name)
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise FtError(
            folder, f"an adapter for {base.name}", reason, "Was it made for another base?"
        ) from None
    weights = load_file(folder / "adapter_model.safetensors")
    strangers = (
        weights.keys()
        ^ get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
    )
    if strangers:  # PEFT leaves out what finds no place, and leaves at zero what finds no weights
        found = f"{len(strangers)} matrices without a counterpart, such as {min(strangers)}"
        raise FtError(folder, f"an adapter for {base.name}", found, "Was it made for another base?")
    model.eval()
    return model


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Save a plain PEFT adapter; whole or not at all, and without asking the Hub anything."""
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # left to itself PEFT asks the Hub whether the vocabulary grew (peft issue 1452)
        model.save_pretrained(str(temporary), save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's unfilled template is not our card
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


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


def _trunk_targets(base: Base, wanted: str | list[str]) -> list[str]:
    """The suffixes to adapt. PEFT would take the head, an embedding, a misspelling beside a right name."""
    targets, matrices = base.family.targets(wanted), base.family.targets("auto")
    names = [f".{name}" for name, _ in base.model.named_modules()]
    ends = tuple(f".{matrix}" for matrix in matrices)
    for target in targets or ["nothing"]:
        matched = [name for name in names if name.endswith(f".{target}")]
        outside = [name[1:] for name in matched if not name.endswith(ends)]
        if outside or not matched:
            hint = f"Choose among {', '.join(matrices)}."
            raise FtError("adapter.targets", "matrices of the trunk", (outside or [target])[0], hint)
    return targets
