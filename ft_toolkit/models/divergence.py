"""How far a tuned model's predictions are from its base's: KL(base ‖ tuned) over the whole vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.token_nll import HeadInputs, TokenScorer, rows_of_logits


class DivergenceScorer(TokenScorer):
    """Compares what both sides predict wherever a TokenScorer would score a target; the target is not read.

    It stands wherever a TokenScorer does, so windows, batches and masks are those of scoring. Both sides read
    each batch in turn: no more than a batch is ever held of either.
    """

    def __init__(self, pair: ModelPair) -> None:
        super().__init__(pair.tuned.model, pair.base.family)
        self.pair = pair

    def nll_and_top1(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(KL(base ‖ tuned) in nats (n,) float64, whether both sides' likeliest word is the same (n,) bool).

        A model that is its base still gives exactly 0 and True.
        """
        rows = input_ids, targets, attention_mask, position_ids
        with torch.no_grad():
            tuned = self.head_inputs(*rows)
            with self.pair.base_side() as base:
                of_base = TokenScorer(base.model, base.family).head_inputs(*rows)
            return _kl_and_same_top1(of_base, tuned)


def _kl_and_same_top1(base: HeadInputs, tuned: HeadInputs) -> tuple[Tensor, Tensor]:
    """Log-softmax in at least float32, its products summed in float64."""
    divergences, are_same = [], []
    for (_, of_base), (_, of_tuned) in zip(rows_of_logits(base), rows_of_logits(tuned), strict=True):
        log_base, log_tuned = of_base.log_softmax(-1), of_tuned.log_softmax(-1)
        products = log_base.exp() * (log_base - log_tuned)
        divergences.append(products.sum(-1, dtype=torch.float64))
        are_same.append(log_base.argmax(-1) == log_tuned.argmax(-1))
    return torch.cat(divergences), torch.cat(are_same)
