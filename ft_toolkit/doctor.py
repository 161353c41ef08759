"""What this machine offers and what would stop a run: ft doctor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ft_toolkit.network import hub_silence
from ft_toolkit.runtime import bfloat16_is_faster, prepare_torch, threads, versions

PATIENCE_SECONDS = 3.0  # for the Hub's answer: the user is waiting for the list
EXTRAS = {
    "gguf": "gguf",
    "llama": "llama_cpp",
    "onnx": "onnxruntime",
    "probe": "sklearn",
    "trackers": "tensorboard",
    "energy": "codecarbon",
    "oracles": "lm_eval",
}


def findings() -> Iterator[tuple[str, str]]:
    """(what, how it stands), a line each. It says whether a token is present, never the token."""
    import huggingface_hub
    import torch
    from huggingface_hub import constants

    from ft_toolkit.models.float_products import onednn_is_faster  # imports torch

    prepare_torch()
    yield from versions().items()
    yield "threads", f"{torch.get_num_threads()} of {threads()} physical cores"
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    yield "device", device
    faster = bfloat16_is_faster(device)
    yield "training precision", "bfloat16, in hardware" if faster else "float32: no faster bfloat16"
    yield "float32 products", "oneDNN's" if device == "cpu" and onednn_is_faster() else "torch's own"
    yield "memory", f"{_memory_bytes() / 1e9:.1f} GB"
    cache = Path(constants.HF_HUB_CACHE)
    yield "Hub cache", f"{cache} ({_free_gigabytes(cache)} GB free)"
    yield "this folder", f"{Path.cwd()} ({_free_gigabytes(Path.cwd())} GB free)"
    yield (
        "network",
        "off: HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _hub_answers(constants.ENDPOINT),
    )
    yield (
        "Hub token",
        "present" if huggingface_hub.get_token() else "none (needed only to push or for gated models)",
    )
    for extra, module in EXTRAS.items():
        yield f"extra {extra}", _installed(module, extra)


def _hub_answers(endpoint: str) -> str:
    silence = hub_silence(PATIENCE_SECONDS)
    return f"{silence}; starters and cached checkpoints work" if silence else f"{endpoint} answers"


def _installed(module: str, extra: str) -> str:
    from importlib.util import find_spec

    return "installed" if find_spec(module) else f"not installed (pip install 'ft-toolkit[{extra}]')"


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _free_gigabytes(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e9:.1f}" if os.access(path, os.R_OK) else "?"
