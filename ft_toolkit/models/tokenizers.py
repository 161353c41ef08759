"""A tokenizer trained on the corpus, of the same kind as the base's."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft_toolkit.models.language_model import LanguageModel, for_scoring, language_model_of


def train_tokenizer(base: LanguageModel, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of the base's kind (BPE, WordPiece), special tokens and size, learnt from these texts."""
    found: PreTrainedTokenizerBase = base.tokenizer.train_new_from_iterator(
        texts, vocab_size=len(base.tokenizer)
    )
    return found


def with_fresh_weights(base: LanguageModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """The base's architecture with another vocabulary: fresh weights, to be trained from scratch."""
    config = copy.deepcopy(base.config)
    config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name, None) is not None:
            setattr(config, name, getattr(tokenizer, name))
    kind: Any = type(base.model)
    return language_model_of(base.name, for_scoring(kind(config).to(base.device)), tokenizer)


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that was saved beside a model's weights; None: the base's is used."""
    if not (folder / "tokenizer.json").is_file():
        return None
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    return found
