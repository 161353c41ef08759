"""Exact token losses, computed only where there is a target, a slice of the vocabulary at a time.

The logits of a whole batch, (B, T, V), are never held: memory does not grow with vocabulary times batch.
For masked models the last feed-forward layer runs only at target positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers.activations import GELUTanh, NewGELUActivation

from ft_toolkit.models.attention_products import attention_as_products
from ft_toolkit.models.families import Family
from ft_toolkit.models.float_products import product, products_through_onednn
from ft_toolkit.models.lora_products import RoundedOnce, fewer_passes, plain_lora_layers

NO_TARGET = -100
CHUNK_POSITIONS = 64  # rows of logits alive at once where a whole row is needed
CHUNK_WORDS = 1024  # columns of logits alive at once: they stay in the cache (docs/log.md)
HeadInputs = tuple[Tensor, Tensor, Tensor | None, Tensor]  # as TokenScorer.head_inputs has it


class TokenScorer(nn.Module):
    """A language model, with or without adapter, as a function from rows to the NLL of each target."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        super().__init__()
        self.model = model
        self.family = family
        # once: walking through all modules at every step takes a tiny model longer than its forward
        self._last_feed_forward = _last_feed_forward(self._bare.get_submodule(family.trunk), family)

    @property
    def _bare(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood, in nats, of every target; for scoring, so without gradients.

        input_ids     (B, T)
        position_ids  (B, T) from 0 in every document; what the family adds to them is added here
        targets       (B, T) the id that position t must predict; NO_TARGET: not scored
        returns       (n,) float32, in the order of the rows, n = number of targets
        """
        return self.nll_and_top1(input_ids, targets, attention_mask, position_ids)[0]

    def nll_and_top1(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As forward, and (n,) bool: no other word has a higher logit than the target; a tie counts."""
        with torch.no_grad():
            return _nll_and_top1(*self.head_inputs(input_ids, targets, attention_mask, position_ids))

    def head_inputs(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> HeadInputs:
        """(hidden states (n, D) before the projection, its weight (V, D), its bias, target ids (n,))."""
        bare = self._bare
        more: dict[str, Any] = {"use_cache": False} if self.family.objective == "causal" else {}
        if (
            position_ids is not None and self.family.packs
        ):  # other families read one text a row from position 0
            more["position_ids"] = position_ids + self.family.first_position(bare.config)
        trunk = bare.get_submodule(self.family.trunk)
        target_mask = targets != NO_TARGET
        with _only_where(target_mask, self._last_feed_forward), products_through_onednn():
            hidden_states = trunk(
                input_ids=input_ids, attention_mask=attention_mask, **more
            ).last_hidden_state
        hidden_states = hidden_states[target_mask]  # (n, D)
        for part in self.family.head:
            hidden_states = (
                bare.get_submodule(part)(hidden_states) if isinstance(part, str) else part(hidden_states)
            )
        output: Any = bare.get_submodule(self.family.output)
        # where rows of a tied embedding are trained PEFT's own forward leaves the bias out (0.21)
        plain: Any = output.token_adapter.base_layer if isinstance(output, TrainableTokensWrapper) else output
        place = self.family.output_bias
        bias: Tensor | None = plain.bias if place is None else bare.get_parameter(place)
        return hidden_states, output.weight, bias, targets[target_mask]


def _last_feed_forward(trunk: Any, family: Family) -> tuple[nn.Module, nn.Module] | None:
    """The way in and the way out of a masked model's last feed-forward layer; None where all of it is needed.

    A causal model has targets nearly everywhere. Detected families have no known layer order, and layers that
    share their matrices (albert) have no last one.
    """
    if family.objective == "causal" or not family.feed_forward_out:
        return None
    ways_in, ways_out = (
        [module for name, module in trunk.named_modules() if f".{name}".endswith(f".{suffix}")]
        for suffix in (family.feed_forward[0], family.feed_forward_out[0])
    )
    return (ways_in[-1], ways_out[-1]) if len(ways_in) == trunk.config.num_hidden_layers else None


@contextmanager
def _only_where(target_mask: Tensor, feed_forward: tuple[nn.Module, nn.Module] | None) -> Iterator[None]:
    """Run the last feed-forward layer only at target positions; no other output of it is used.

    target_mask   (B, T), true where a target is
    """
    if feed_forward is None:
        yield
        return
    way_in, way_out = feed_forward

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        (hidden_states,) = inputs
        # not with transformers' chunk_size_feed_forward
        is_whole = hidden_states.shape[:-1] == target_mask.shape
        return hidden_states[target_mask] if is_whole else None  # (n, D)

    def put_back(module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        if output.ndim > 2:
            return None
        whole = output.new_zeros(*target_mask.shape, output.shape[-1])
        return whole.masked_scatter(target_mask[..., None], output)

    hooks = way_in.register_forward_pre_hook(take), way_out.register_forward_hook(put_back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nll_and_top1(
    hidden_states: Tensor, weight: Tensor, bias: Tensor | None, target_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """log sum exp of all logits minus the target's, (n,) at least float32, a slice of words at a time.

    Also whether the target's logit is the highest; this is cheap while the slice is in the cache.
    """
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    target_logits = torch.empty(len(target_ids), dtype=wide, device=hidden_states.device)
    logsumexps, highest = [], []
    for some, logits in _slices(hidden_states, weight, bias):
        logsumexps.append(logits.logsumexp(-1))
        highest.append(logits.amax(-1))
        places = _places(target_ids, some)
        target_logits[places[0]] = logits[places]
    return torch.stack(logsumexps).logsumexp(0) - target_logits, target_logits >= torch.stack(highest).amax(0)


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's GELU, written as eight passes, by torch's fused kernel of the same formula."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, GELUTanh().train(child.training))


class SummedLoss(nn.Module):
    """The module that training wraps (DDP, precision): returns sums and counts, never a mean of means."""

    def __init__(self, scorer: TokenScorer) -> None:
        super().__init__()
        self.scorer = scorer
        self._lora_layers, self._rounded = plain_lora_layers(scorer.model), RoundedOnce()

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """(sum of the targets' NLL in nats, number of targets); arguments as for TokenScorer."""
        with fewer_passes(self._lora_layers, self._rounded), attention_as_products():
            hidden_states, weight, bias, target_ids = self.scorer.head_inputs(
                input_ids, targets, attention_mask, position_ids
            )
        weight = self._rounded(weight)
        total: Tensor = _SummedNll.apply(hidden_states, weight, bias, target_ids)  # type: ignore[no-untyped-call]  # torch types no autograd.Function
        return total, len(target_ids)


class _SummedNll(torch.autograd.Function):
    """Summed cross-entropy through the output projection; gradients are computed slice by slice in forward.

    With P = softmax - onehot: d nll / d hidden = P W, d nll / d W = P^T hidden. The sum's outer gradient is
    one number, so both are complete before backward begins, and each slice's logits can be freed at once.
    P W is summed beside the softmax's own sum, both rescaled when a slice holds a larger logit (Milakov and
    Gimelshein 2018, arXiv:1805.02867), so that each logit is computed once; P^T hidden needs them again.
    A frozen W, as under an adapter, needs neither its gradient nor memory for it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, bias: Tensor | None, target_ids: Tensor
    ) -> Tensor:
        _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        wide = torch.promote_types(hidden_states.dtype, torch.float32)
        row_max = torch.full((len(target_ids), 1), -torch.inf, dtype=wide, device=hidden_states.device)
        share, target_logits = torch.zeros_like(row_max), torch.zeros_like(row_max)
        of_hidden = torch.zeros(hidden_states.shape, dtype=wide, device=hidden_states.device)
        for some, logits in _slices(hidden_states, weight, bias):
            places = _places(target_ids, some)
            target_logits[places[0], 0] = logits[places]
            before, row_max = row_max, torch.maximum(row_max, logits.amax(-1, keepdim=True))
            shrink = (before - row_max).exp_()
            exp_logits = logits.sub_(row_max).exp_()
            share.mul_(shrink).add_(exp_logits.sum(-1, keepdim=True))
            exp_logits[places] = (
                0  # P - 1 is computed below in float32: bfloat16 would round it to 0 where P is near 1
            )
            words = _as_wide(weight[some], hidden_states)
            of_hidden.mul_(shrink).add_(product(exp_logits.to(words.dtype), words))
        log_sum = row_max + share.log()
        of_hidden.div_(share).add_((target_logits - log_sum).expm1_() * weight[target_ids])
        of_weight = torch.empty_like(weight) if wants_weight else None
        of_bias = torch.empty_like(bias) if bias is not None and wants_bias else None
        if of_weight is not None or of_bias is not None:
            for some, logits in _slices(hidden_states, weight, bias):
                exp_logits = logits.sub_(log_sum).exp_()
                exp_logits[_places(target_ids, some)] -= 1
                if of_weight is not None:
                    of_weight[some] = exp_logits.to(weight.dtype).T @ hidden_states.to(weight.dtype)
                if of_bias is not None:
                    of_bias[some] = exp_logits.sum(0)
        ctx.save_for_backward(of_hidden.to(hidden_states.dtype), of_weight, of_bias)
        return (log_sum - target_logits).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight, of_bias = (
            None if gradient is None else gradient * outer[0].to(gradient.dtype)
            for gradient in ctx.saved_tensors
        )
        return of_hidden, of_weight, of_bias, None


def rows_of_logits(inputs: HeadInputs) -> Iterator[tuple[slice, Tensor]]:
    """Logits over the whole vocabulary, (at most CHUNK_POSITIONS targets, V) at a time, at least float32."""
    hidden_states, weight, bias, target_ids = inputs
    for start in range(0, len(target_ids), CHUNK_POSITIONS):
        some = slice(start, start + CHUNK_POSITIONS)
        yield some, _logits(hidden_states[some], weight, bias)


def _slices(hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Logits of a slice of words at a time, (n, at most CHUNK_WORDS), at least float32."""
    for start in range(0, len(weight), CHUNK_WORDS):
        some = slice(start, start + CHUNK_WORDS)
        yield some, _logits(hidden_states, weight[some], None if bias is None else bias[some])


def _logits(hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = product(hidden_states, _as_wide(weight, hidden_states).T, bias)
    return logits.to(torch.promote_types(hidden_states.dtype, torch.float32))


def _as_wide(weight: Tensor, hidden_states: Tensor) -> Tensor:
    """A slice of the projection in the precision of its product; the whole may be kept in fewer bits."""
    is_chosen = torch.is_autocast_enabled(hidden_states.device.type)
    return weight if is_chosen else weight.to(hidden_states.dtype)


def _places(target_ids: Tensor, some: slice) -> tuple[Tensor, Tensor]:
    """Rows and columns of the targets within a slice of words."""
    rows = ((target_ids >= some.start) & (target_ids < some.stop)).nonzero().squeeze(-1)
    return rows, target_ids[rows] - some.start
