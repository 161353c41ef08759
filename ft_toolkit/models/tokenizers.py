"""A tokenizer of one's own: the base's kind, its pieces learnt from the training text."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit.models.checkpoints import Base, base_of, for_scoring, hash_tokenizer
from ft_toolkit.models.families import special_tokens


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
    return base_of(base.name, for_scoring(model.to(base.model.device)), tokenizer)


def reader_of(base: Base, folder: Path) -> Base:
    """Who reads for a saved model: the base, with the tokenizer that was saved beside the weights if any."""
    if not (folder / "tokenizer.json").is_file():
        return base
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    where = f"tokenizer of {folder}"
    return replace(
        base,
        tokenizer=tokenizer,
        special=special_tokens(base.family, tokenizer, where),
        tokenizer_sha256=hash_tokenizer(tokenizer),
    )
