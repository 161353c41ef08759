"""A step's gradients, summed over micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import psutil
import torch
from torch import nn

from ft_toolkit.errors import FtError
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.sizes import ACTIVATION_BYTES
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import collate
from ft_toolkit.text.rows import Row

MICRO_TOKENS = 2048  # tokens of a micro-batch where memory allows; more is no faster
FREE_SHARE = 0.8  # of the free memory for activations: Linux ends a process that takes all, without a word


class Accumulation:
    """Forward and backward of this process's share of a step.

    loss   from accelerator.prepare(SummedLoss(…))
    """

    def __init__(self, loss: nn.Module, model: LanguageModel, session: Session) -> None:
        self.loss, self.model, self.session = loss, model, session
        self.micro_tokens = self._fitting()

    def gradients(
        self, batch: Sequence[Row], count: int, seed: int, is_stopped: Callable[[], bool]
    ) -> float | None:
        """Add the gradients of a step; returns the summed NLL in nats of all processes' shares.

        count     targets of the whole step, by which the sum is divided for the gradients
        seed      of dropout
        returns   None when it was stopped between micro-batches. With several processes only the end of a
                  step may stop it: the others would wait forever for one that left.

        Where memory is too short the step is taken again in halves of the size: the same rows in the same
        order, so that nothing but rounding changes.

        raises    FtError where one row does not fit
        """
        while True:
            torch.manual_seed(seed)
            with _shortage_noted() as shortage:
                return self._summed(batch, count, is_stopped)
            self._halve(batch, shortage[0])

    def _summed(self, batch: Sequence[Row], count: int, is_stopped: Callable[[], bool]) -> float | None:
        accelerator, family = self.session.accelerator, self.model.family
        mine = batch[accelerator.process_index :: accelerator.num_processes]
        weight = 1.0 if mine else 0.0  # a process without rows still takes part in the gradient all-reduce
        mine = mine or batch[:1]
        rows_at_once = max(1, self.micro_tokens // _longest(mine))
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        for start in range(0, len(mine), rows_at_once):
            if accelerator.num_processes == 1 and is_stopped():
                return None
            is_last = start + rows_at_once >= len(mine)
            rows = collate(mine[start : start + rows_at_once], family.objective, packed=family.packs)
            with nullcontext() if is_last else accelerator.no_sync(self.loss):
                nll, _ = self.loss(
                    rows.input_ids.to(accelerator.device),
                    rows.targets.to(accelerator.device),
                    rows.attention_mask.to(accelerator.device),
                    rows.position_ids.to(accelerator.device),
                )
                # DDP averages over processes; we want the sum over processes divided by the count
                accelerator.backward(nll * (weight * accelerator.num_processes / count))
            total += weight * nll.detach().double().cpu()
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total.float().to(accelerator.device), "sum")
        return float(total)

    def _halve(self, batch: Sequence[Row], shortage: BaseException) -> None:
        """Forget the step's gradients, and read half as many tokens at once from now on."""
        longest = _longest(batch)
        if self.session.accelerator.num_processes > 1:  # the others are in the middle of the step
            raise shortage
        if self.micro_tokens < 2 * longest:
            found = f"not enough for {longest} tokens at once"
            fix = "Lower training.block_tokens, or choose a smaller base."
            raise FtError("memory", "room for one row of training text", found, fix) from None
        shortage.__traceback__ = None  # it holds what the failed forward kept
        for parameter in self.loss.parameters():
            parameter.grad = None
        self.session.accelerator.free_memory()
        self.micro_tokens //= 2
        words = f"memory is short: at most {self.micro_tokens} tokens at once from now on"
        self.session.screen.say(f"{words}; the steps stay the same")

    def _fitting(self) -> int:
        """As many tokens as are expected to fit beside the model."""
        config, device = self.model.config, self.session.accelerator.device
        free = psutil.virtual_memory().available
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
        # in float32 twice those of 16 bits, to be safe
        token_bytes = 2 * ACTIVATION_BYTES * config.num_hidden_layers * config.hidden_size
        tokens = MICRO_TOKENS
        while tokens > 1 and tokens * token_bytes > FREE_SHARE * free:
            tokens //= 2
        return tokens


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.input_ids) for row in rows)


@contextmanager
def _shortage_noted() -> Iterator[list[BaseException]]:
    """Ends quietly where memory was too short, with the error in the list; any other error goes on."""
    noted: list[BaseException] = []
    try:
        yield noted
    except (torch.OutOfMemoryError, MemoryError) as error:
        noted.append(error)
    except RuntimeError as error:  # the CPU's allocator has no type of its own
        if "DefaultCPUAllocator" not in str(error):
            raise
        noted.append(error)
