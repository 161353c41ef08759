"""Text drawn from a causal model itself, exactly as it predicts: what it knows, without anybody's data.

Nothing of the distribution is cut off and the temperature is 1, so that a mean over samples is an unbiased
estimate of an expectation under the model. transformers' own generate would do what the checkpoint's
generation_config says (top-k, penalties, forbidden words), so it is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.models.language_model import LanguageModel

SAMPLES_AT_ONCE = 64  # rows of one cache of keys and values
Ids = NDArray[np.int32]


def sample_ids(model: LanguageModel, count: int, tokens: int, seed: int) -> list[Ids]:
    """Texts drawn token by token from the model as it stands: with an adapter on, from the adapted one.

    tokens   the longest sample; one that ends itself is shorter, and its last id is the end token
    returns  `count` arrays of (n,), 1 ≤ n ≤ tokens, without the begin token that they are drawn after

    Where the tokenizer has no begin token the first id is drawn evenly from its ordinary tokens: scoring does
    not ask for that token either. The same seed and weights give the same samples on one machine: a sample
    is drawn by its own uniform numbers, so another count moves it by rounding alone.

    raises   FtError for a masked model, and for more tokens than the model can read; NumbersGoneWrong for
             predictions that are not numbers
    """
    if model.family.objective != "causal":
        raise FtError(model.name, "a causal model to draw text from", "a masked one", "Choose another base.")
    if not 1 <= tokens <= model.positions:
        raise FtError(model.name, f"1 to {model.positions} tokens a sample", tokens, "Draw shorter samples.")
    uniforms = np.random.default_rng(seed).random((count, tokens))
    found: list[Ids] = []
    with torch.inference_mode():
        for start in range(0, count, SAMPLES_AT_ONCE):
            found += _drawn(model, uniforms[start : start + SAMPLES_AT_ONCE])
    return found


def continued_ids(
    model: LanguageModel,
    prompt: Ids,
    tokens: int,
    seed: int,
    temperature: float = 1.0,
    is_enough: Callable[[Sequence[int]], bool] = lambda ids: False,
) -> Ids:
    """What the model writes behind a prompt, drawn token by token.

    prompt        (n,) ids, at least one; of a long one the last that leave room for `tokens`
    temperature   the logits are divided by it; 0 takes the likeliest token each time
    is_enough     told the ids so far behind each token; True ends the text there
    returns       (m,), 1 ≤ m ≤ tokens; the end token, where the model ends the text, is the last

    raises   FtError as sample_ids does; NumbersGoneWrong for predictions that are not numbers
    """
    if model.family.objective != "causal":
        raise FtError(model.name, "a causal model to draw text from", "a masked one", "Choose another base.")
    if not 1 <= tokens < model.positions:
        raise FtError(model.name, f"1 to {model.positions - 1} tokens", tokens, "Draw fewer tokens.")
    if not 0 <= temperature <= 100:  # NaN is not either
        raise FtError("temperature", "a number from 0 to 100", temperature, "1 draws as the model predicts.")
    begin = [] if model.special.begin is None else [model.special.begin]
    room = model.positions - tokens - len(begin)
    start = np.concatenate([np.array(begin, dtype=np.int32), prompt[len(prompt) - min(len(prompt), room) :]])
    found: list[int] = []
    with torch.inference_mode():
        predict = _Predictions(model, start[None])
        for number in np.random.default_rng(seed).random((tokens, 1)):
            logits = predict.next()
            if temperature == 0:
                chosen = logits.argmax(-1).cpu().numpy()
            else:
                chosen = draw(logits / temperature, number, model.name)
            found.append(int(chosen[0]))
            if is_enough(found) or found[-1] == model.special.end:
                break
            predict.append(chosen.astype(np.int32))
    return np.array(found, dtype=np.int32)


def _drawn(model: LanguageModel, uniforms: NDArray[np.float64]) -> Iterator[Ids]:
    """A sample for each row of `uniforms` (B, T): its numbers decide its tokens."""
    count, tokens = uniforms.shape
    drawn = np.zeros((count, tokens), dtype=np.int32)
    lengths = np.full(count, tokens)
    first = 0
    if model.special.begin is None:
        ordinary = model.ordinary_ids
        drawn[:, 0] = ordinary[(uniforms[:, 0] * len(ordinary)).astype(np.int64)]
        begin, first = drawn[:, :1], 1
    else:
        begin = np.full((count, 1), model.special.begin)
    predict = _Predictions(model, begin)
    for place in range(first, tokens):
        drawn[:, place] = draw(predict.next(), uniforms[:, place], model.name)
        if model.special.end is not None:
            ends_here = (drawn[:, place] == model.special.end) & (lengths == tokens)
            lengths[ends_here] = place + 1
            if (lengths <= place + 1).all():
                break
        predict.append(drawn[:, place])
    return (row[:length].copy() for row, length in zip(drawn, lengths, strict=True))


class _Predictions:
    """The model's next logits behind growing rows, with a cache where the architecture has one."""

    def __init__(self, model: LanguageModel, begin: NDArray[Any]) -> None:
        self.model = model.model
        self.device = model.device
        self.unread = torch.from_numpy(begin).long().to(self.device)  # (B, T) not yet in the cache
        self.cache: dict[str, Any] = {}

    def next(self) -> Tensor:
        """(B, V) float32, of the token behind the rows."""
        found: Any = self.model(input_ids=self.unread, use_cache=True, logits_to_keep=1, **self.cache)
        cache = getattr(found, "past_key_values", None)
        if cache is not None:  # openai-gpt keeps none: its rows are read whole each time
            self.cache = {"past_key_values": cache}
            self.unread = self.unread[:, :0]
        logits: Tensor = found.logits[:, -1].float()
        return logits

    def append(self, ids: Ids) -> None:
        self.unread = torch.cat([self.unread, torch.from_numpy(ids).long().to(self.device)[:, None]], 1)


def draw(logits: Tensor, uniforms: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    """Draw a token for each row of logits (B, V): the one in whose share of [0, 1) the row's number falls.

    uniforms   (B,) numbers in [0, 1)
    """
    shares = logits.softmax(-1).cpu().cumsum(-1, dtype=torch.float64)  # in float64: thousands of addends
    if not torch.isfinite(shares[:, -1]).all():
        found = "NaN or infinity"
        raise NumbersGoneWrong(f"samples of {name}", "finite predictions", found, "The weights are damaged.")
    places = torch.from_numpy(uniforms)[:, None] * shares[:, -1:]
    chosen = torch.searchsorted(shares, places, right=True).squeeze(-1)
    return chosen.clamp(max=shares.shape[-1] - 1).numpy()
