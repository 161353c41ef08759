"""Detects the parts of an architecture that is not in the table, and checks them against the model's own
logits.

A probe computes the loss from the detected parts and from the logits. A model where the two differ (capped or
scaled logits, an unknown head, attention to later tokens) is refused, never approximated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from ft_toolkit.errors import FtError
from ft_toolkit.models.families import FAMILIES, Activation, Family, Objective, family_of
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer

PROBE_TOKENS = 12
TOLERANCE = 1e-4  # nats, and relative: room for rounding by another order of sums, no more


def objective_of(config: PretrainedConfig, where: str) -> Objective:
    """Whether a checkpoint predicts the next token or masked ones; many encoders load as either.

    raises   FtError for an encoder-decoder, and for what transformers loads as neither
    """
    if config.model_type in FAMILIES:
        return family_of(config, where).objective
    wanted = "a causal or a masked language model"
    fix = "Choose a decoder, as gpt2, or an encoder, as bert."
    if getattr(config, "is_encoder_decoder", False):
        raise FtError(where, wanted, f"{config.model_type}, an encoder-decoder", fix)
    if hasattr(config, "vocab_size"):  # a model of text alone
        if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
            return "masked"
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return "causal"
    raise FtError(where, wanted, f"model_type {config.model_type}", fix)


def family_for(model: PreTrainedModel, where: str) -> Family:
    """The row of the table, or a detected one; its note then says so.

    raises   FtError with the nearest family and its module names, where the parts do not give the model's
             own logits
    """
    if model.config.model_type in FAMILIES:
        return family_of(model.config, where)
    objective = objective_of(model.config, where)
    heads = dict.fromkeys([(), *(row.head for row in FAMILIES.values() if row.objective == objective)])
    for head in heads:
        family = _assembled(model, objective, head)
        if family is not None and _agrees(model, family):
            return family
    near = max(FAMILIES.values(), key=lambda row: (row.objective == objective, _shared(row, model)))
    nearest = f"Nearest: {near.model_type} ({', '.join(near.targets('auto'))})."
    raise FtError(where, "a family of the table or its like", model.config.model_type, nearest)


def _assembled(
    model: PreTrainedModel, objective: Objective, head: tuple[str | Activation, ...]
) -> Family | None:
    """A row for a model, if it has the parts that a row needs."""
    modules = dict(model.named_modules())
    trunk, config = model.base_model_prefix, model.config
    projection: Any = model.get_output_embeddings()
    output = next((name for name, module in modules.items() if module is projection), None)
    parts = [trunk, *(part for part in head if isinstance(part, str))]
    if (
        not isinstance(projection, nn.Linear)
        or output is None
        or not all(part in modules for part in parts)
        or not _has_positions(config)
    ):
        return None
    matrices = {
        name: _in_its_layer(name) for name, module in modules.items() if _is_matrix(name, module, trunk)
    }
    ends = tuple(f".{suffix}" for suffix in matrices.values())
    strangers = [name for name in modules if f".{name}".endswith(ends) and name not in matrices]
    suffixes = list(dict.fromkeys(matrices if strangers else matrices.values()))
    attention = tuple(suffix for suffix in suffixes if "att" in suffix.lower())
    offsets = [
        module.padding_idx + 1
        for name, module in modules.items()
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    return Family(
        model_type=config.model_type,
        objective=objective,
        tier=2,
        trunk=trunk,
        head=head,
        output=output,
        attention=attention,
        feed_forward=tuple(suffix for suffix in suffixes if suffix not in attention),
        keys_values=(),
        feed_forward_out=(),
        packs=False,
        conv1d=any(isinstance(modules[name], Conv1D) for name in matrices),
        first_position=lambda config: max(offsets, default=0),
        note=f"{config.model_type} is not in the table of families; its parts were detected: "
        f"{len(matrices)} matrices of its layers can be adapted ({', '.join(suffixes[:8])}), and rows hold "
        "one document each",
    )


def _has_positions(config: PretrainedConfig) -> bool:
    try:
        return hasattr(config, "max_position_embeddings")
    except NotImplementedError:  # XLNet's way of saying that there is no limit
        return False


def _is_matrix(name: str, module: nn.Module, trunk: str) -> bool:
    """Whether it is one of the matrices of the numbered layers."""
    inside = name.startswith(f"{trunk}.") and any(part.isdigit() for part in name.split("."))
    return inside and isinstance(module, nn.Linear | Conv1D)


def _in_its_layer(name: str) -> str:
    """encoder.layer.3.attention.self.query → attention.self.query"""
    parts = name.split(".")
    last = max(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[last + 1 :]) or name


def _agrees(model: PreTrainedModel, family: Family) -> bool:
    """Whether the parts reproduce the model's loss, padding is ignored and a causal model looks back only."""
    draw = torch.Generator().manual_seed(0)
    # not the first ids: padding is among them, and some count positions by what is not padding
    ids = torch.randint(4, model.config.vocab_size, (2, PROBE_TOKENS), generator=draw).to(model.device)
    half = PROBE_TOKENS // 2
    targets = ids.roll(1, dims=1)
    losses = TokenScorer(model, family)
    try:
        with torch.inference_mode():
            own = F.cross_entropy(
                model(input_ids=ids).logits.float().flatten(0, 1), targets.flatten(), reduction="none"
            )
            lean = losses(ids, targets)
            padded, seen = F.pad(ids, (0, 3), value=1), F.pad(torch.ones_like(ids), (0, 3))
            alone = losses(padded, F.pad(targets, (0, 3), value=NO_TARGET), seen)
            before = targets.clone()
            before[:, half:] = NO_TARGET
            other_end = torch.cat([ids[:, :half], ids[:, half:].flip(1)], dim=1)
            looking_back = losses(ids, before), losses(other_end, before)
    except (
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
    ):  # a foreign model may fail in any of these ways
        return False
    return (
        _close(own, lean) and _close(lean, alone) and (family.objective == "masked" or _close(*looking_back))
    )


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def _shared(row: Family, model: nn.Module) -> int:
    """How many modules of a model are named as a row's matrices are."""
    ends = tuple(f".{suffix}" for suffix in row.targets("auto"))
    return sum(name.endswith(ends) for name, _ in model.named_modules())
