"""A tokenizer from a checkpoint's files gives the ids that training reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from ft_toolkit.errors import FtError
from ft_toolkit.models.families import FAMILIES, special_tokens
from ft_toolkit.models.plain_tokenizer import plain_tokenizer
from ft_toolkit.shipped import starter

TEXTS = ["Peel the garlic.", " 감기 🙂\n\n", "<|endoftext|> [MASK] written as text", "Naïve  CAFÉ\tx", ""]


def bases(checkpoints: dict[str, Path]) -> list[Path]:
    return [starter("gpt2"), starter("bert"), *(checkpoints[name] for name in ("gpt2", "bert", "distilbert"))]


def test_ids_and_frames_are_those_of_transformers(checkpoints: dict[str, Path]) -> None:
    for folder in bases(checkpoints):
        plain = plain_tokenizer(str(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(TEXTS, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        assert plain.ids(TEXTS) == ids
        family = FAMILIES[AutoConfig.from_pretrained(folder).model_type]
        special = special_tokens(family, tokenizer, "")
        assert (plain.objective, plain.begin, plain.end, plain.mask) == (
            family.objective,
            special.begin,
            special.end,
            special.mask,
        )
        assert plain.plain_ids == sorted({*tokenizer.get_vocab().values()} - set(tokenizer.all_special_ids))


def test_a_base_without_tokenizer_json_or_with_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(starter("gpt2"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(FtError, match=r"tokenizer\.json: expected a tokenizer"):
        plain_tokenizer(str(folder))
    (folder / "config.json").write_text(json.dumps([]))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FtError, match=r"expected a tokenizer\.json, found none"):
        plain_tokenizer(str(folder))
