"""A base in one GGUF file, for the two architectures that transformers reads from it exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError

GPT2_POSITIONS = (
    1024  # transformers 5.23 writes the file's context length to a field that GPT-2 does not read
)


def load_gguf(
    path: Path, where: str, device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32 and tokenizer; quantised weights are expanded, and are then what the file holds.

    raises   FtError without the extra `gguf`, and for what transformers would load wrongly
    """
    architecture, context_length = _read_header(path, where)
    if architecture not in ("gpt2", "llama"):
        wanted = "a GGUF file of gpt2 or llama"
        raise FtError(where, wanted, architecture, "Use its safetensors checkpoint.")
    if architecture == "gpt2" and context_length != GPT2_POSITIONS:
        wanted = f"a gpt2 of {GPT2_POSITIONS} positions"
        raise FtError(where, wanted, context_length, "Use its safetensors checkpoint.")
    folder, name = str(path.parent), path.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, gguf_file=name, local_files_only=True, trust_remote_code=False
    )
    return model.to(device), tokenizer


def _read_header(path: Path, where: str) -> tuple[str, int | None]:
    """(architecture, context length) as the file states them."""
    try:
        from gguf import GGUFReader
    except ImportError:
        cure = "pip install 'ft-toolkit[gguf]'"
        raise FtError(where, "the package gguf, to read it", "none installed", cure) from None
    try:
        fields = GGUFReader(str(path)).fields
        architecture = str(fields["general.architecture"].contents())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise FtError(where, "a readable GGUF file", error, "Download it again.") from None
    length = fields.get(f"{architecture}.context_length")
    return architecture, int(length.contents()) if length is not None else None
