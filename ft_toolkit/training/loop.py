"""Rows and a fresh adapter in, a trained adapter out: the one training loop.

A step's loss is the sum over its targets divided by their number, across micro-batches and processes: every
process holds all rows, so the number is known before the first forward pass and nothing must be gathered.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import psutil
import torch
from accelerate import Accelerator, PartialState
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ft_toolkit.errors import FtError, NumbersGoneWrong, Terminated, told_when_stopped
from ft_toolkit.models.adapters import set_dropout, trainable
from ft_toolkit.models.checkpoints import Base
from ft_toolkit.models.losses import NO_TARGET, SummedLoss, TokenLosses
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Training
from ft_toolkit.runtime import bfloat16_is_faster
from ft_toolkit.text.blocks import Row, collate, mask
from ft_toolkit.training.optimizers import set_learning_rate

MICRO_TOKENS = 2048  # read at once; a step's other tokens follow before the optimizer moves
VALIDATIONS = 8  # over the planned steps
GRADIENT_NORM = 1.0
StopReason = Literal["done", "patience", "budget", "interrupted", "terminated"]


@dataclass(frozen=True)
class Outcome:
    """How training went. The model holds the adapter of `best_step` when it is over."""

    steps: int
    planned_steps: int
    best_step: int
    base_validation_nats: float  # a token, before the first step: an untrained adapter changes nothing
    best_validation_nats: float | None  # None when it stopped before the first validation
    tokens: int  # read in training, all epochs
    seconds: float
    precision: str
    stopped_by: StopReason

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def make_accelerator(
    device: str = "auto", trackers: Sequence[str] = (), folder: str | None = None
) -> Accelerator:
    """accelerate's own choice of device and processes; bf16 where the hardware multiplies it faster.

    device    auto, or a torch device such as cpu, cuda:1 or mps
    processes are found by accelerate; on the CPU only when it is told that the CPU is meant
    trackers  names that accelerate knows, such as tensorboard; they write below `folder`
    """
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
            if len(accelerator.trackers) < len(trackers):  # accelerate passes over what is not installed
                found = f"{', '.join(trackers)}, not all of them installed"
                raise FtError(
                    "--track", "trackers that are installed", found, "pip install 'ft-toolkit[trackers]'."
                )
    except (RuntimeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise FtError("--device or --track", "one that is here", reason, "See ft doctor.") from None
    return accelerator


def _require_device(name: str) -> None:
    """raises   FtError for a device that is not here, where torch would fail an assertion"""
    here = torch.accelerator.current_accelerator(check_available=True)
    counts = {"cpu": 1} | ({here.type: torch.accelerator.device_count()} if here else {})
    try:
        wanted = torch.device(name)
    except RuntimeError:
        wanted = torch.device("meta")  # never here
    if (wanted.index or 0) >= counts.get(wanted.type, 0):
        raise FtError("--device", f"auto or {' or '.join(counts)}, which is here", name, "See ft doctor.")


def learning_rate(step: int, steps: int, plan: Training, spent: float = 0.0) -> float:
    """Linear warm-up to the peak, then a cosine to zero. Steps count from 0.

    spent   share of the budget's time that is used up: where it is larger than the share of the steps, the
            rate goes by it, so that a run that its budget cuts has come down to zero as well
    """
    place = max(float(step), min(spent, 1.0) * steps)
    warmup_steps = round(plan.warmup_fraction * steps)
    if place < warmup_steps:
        return plan.learning_rate * (place + 1) / (warmup_steps + 1)
    progress = (place - warmup_steps) / max(1, steps - warmup_steps)
    return plan.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def train(
    model: PeftModel | PreTrainedModel,
    base: Base,
    rows: Sequence[Row],
    plan: Training,
    optimizers: list[Optimizer],
    validate: Callable[[], float],
    accelerator: Accelerator,
    screen: Screen,
    record: Callable[[dict[str, object]], None] = lambda line: None,
    keep: Callable[[], object] = lambda: None,
) -> Outcome:
    """Train the adapter in place, and leave in it the one that validated best.

    model     an adapter's model or one whose weights are all trainable, from adapters.attach_adapter
    rows      training rows from blocks.pack; masked ones are hidden afresh each epoch
    optimizers  from optimizers.make_optimizers, for this model
    validate  nats a token of the validation part, in float32, called VALIDATIONS times
    record    receives one line a step
    keep      called at each better validation: whatever happens later, that adapter is safe
    raises    NumbersGoneWrong at the first loss that is not finite
    """
    losses = TokenLosses(model, base.family)
    parameters = trainable(model)
    prepared, *optimizers = accelerator.prepare(SummedLoss(losses), *optimizers)
    batches_per_epoch = len(_batches(rows, plan, base.family.packs, epoch=0))
    steps = plan.steps or plan.epochs * batches_per_epoch
    validate_every = max(1, math.ceil(steps / VALIDATIONS))
    special_ids = base.tokenizer.all_special_ids
    plain_ids = np.setdiff1d(np.arange(base.model.config.vocab_size, dtype=np.int32), special_ids)
    torch.manual_seed(plan.seed)
    started = time.monotonic()
    best: dict[str, Tensor] = {}
    best_nats, best_step, steps_done, tokens, without_gain = math.inf, 0, 0, 0, 0
    with told_when_stopped("before the first step; nothing was trained"):
        base_nats = validate()
    first_step = time.monotonic()  # a slow first validation may not take the warm-up's share of a budget
    stopped_by: StopReason = "done"
    try:
        set_dropout(model, active=True)
        with screen.stage("training", steps) as advance:
            for step, (epoch, batch) in enumerate(_endless(rows, plan, base.family.packs), start=1):
                # the first step learns, however small the budget is
                spent = _spent(accelerator, plan.budget, started, first_step) if step > 1 else 0.0
                rate = learning_rate(step - 1, steps, plan, spent)
                set_learning_rate(optimizers, rate)
                if base.family.objective == "masked":
                    hidden_by, share = base.special.mask or 0, plan.mask_fraction
                    batch = [mask(row, plan.seed, epoch, hidden_by, plain_ids, share) for row in batch]
                count = sum(int((row.targets != NO_TARGET).sum()) for row in batch)
                nats = _accumulate(prepared, accelerator, base, batch, count) if count else 0.0
                if not math.isfinite(nats):
                    where, fix = f"training step {step}", "Lower training.learning_rate."
                    raise NumbersGoneWrong(where, "a finite loss", nats, fix)
                norm = accelerator.clip_grad_norm_(list(parameters.values()), GRADIENT_NORM)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                steps_done = step
                tokens += sum(len(row.input_ids) for row in batch)
                seconds = time.monotonic() - started
                line: dict[str, object] = {
                    "step": step,
                    "epoch": epoch,
                    "loss_nats": nats / max(count, 1),
                    "learning_rate": rate,
                    "gradient_norm": float(norm) if norm is not None else None,
                    "targets": count,
                    "tokens": tokens,
                    "seconds": round(seconds, 3),
                }
                over_budget = _spent(accelerator, plan.budget, started, started) >= 1
                if step % validate_every == 0 or step == steps or over_budget:
                    set_dropout(model, active=False)
                    found = validate()
                    set_dropout(model, active=True)
                    line["validation_nats"] = found
                    without_gain += 1
                    if found < best_nats:
                        best_nats, best_step, without_gain = found, step, 0
                        best = {name: p.detach().clone() for name, p in parameters.items()}
                record(line)
                if best_step == step:
                    keep()
                accelerator.log({k: v for k, v in line.items() if isinstance(v, int | float)}, step=step)
                advance(1, _figures(nats / max(count, 1), best_nats, tokens / max(seconds, 1e-9)))
                if step == steps:
                    break
                if over_budget or without_gain >= plan.patience:
                    stopped_by = "budget" if over_budget else "patience"
                    break
    except (KeyboardInterrupt, Terminated) as signal:
        stopped_by = "terminated" if isinstance(signal, Terminated) else "interrupted"
    finally:
        set_dropout(model, active=False)
        accelerator.free_memory()
    with torch.no_grad():
        for name, value in best.items():
            parameters[name].copy_(value)
    return Outcome(
        steps=steps_done,
        planned_steps=steps,
        best_step=best_step or steps_done,
        base_validation_nats=base_nats,
        best_validation_nats=best_nats if best else None,
        tokens=tokens,
        seconds=time.monotonic() - started,
        precision=accelerator.mixed_precision.replace("no", "float32"),
        stopped_by=stopped_by,
    )


def _accumulate(
    prepared: torch.nn.Module, accelerator: Accelerator, base: Base, batch: Sequence[Row], count: int
) -> float:
    """Backward over this process's share of a step; returns the summed NLL of all processes' shares."""
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    weight = 1.0 if mine else 0.0  # a process without a row still takes part in the gradients' sum
    mine = mine or batch[:1]
    rows_at_once = max(1, MICRO_TOKENS // max(len(row.input_ids) for row in batch))
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for start in range(0, len(mine), rows_at_once):
        is_last = start + rows_at_once >= len(mine)
        rows = collate(mine[start : start + rows_at_once], base.family.objective, packed=base.family.packs)
        with nullcontext() if is_last else accelerator.no_sync(prepared):
            nll, _ = prepared(
                rows.input_ids.to(accelerator.device),
                rows.targets.to(accelerator.device),
                rows.attention_mask.to(accelerator.device),
                rows.position_ids.to(accelerator.device),
            )
            # DDP averages over processes; what is wanted is the sum over processes, divided by the count
            accelerator.backward(nll * (weight * accelerator.num_processes / count))
        total += weight * nll.detach().double().cpu()
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total.float().to(accelerator.device), "sum")
    return float(total)


def _spent(accelerator: Accelerator, budget: float | None, started: float, since: float) -> float:
    """The share of the budget's time behind `since` that is used up, by the clock that went furthest.

    One number for all processes: another rate in each would part their adapters, and one that stops alone
    would leave the others waiting.
    """
    if budget is None:
        return 0.0
    share = (time.monotonic() - since) / max(budget - (since - started), 1e-9)
    if accelerator.num_processes > 1:
        share = float(accelerator.gather(torch.tensor([share], device=accelerator.device)).max())
    return share


def _endless(rows: Sequence[Row], plan: Training, packed: bool) -> Iterator[tuple[int, list[Row]]]:
    epoch = 0
    while True:
        for batch in _batches(rows, plan, packed, epoch):
            yield epoch, batch
        epoch += 1


def _batches(rows: Sequence[Row], plan: Training, packed: bool, epoch: int) -> list[list[Row]]:
    """A step's rows each, in an order drawn from (seed, epoch) alone; an epoch's steps are nearly equal.

    Every step moves the weights as far (Adam divides by the gradient's size), so a rest of a few rows at an
    epoch's end would count as much as a full step: it is spread over all of them.
    """
    draw = np.random.default_rng([plan.seed, epoch])
    order = draw.permutation(len(rows))
    if packed:  # rows are full
        block_tokens = plan.block_tokens or max(len(row.input_ids) for row in rows)
        size = max(1, plan.batch_tokens // block_tokens)
        return [[rows[i] for i in some] for some in np.array_split(order, math.ceil(len(rows) / size))]
    # rows of one length stay together, for little padding; a row goes where its middle token falls
    lengths = np.array([len(row.input_ids) for row in rows])
    order = order[np.argsort(lengths[order], kind="stable")]
    middles = np.cumsum(lengths[order]) - lengths[order] / 2
    steps = math.ceil(lengths.sum() / plan.batch_tokens)
    edges = np.flatnonzero(np.diff(middles * steps // lengths.sum())) + 1
    batches = [[rows[i] for i in some] for some in np.split(order, edges)]
    return [batches[i] for i in draw.permutation(len(batches))]


def _figures(loss: float, best_nats: float, tokens_per_second: float) -> str:
    gigabytes = psutil.Process().memory_info().rss / 1e9
    validated = f"  validation {best_nats:.3f}" if math.isfinite(best_nats) else ""
    return f"loss {loss:.3f}{validated}  {tokens_per_second:.0f} tokens/s  {gigabytes:.1f} GB"
