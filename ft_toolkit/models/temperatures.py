"""How sure a model is of its first choice, and what its targets would cost at other temperatures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import TokenScorer, rows_of_logits


class TemperatureScorer(TokenScorer):
    """Stands wherever a TokenScorer does, so windows, batches and masks are those of scoring.

    nll_nats   (temperatures,) float64: NLL of all targets since the last restart, the logits divided by each
    """

    def __init__(self, model: LanguageModel, temperatures: Sequence[float]) -> None:
        super().__init__(model.model, model.family)
        self.temperatures = temperatures
        self.restart()

    def restart(self) -> None:
        """Begin a new sum."""
        self.nll_nats = torch.zeros(len(self.temperatures), dtype=torch.float64)

    def nll_and_top1(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(minus the log-probability of the first choice (n,), whether it is the target (n,) bool)."""
        with torch.no_grad():
            inputs = self.head_inputs(input_ids, targets, attention_mask, position_ids)
            surprises, are_right = [], []
            for some, logits in rows_of_logits(inputs):
                target_logits = logits.gather(1, inputs[3][some, None])[:, 0]
                row_max = logits.amax(-1)
                for place, temperature in enumerate(self.temperatures):
                    nats = (logits / temperature).logsumexp(-1) - target_logits / temperature
                    self.nll_nats[place] += nats.double().sum().cpu()
                surprises.append(logits.logsumexp(-1) - row_max)
                are_right.append(target_logits >= row_max)
            return torch.cat(surprises), torch.cat(are_right)
