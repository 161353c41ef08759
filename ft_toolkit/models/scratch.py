"""Fresh weights, for method scratch."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ft_toolkit.models.language_model import LanguageModel, for_scoring

SINUSOIDAL_SCALE = 0.05  # of fresh position tables: docs/log.md


def fresh_model(base: LanguageModel) -> PreTrainedModel:
    """The base's architecture with fresh weights.

    A learned position table starts as sinusoids (Vaswani et al. 2017, section 3.5): with random rows a
    small masked model stays at the unigram level for millions of tokens (docs/log.md).
    """
    kind: Any = type(base.model)
    model: PreTrainedModel = kind(copy.deepcopy(base.config))
    if base.family.position_table is not None:
        table = model.get_parameter(f"{base.family.trunk}.{base.family.position_table}.weight")
        with torch.no_grad():
            table.copy_(SINUSOIDAL_SCALE * _sinusoids(*table.shape))
    return for_scoring(model).requires_grad_(True)


def _sinusoids(rows: int, width: int) -> Tensor:
    angles = torch.arange(rows)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(rows, -1)[:, :width]
