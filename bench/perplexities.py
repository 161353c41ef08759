"""Five common recipes for "perplexity", of one model on the same text: the table in docs/learn.md.

python bench/perplexities.py ft_toolkit/corpora/general-probe/documents [--model ft_toolkit/starters/gpt2]

A text is a paragraph of the folder's .md files. Uses only transformers, so the first row checks ours too.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

BATCH_TEXTS = 8
IGNORED = -100  # cross_entropy leaves these labels out


@torch.inference_mode()
def nats(model: GPT2LMHeadModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Nats of every label but the first of a row, flattened; 0 where it is ignored. ids, labels (B, T)."""
    logits = model(ids).logits[:, :-1].float()
    return cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )


def by_text(model: GPT2LMHeadModel, texts: list[list[int]], begin: int) -> list[tuple[float, int]]:
    """(nats, tokens) of each text alone, after the token that begins a text, so every token is scored."""
    rows = [torch.tensor([[begin, *text]]) for text in texts]
    return [(nats(model, row, row).sum().item(), row.numel() - 1) for row in rows]


def by_batch(model: GPT2LMHeadModel, texts: list[list[int]], pad: int, pads_scored: bool) -> list[float]:
    """Mean nats of each batch, filled up to its longest text; the first token of a text is not scored."""
    means = []
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = texts[start : start + BATCH_TEXTS]
        longest = max(map(len, batch))
        ids = torch.tensor([text + [pad] * (longest - len(text)) for text in batch])
        labels = torch.tensor([text + [IGNORED] * (longest - len(text)) for text in batch])
        if pads_scored:
            labels = ids
        scored = int((labels[:, 1:] != IGNORED).sum())
        means.append(nats(model, ids, labels).sum().item() / scored)
    return means


def by_block(model: GPT2LMHeadModel, texts: list[list[int]], block_tokens: int) -> list[float]:
    """Mean nats of each full block of all texts joined; what is left at the end is dropped."""
    stream = torch.tensor([token for text in texts for token in text])
    rows = stream[: len(stream) // block_tokens * block_tokens].view(-1, 1, block_tokens)
    return [nats(model, row, row).mean().item() for row in rows]


def main() -> None:
    """A row a recipe."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--model", default="ft_toolkit/starters/gpt2")
    options = asked.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    files = sorted(options.folder.glob("*.md"))
    paragraphs = [part.strip() for path in files for part in path.read_text(encoding="utf-8").split("\n\n")]
    longest = model.config.n_positions - 1  # one place is for the token that begins a text
    if not paragraphs:
        asked.error(f"{options.folder}: expected .md files, found none")
    texts = [ids for ids in tokenizer(paragraphs)["input_ids"] if 1 < len(ids) <= longest]
    print(f"{len(texts)} texts of {min(map(len, texts))} to {max(map(len, texts))} tokens")

    scores = by_text(model, texts, tokenizer.bos_token_id)
    total_nats, total_tokens = map(sum, zip(*scores, strict=True))
    padded = by_batch(model, texts, tokenizer.eos_token_id, pads_scored=False)
    with_pads = by_batch(model, texts, tokenizer.eos_token_id, pads_scored=True)
    blocks = by_block(model, texts, model.config.n_positions)
    for name, value in {
        "all nats / all tokens": math.exp(total_nats / total_tokens),
        "mean of the texts' perplexities": sum(math.exp(n / t) for n, t in scores) / len(scores),
        "mean of batch means": math.exp(sum(padded) / len(padded)),
        "the same, padding scored": math.exp(sum(with_pads) / len(with_pads)),
        "texts joined, cut into blocks": math.exp(sum(blocks) / len(blocks)),
    }.items():
        print(f"{name:32}{value:8.1f}")


if __name__ == "__main__":
    main()
