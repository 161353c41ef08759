"""Which optimizer trains which weights. Each group's `lr_multiplier` scales the recipe's learning rate."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from ft_toolkit.models.adapters import trainable
from ft_toolkit.models.families import Family
from ft_toolkit.sections import Adapter

MUON_LR_MULTIPLIER = 5.0  # Muon's rate over AdamW's: 0.015 beside 3e-3, docs/log.md
B_LR_MULTIPLIER = 16.0  # LoRA+: B's rate over A's (Hayou et al. 2024, arXiv:2402.12354, section 4)


def make_optimizers(model: nn.Module, family: Family, plan: Adapter) -> list[Optimizer]:
    """AdamW, except for the trunk's matrices under scratch, which Muon trains in fewer tokens.

    Weight decay is off: an adapter is limited by its rank, and a few passes hardly overfit.
    """
    parameters = trainable(model)
    hidden_matrices = set()
    if plan.method == "scratch":  # torch.optim.Muon, after github.com/KellerJordan/Muon
        inside = f"{family.trunk}."
        matrices = family.targets("auto")
        hidden_matrices = {
            name
            for name, parameter in parameters.items()
            if name.startswith(inside)
            and parameter.ndim == 2
            and name.removesuffix(".weight").endswith(tuple(f".{matrix}" for matrix in matrices))
        }
    slow = [p for name, p in parameters.items() if name not in hidden_matrices and not _is_b(name, plan)]
    fast = [p for name, p in parameters.items() if _is_b(name, plan)]
    groups = [{"params": slow, "lr_multiplier": 1.0}]
    if fast:
        groups.append({"params": fast, "lr_multiplier": B_LR_MULTIPLIER})
    # one pass over each weight: 52 ms instead of 129 where all of GPT-2's are trained (docs/log.md)
    adamw = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.0, fused=plan.is_whole_model)
    optimizers: list[Optimizer] = [adamw]
    if hidden_matrices:
        matrices_in_order = [parameters[name] for name in sorted(hidden_matrices)]
        muon = [{"params": matrices_in_order, "lr_multiplier": MUON_LR_MULTIPLIER}]
        optimizers.append(torch.optim.Muon(muon, lr=1.0, weight_decay=0.0))
    return optimizers


def set_learning_rate(optimizers: list[Optimizer], rate: float) -> None:
    """Give every group its multiple of the rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_multiplier"]


def _is_b(name: str, plan: Adapter) -> bool:
    return plan.method == "lora+" and ".lora_B." in name
