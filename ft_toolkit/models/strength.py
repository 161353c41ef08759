"""A trained LoRA at another strength: its update multiplied by a number, as a changed alpha would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from ft_toolkit.artefacts import read_json
from ft_toolkit.models.mixing import refuse_other_kinds


@contextmanager
def at_strength(model: PeftModel, strength: float) -> Iterator[None]:
    """Inside, the active adapter's update is multiplied: 0 is the base, 1 the adapter as it is.

    PEFT computes strength * alpha / rank in the order in which an adapter that ft mix wrote has it, so both
    give the same numbers.
    """
    name, layers = str(model.active_adapter), _layers(model)
    try:
        for layer in layers:
            layer.set_scale(name, strength)
        yield
    finally:
        for layer in layers:
            layer.set_scale(name, 1)


def set_strength(model: PeftModel, strength: float) -> None:
    """Multiply the active adapter's alpha for good: what is saved afterwards is the weaker adapter."""
    name = str(model.active_adapter)
    config: Any = model.peft_config[name]
    config.lora_alpha *= strength
    for layer in _layers(model):
        layer.lora_alpha[name] = config.lora_alpha
        layer.set_scale(name, 1)


def _layers(model: PeftModel) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def refuse_fixed_strength(folder: Path) -> None:
    """raises   FtError for an adapter that has no strength: DoRA, (IA)³, trained rows of embeddings"""
    refuse_other_kinds(folder, read_json(folder / "adapter_config.json"))
