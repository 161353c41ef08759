"""A checkpoint's tokenizer from its files alone: transformers would import torch, which takes seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_toolkit.errors import FtError
from ft_toolkit.network import hub_or_cache, hub_reason
from ft_toolkit.references import parse_base

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class PlainTokenizer:
    """A tokenizer, and how its model frames a text; None where it has no such token."""

    tokenizer: Tokenizer
    objective: Literal["causal", "masked"]
    begin: int | None
    end: int | None
    mask: int | None
    unknown: int | None  # of a masked model, as scoring counts it
    positions: int | None  # the longest row, where the config says it

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of plain texts, without special tokens."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def pieces(self, ids: list[int]) -> list[str]:
        """What each token stands for; a part of a character is shown as �."""
        return [self.tokenizer.decode([token], skip_special_tokens=False) for token in ids]

    @property
    def plain_ids(self) -> list[int]:
        """Ids of all tokens that are not special, ascending."""
        special = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        return sorted(set(self.tokenizer.get_vocab().values()) - special)


def plain_tokenizer(base: str) -> PlainTokenizer:
    """The tokenizer of a base by its name in a recipe.

    raises   FtError for a base without a tokenizer.json
    """
    from tokenizers import Tokenizer

    files = _files(base)
    config, said = (_json(files.get(name)) for name in ("config.json", "tokenizer_config.json"))
    path = files.get("tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path else None
    except Exception as error:  # the Rust library raises Exception itself
        raise FtError(path, "a tokenizer", error, "Check the base.") from None
    if tokenizer is None:
        raise FtError(f"base {base}", "a tokenizer.json", "none", "Choose another base to look with.")
    tokenizer.encode_special_tokens = True  # <|endoftext|> written in a text is just characters
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def token(name: str) -> int | None:
        value = said.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        return tokenizer.token_to_id(text) if isinstance(text, str) else None

    positions = config.get("max_position_embeddings", config.get("n_positions"))
    longest = positions if isinstance(positions, int) else None
    if _is_masked(config):
        return PlainTokenizer(
            tokenizer, "masked", token("cls"), token("sep"), token("mask"), token("unk"), longest
        )
    begin = token("bos")
    return PlainTokenizer(
        tokenizer, "causal", token("eos") if begin is None else begin, token("eos"), None, None, longest
    )


def _is_masked(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    names = (
        [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    )
    return any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names)


def _files(base: str) -> dict[str, Path]:
    reference = parse_base(base)
    folder = reference.folder
    if folder is not None:
        return {name: folder / name for name in _FILES if (folder / name).is_file()}
    if reference.kind == "gguf":
        return {}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    found = {}
    with hub_or_cache() as silence:
        for name in _FILES:
            try:
                path = hf_hub_download(reference.place, name, revision=reference.revision)
            except EntryNotFoundError:
                continue
            except Exception as error:  # no network, no such repository, gated: each has errors of its own
                reason = hub_reason(error, silence)
                fix = "Check the name, or look with --base starter/gpt2."
                raise FtError(f"base {base}", "a checkpoint's tokenizer", reason, fix) from None
            found[name] = Path(path)
    return found


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FtError(path, "a JSON object", error, "Check the base.") from None
    return found if isinstance(found, dict) else {}
