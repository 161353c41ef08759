"""Merge base and adapter into one plain checkpoint, which must score as the two did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.judging.integrity import probe_scores
from ft_toolkit.models.adapters import load_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.strength import at_strength, refuse_fixed_strength
from ft_toolkit.run import Run
from ft_toolkit.text.corpus import read_source

MERGED_NATS = 1e-5  # a token and document: what a merge may move, by rounding alone
PROBE_DOCUMENTS = 8


def write_merged(run: Run, folder: Path, dtype: torch.dtype = torch.float32, strength: float = 1.0) -> float:
    """Merge a run's adapter into its base, save it with its tokenizer, load that again and score both.

    folder   where the checkpoint stands afterwards; nothing is left there when the scores do not agree
    strength what the adapter's update is multiplied by
    returns  by how much a document's mean nats a token moved at most
    raises   IntegrityFailed above MERGED_NATS in float32; bfloat16 rounds the weights, and the change is
             returned
    """
    if folder.exists():
        raise FtError(folder, "a folder that is not there yet", "one that is", "Move it or use --to.")
    texts = probe_texts(run)
    base = load_base(run.recipe.base)
    run.check_base(base.name, base.sha256s)
    model = load_adapter(base, run.adapter_folder)
    if strength != 1:
        refuse_fixed_strength(run.adapter_folder)
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with at_strength(model, strength):
            before = probe_scores(base.with_model(model), texts)
            plain = cast(PreTrainedModel, model.merge_and_unload()).to(dtype)  # type: ignore[arg-type]
        plain.save_pretrained(temporary)
        base.tokenizer.save_pretrained(temporary)
        forget_this_machine(temporary / "config.json")
        again = load_base(str(temporary))
        moved = moved_nats(before, probe_scores(again, texts))
        if dtype == torch.float32 and not moved <= MERGED_NATS:
            wanted, found = f"at most {MERGED_NATS} nats a token apart from the adapter", f"{moved:.2g}"
            raise IntegrityFailed("the merged checkpoint", wanted, found, "Use the adapter instead.")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return moved


def probe_texts(run: Run) -> list[str]:
    """Held-out text of the run where it was kept; else general text."""
    path = run.folder / "documents.parquet"
    rows = run.read_table("documents.parquet", "split", "text") if path.exists() else []
    kept = [row["text"] for row in rows if row["split"] == "test" and row.get("text")]
    general = [document.text for document in read_source("package:general-probe").documents]
    return (kept or general)[:PROBE_DOCUMENTS]


def moved_nats(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """By how much a document's mean nats a token differ at most."""
    return max(abs(float(np.nanmean(b) - np.nanmean(a))) for b, a in zip(before, after, strict=True))


def forget_this_machine(path: Path) -> None:
    """Take this machine's folders out of a config.json."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
