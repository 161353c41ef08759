"""Text that a causal model draws from itself: exactly its own distribution, and the same at every draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import POSITIONS
from transformers import GenerationConfig

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.sampling import continued_ids, sample_ids

CAUSAL = [family.model_type for family in FAMILIES.values() if family.objective == "causal"]


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> LanguageModel:
    return load_base(str(checkpoints["gpt2"]))


def next_shares(base: LanguageModel, ids: list[int]) -> torch.Tensor:
    """(V,) probabilities of what follows, by the model's own forward without a cache."""
    with torch.no_grad():
        logits = base.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits.double().softmax(-1)


def test_tokens_are_drawn_as_often_as_the_model_says(base: LanguageModel) -> None:
    count = 6000
    first = np.array([ids[0] for ids in sample_ids(base, count, 1, seed=3)])
    assert base.special.begin is not None
    shares = next_shares(base, [base.special.begin]).numpy()
    expected = count * shares
    often = expected > 5
    found = np.bincount(first, minlength=len(shares))
    assert often.sum() > 20
    rest = found[~often].sum(), expected[~often].sum()
    chi_squared = ((found - expected) ** 2 / expected)[often].sum() + (rest[0] - rest[1]) ** 2 / rest[1]
    freedom = int(often.sum())
    assert abs(chi_squared - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_every_token_is_the_one_whose_share_holds_the_samples_number(
    checkpoints: dict[str, Path], model_type: str
) -> None:
    base = load_base(str(checkpoints[model_type]))
    tokens, seed = 12, 5
    uniforms = np.random.default_rng(seed).random((3, tokens))
    for ids, numbers in zip(sample_ids(base, 3, tokens, seed), uniforms, strict=True):
        skipped = int(base.special.begin is None)
        stream = [*([] if base.special.begin is None else [base.special.begin]), *ids.tolist()]
        for place in range(skipped, len(ids)):
            shares = next_shares(base, stream[: place + 1 - skipped])
            above = float(shares[: ids[place] + 1].sum())
            assert above - float(shares[ids[place]]) - 1e-5 <= numbers[place] <= above + 1e-5
        if skipped:
            assert ids[0] not in base.tokenizer.all_special_ids


def test_the_same_seed_draws_the_same_samples_whatever_their_number(base: LanguageModel) -> None:
    some, more, others = (sample_ids(base, n, 20, seed) for n, seed in ((5, 7), (70, 7), (5, 8)))
    assert all(np.array_equal(a, b) for a, b in zip(some, more, strict=False))
    assert not all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))
    assert all(ids.dtype == np.int32 and ids.ndim == 1 for ids in more) and len(more) == 70


def test_a_sample_stops_behind_its_end_token(base: LanguageModel) -> None:
    end = base.special.end
    assert end is not None
    lift = torch.zeros(base.model.config.vocab_size)
    lift[end] = 6.0

    def lifted(module: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits + lift

    hook = base.model.get_submodule("lm_head").register_forward_hook(lifted)
    try:
        samples = sample_ids(base, 40, 30, seed=1)
    finally:
        hook.remove()
    lengths = {len(ids) for ids in samples}
    assert len(lengths) > 5 and min(lengths) >= 1
    for ids in samples:
        assert end not in ids[:-1] and (ids[-1] == end or len(ids) == 30)


def test_a_checkpoints_wishes_for_generating_change_nothing(base: LanguageModel) -> None:
    plain = sample_ids(base, 4, 16, seed=2)
    before = base.model.generation_config
    base.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=2.0
    )
    try:
        again = sample_ids(base, 4, 16, seed=2)
    finally:
        base.model.generation_config = before
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_masked_model_has_no_text_to_draw(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(FtError, match="expected a causal model to draw text from, found a masked one"):
        sample_ids(load_base(str(checkpoints["bert"])), 1, 4, seed=0)


@pytest.mark.parametrize("tokens", [0, POSITIONS + 1])
def test_a_sample_is_no_longer_than_the_model_can_read(base: LanguageModel, tokens: int) -> None:
    with pytest.raises(FtError, match=f"expected 1 to {POSITIONS} tokens a sample, found {tokens}"):
        sample_ids(base, 1, tokens, seed=0)
    assert len(sample_ids(base, 1, POSITIONS, seed=0)[0]) <= POSITIONS


def test_predictions_that_are_no_numbers_are_told(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    base.model.get_submodule("lm_head").weight.data[7] = float("nan")  # type: ignore[union-attr,index]
    with pytest.raises(NumbersGoneWrong, match="expected finite predictions"):
        sample_ids(base, 2, 4, seed=0)


def test_a_continuation_at_temperature_zero_takes_the_likeliest_token_each_time(base: LanguageModel) -> None:
    prompt = np.array([5, 6, 7], dtype=np.int32)
    found = continued_ids(base, prompt, 8, seed=0, temperature=0)
    assert base.special.begin is not None
    stream = [base.special.begin, *prompt.tolist()]
    for token in found.tolist():
        assert token == int(next_shares(base, stream).argmax())
        stream.append(token)


def test_a_continuation_is_drawn_by_its_seed_and_keeps_the_end_of_a_long_prompt(base: LanguageModel) -> None:
    prompt = np.arange(3 * POSITIONS, dtype=np.int32) % 50 + 5
    same, again, other = (continued_ids(base, prompt, 6, seed) for seed in (1, 1, 2))
    assert np.array_equal(same, again) and not np.array_equal(same, other)
    assert np.array_equal(same, continued_ids(base, prompt[-(POSITIONS - 7) :], 6, 1))
    for tokens, temperature in ((0, 1.0), (POSITIONS, 1.0), (5, -1.0), (5, float("nan"))):
        with pytest.raises(FtError):
            continued_ids(base, prompt, tokens, 0, temperature)
