"""What bench/training.py trains, the same for every side; without ft_toolkit, so that peers read it too."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

RANK, ALPHA, MASKED = 8, 16, 0.15


@dataclass(frozen=True)
class Case:
    """A model's shape and the rows of a step; weights are random, since speed does not depend on them."""

    objective: str  # causal or masked
    rows: int  # of a step
    row_tokens: int
    is_ragged: bool = False  # documents of log-normal lengths instead of full rows
    shape: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")

    @property
    def model(self) -> PreTrainedModel:
        """With fresh weights; those that the toolkit and every peer start from."""
        torch.manual_seed(0)
        if self.objective == "causal":
            return GPT2LMHeadModel(GPT2Config(**self.shape))
        return BertForMaskedLM(BertConfig(**self.shape))

    def documents(self, steps: int) -> list[NDArray[np.int64]]:
        """Ids of each document, about as many as `steps` steps hold: full rows, or log-normal lengths."""
        draw = np.random.default_rng(0)
        vocabulary = self.shape.get("vocab_size", 50257 if self.objective == "causal" else 30522)
        wanted = steps * self.rows * self.row_tokens
        if not self.is_ragged:
            lengths = np.full(steps * self.rows, self.row_tokens)
        else:
            lengths = np.clip(draw.lognormal(5, 1, 4 * wanted // 150).round().astype(int), 8, self.row_tokens)
            lengths = lengths[: 1 + int((lengths.cumsum() >= wanted).argmax())]
        return [draw.integers(200, vocabulary, length) for length in lengths]

    def flops_a_token(self) -> float:
        """Of matrices alone: forward, and the gradient of their inputs; a masked head at its targets only."""
        parameters = dict(self.model.named_parameters())
        trunk = sum(
            p.numel() for name, p in parameters.items() if p.ndim == 2 and ("layer." in name or ".h." in name)
        )
        (embedding,) = (
            p.numel()
            for name, p in parameters.items()
            if name.endswith(("wte.weight", "word_embeddings.weight"))
        )
        return 4 * trunk + 4 * (1.0 if self.objective == "causal" else MASKED) * embedding


STARTER = {"vocab_size": 8192, "n_embd": 256, "n_layer": 4, "n_head": 4}
BERT_TARGETS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
CASES = {
    "gpt2": Case("causal", 4, 256),
    "bert": Case("masked", 8, 128, targets=BERT_TARGETS),
    "ragged": Case("causal", 8, 256, is_ragged=True, shape={"n_layer": 6}),
    "starter": Case("causal", 16, 256, shape=STARTER),
}


def figures(moments: Sequence[float], tokens: int) -> dict[str, float]:
    """Seconds a thousand tokens and peak memory, of a process that trained.

    moments   seconds at the end of each step, the first one's included: it warms up and is not counted
    tokens    of all steps but the first
    """
    return {
        "seconds_per_1000_tokens": 1000 * (moments[-1] - moments[0]) / tokens,
        "median_step_seconds": statistics.median(np.diff(moments)),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
