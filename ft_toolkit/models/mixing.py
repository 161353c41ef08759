"""A weighted sum of LoRA adapters of one base, as one plain LoRA adapter.

With updates s_i B_i A_i (s = alpha / r, or alpha / sqrt(r) for rsLoRA) the sum of w_i s_i B_i A_i is itself a
LoRA of rank r_1 + r_2 + …: the A stacked, the B side by side, each B multiplied by its w_i s_i. PEFT's own
add_weighted_adapter is silently wrong for rsLoRA and DoRA (peft issue 3761).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ft_toolkit.artefacts import folder_written_whole, read_json
from ft_toolkit.errors import FtError

Matrices = dict[str, NDArray[np.float32]]
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Settings of PEFT's LoRA that make the update something else than s B A; each must be empty.
_NOT_A_SUM = (
    "use_dora",
    "alpha_pattern",
    "rank_pattern",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
)


def write_mixed(folders: Sequence[Path], weights: Sequence[float], to: Path) -> int:
    """Write the weighted sum of saved adapters to a folder; returns its rank.

    A single adapter keeps its matrices, and its alpha is multiplied by the weight.

    raises   FtError for an adapter whose update is not s B A (DoRA, IA3, trained embedding rows, a bias)
    """
    configs = [read_json(folder / "adapter_config.json") for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        refuse_other_kinds(folder, config)
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    config = dict(configs[0])
    if len(folders) == 1:
        config["lora_alpha"] = config["lora_alpha"] * weights[0]
        matrices, rank = adapters[0], int(config["r"])
    else:
        matrices, rank = _summed(adapters, configs, weights)
        targets = sorted({target for each in configs for target in each["target_modules"]})
        config |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": targets}
    with folder_written_whole(to) as unfinished:
        text = json.dumps(config, indent=2, sort_keys=True)
        (unfinished / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        save_file(matrices, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
    return rank


def _summed(
    adapters: Sequence[Matrices], configs: Sequence[Mapping[str, Any]], weights: Sequence[float]
) -> tuple[Matrices, int]:
    """The matrices of the sum, and its rank; a module that an adapter does not touch is padded with zeros."""
    rank = sum(int(config["r"]) for config in configs)
    modules = sorted({name.removesuffix(_A) for each in adapters for name in each if name.endswith(_A)})
    found: Matrices = {}
    for module in modules:
        parts_a, parts_b = [], []
        for adapter, config, weight in zip(adapters, configs, weights, strict=True):
            if module + _A in adapter:
                parts_a.append(adapter[module + _A])
                parts_b.append(np.float32(weight * _scale(config)) * adapter[module + _B])
        a, b = np.concatenate(parts_a), np.concatenate(parts_b, axis=1)
        zeros = rank - len(a)
        found[module + _A] = np.ascontiguousarray(np.pad(a, ((0, zeros), (0, 0))))
        found[module + _B] = np.ascontiguousarray(np.pad(b, ((0, 0), (0, zeros))))
    return found, rank


def _scale(config: Mapping[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    """raises   FtError for an adapter whose update is not s B A, naming what makes it another"""
    kind = str(config.get("peft_type"))
    found = next((key for key in _NOT_A_SUM if config.get(key)), None)
    if config.get("trainable_token_indices"):
        found = "trained embedding rows"
    if config.get("bias", "none") != "none":
        found = "a trained bias"
    if not isinstance(config.get("target_modules"), list):
        found = found or "target_modules that are no list"
    if kind != "LORA" or found:
        wanted = "a LoRA adapter whose update is a plain product of matrices"
        raise FtError(folder, wanted, found or kind, "This needs lora, rslora, lora+ or pissa.")
