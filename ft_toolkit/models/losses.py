"""Exact token losses without the waste: the head runs only where a target is, in chunks, and stays frozen.

The logits of a whole batch, (B, T, V), are never held: memory does not grow with vocabulary times batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from ft_toolkit.models.families import Family

NO_TARGET = -100
CHUNK_ROWS = 256  # rows of logits alive at once


class TokenLosses(nn.Module):
    """A language model, with or without adapter, as a function from rows to the NLL of each target."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.model = model
        self.family = family

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood, in nats, of every target.

        input_ids  (B, T)
        targets    (B, T) the id that position t must predict; NO_TARGET where nothing is asked
        returns    (n,) float32, in the order of the rows, n = number of targets
        """
        bare = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        uses_cache = {"use_cache": False} if self.family.objective == "causal" else {}
        trunk = bare.get_submodule(self.family.trunk)
        hidden = trunk(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **uses_cache
        ).last_hidden_state
        asked = targets != NO_TARGET
        hidden = hidden[asked]  # (n, D)
        for name in self.family.head:
            hidden = bare.get_submodule(name)(hidden)
        output = bare.get_submodule(self.family.output)
        nll: Tensor = _FrozenHeadNll.apply(hidden, output.weight, output.bias, targets[asked])  # type: ignore[no-untyped-call]  # torch types no autograd.Function
        return nll


class SummedLoss(nn.Module):
    """The one module that training prepares: sums and counts leave it, never a mean of means."""

    def __init__(self, losses: TokenLosses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, *batch: Tensor, **named: Tensor) -> tuple[Tensor, int]:
        """(sum of the targets' NLL in nats, number of targets)."""
        nll = self.losses(*batch, **named)
        return nll.sum(), nll.numel()


class _FrozenHeadNll(torch.autograd.Function):
    """Cross-entropy through a frozen projection; its input gradient is made chunk by chunk on the way.

    d nll / d hidden = (softmax - onehot) W. With W frozen nothing else is needed backward, so each chunk's
    logits can be let go at once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        nll = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(targets), CHUNK_ROWS):
            some = slice(start, start + CHUNK_ROWS)
            logits = F.linear(hidden[some], weight, bias).float()  # (rows, V)
            log_total = logits.logsumexp(-1)
            asked = targets[some, None]
            nll[some] = log_total - logits.gather(-1, asked).squeeze(-1)
            if gradient is not None:
                pull = logits.sub_(log_total[:, None]).exp_()
                pull.scatter_add_(-1, asked, torch.full_like(asked, -1, dtype=pull.dtype))
                gradient[some] = (pull.to(weight.dtype) @ weight).to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None
