"""What the two shipped checkpoints promise: every position was trained, and the files stay small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ft_toolkit import shipped
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source

STREAM_TOKENS = 3000
HIDDEN_EVERY = 7  # of a masked model's tokens, in turn


def nats_by_quarter(base: LanguageModel) -> np.ndarray:
    """Mean nats a token in each quarter of the positions, (4,), of the same tokens in all four.

    Windows move on by a quarter, so that every token is read once in each.
    """
    documents = encode(read_source("package:everyday-medicine").documents[:30], base.tokenizer)
    stream = np.concatenate([document.ids for document in documents])[:STREAM_TOKENS]
    frame = 0 if base.family.objective == "causal" else 2
    window = base.positions - frame
    quarter = window // 4
    sums, counts = np.zeros((4, len(stream))), np.zeros((4, len(stream)), dtype=bool)
    losses = TokenScorer(base.model, base.family)
    for start in range(0, len(stream) - 4 * quarter - 1, quarter):
        ids = torch.from_numpy(stream[start : start + 4 * quarter + 1].astype(np.int64))
        if base.family.objective == "causal":
            nll = losses(ids[None, :-1], ids[None, 1:]).numpy()
        else:
            nll = hidden_in_turn(losses, base, ids[:-1])
        for part in range(4):
            here = slice(start + part * quarter, start + (part + 1) * quarter)
            sums[part, here] = nll[part * quarter : (part + 1) * quarter]
            counts[part, here] = True
    everywhere = counts.all(0)
    assert everywhere.sum() > STREAM_TOKENS / 2
    return np.asarray(sums[:, everywhere].mean(1))


def hidden_in_turn(losses: TokenScorer, base: LanguageModel, ids: torch.Tensor) -> np.ndarray:
    begin, end, hidden_by = base.special.begin, base.special.end, base.special.mask
    assert begin is not None and end is not None and hidden_by is not None
    framed = torch.cat([torch.tensor([begin]), ids, torch.tensor([end])])
    rows, targets = framed.repeat(HIDDEN_EVERY, 1), torch.full((HIDDEN_EVERY, len(framed)), NO_TARGET)
    for group in range(HIDDEN_EVERY):
        places = torch.arange(1 + group, len(framed) - 1, HIDDEN_EVERY)
        targets[group, places] = framed[places]
        rows[group, places] = hidden_by
    found = losses(rows, targets).numpy()
    nll = np.zeros(len(ids))
    nll[(targets != NO_TARGET).nonzero()[:, 1].numpy() - 1] = found
    return nll


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_last_positions_read_as_well_as_earlier_ones(name: str) -> None:
    quarters = nats_by_quarter(load_base(f"starter/{name}"))
    assert abs(quarters[3] - quarters[1]) < 0.1, quarters


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_starter_is_bfloat16_and_at_most_twelve_megabytes(name: str) -> None:
    weights = shipped.starter(name) / "model.safetensors"
    assert weights.stat().st_size <= 12e6
    with safe_open(weights, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
