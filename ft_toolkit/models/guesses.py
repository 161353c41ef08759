"""What a masked model puts in the place of [MASK]."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ft_toolkit.errors import FtError
from ft_toolkit.models.language_model import LanguageModel

MASK = "[MASK]"  # stands for the mask token of any masked model
GUESSES = 5


@dataclass(frozen=True)
class Guess:
    """A token, and its probability in this place."""

    token: str
    share: float


def has_mask(model: LanguageModel, text: str) -> bool:
    """Whether a text asks a masked model for guesses."""
    is_masked = model.family.objective == "masked"
    return is_masked and (MASK in text or str(model.tokenizer.mask_token) in text)


def guesses(model: LanguageModel, text: str) -> list[list[Guess]]:
    """The likeliest tokens for each [MASK] of a text, the likeliest first.

    raises   FtError for a text longer than the model reads
    """
    tokenizer = model.tokenizer
    read = tokenizer(text.replace(MASK, str(tokenizer.mask_token)), return_tensors="pt").to(model.device)
    length = read["input_ids"].shape[1]
    if length > model.positions:
        raise FtError("ft try", f"at most {model.positions} tokens", length, "Shorten the text.")
    with torch.inference_mode():
        logits = model.model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).logits
    shares = logits[0, read["input_ids"][0] == model.special.mask].float().softmax(-1)
    best = shares.topk(min(GUESSES, shares.shape[-1]))
    return [
        [Guess(str(tokenizer.decode([token])).strip(), share) for share, token in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
