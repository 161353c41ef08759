"""Sets up accelerate: the device, and the faster precision on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator, PartialState

from ft_toolkit.errors import FtError
from ft_toolkit.runtime import bfloat16_is_faster

# accelerate launch sets these; the losses, the saving and the scoring here read whole weights
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}
LOST_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo's


def make_accelerator(
    device: str = "auto", trackers: Sequence[str] = (), folder: str | None = None
) -> Accelerator:
    """accelerate with its own choice of device and processes; bf16 where the hardware multiplies it faster.

    device    auto, or a torch device such as cpu, cuda:1 or mps
    processes are found by accelerate; on the CPU only when it is told that the CPU is meant
    trackers  names that accelerate knows, such as tensorboard; they write below `folder`
    """
    _refuse_sharded_weights()
    if device != "auto":
        _require_device(device)
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    on_cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    try:
        kind = PartialState(cpu=on_cpu).device.type
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if bfloat16_is_faster(kind) else "no",
            log_with=list(trackers) or None,
            project_dir=folder,
        )
        if trackers:
            accelerator.init_trackers("ft_toolkit")
            if len(accelerator.trackers) < len(
                trackers
            ):  # accelerate silently skips trackers that are not installed
                found = f"{', '.join(trackers)}, not all of them installed"
                raise FtError(
                    "--track", "trackers that are installed", found, "pip install 'ft-toolkit[trackers]'."
                )
    except (RuntimeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise FtError("--device or --track", "one that is here", reason, "See ft doctor.") from None
    return accelerator


def _refuse_sharded_weights() -> None:
    """raises   FtError where accelerate was asked to divide the weights; on the CPU it silently would not"""
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            fix = "Leave it out; docs/runs.md says why."
            raise FtError("accelerate launch", "DDP: whole weights in every process", name, fix)


def _require_device(name: str) -> None:
    """raises   FtError for a device that is not available; torch itself would fail an assertion"""
    here = torch.accelerator.current_accelerator(check_available=True)
    counts = {"cpu": 1} | ({here.type: torch.accelerator.device_count()} if here else {})
    try:
        wanted = torch.device(name)
    except RuntimeError:
        wanted = torch.device("meta")  # never here
    if (wanted.index or 0) >= counts.get(wanted.type, 0):
        raise FtError("--device", f"auto or {' or '.join(counts)}, which is here", name, "See ft doctor.")


@contextmanager
def lost_process_told() -> Iterator[None]:
    """raises   FtError where another process of the same run has ended"""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST_WORDS):
            raise
        fix = "The same command goes on from what is saved."
        raise FtError("ft finetune", "all of its processes", "one that ended", fix) from None
