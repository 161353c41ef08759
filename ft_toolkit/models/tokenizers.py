"""A tokenizer of one's own: the base's kind, its pieces learnt from the training text."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit.models.checkpoints import Base, base_of


def train_tokenizer(base: Base, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of the base's kind (BPE, WordPiece), special tokens and size, learnt from these texts."""
    found: PreTrainedTokenizerBase = base.tokenizer.train_new_from_iterator(
        texts, vocab_size=len(base.tokenizer)
    )
    return found


def with_tokenizer(base: Base, tokenizer: PreTrainedTokenizerBase) -> Base:
    """The base's architecture with another vocabulary: fresh weights, to be trained from scratch."""
    config = copy.deepcopy(base.model.config)
    config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(tokenizer, name))
    model: Any = type(base.model)(config)
    return base_of(base.name, model.to(base.model.device), tokenizer)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved beside a model's weights."""
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
