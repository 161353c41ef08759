"""A run's base and adapter as one plain transformers checkpoint: ft merge."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ft_toolkit.errors import FtError
from ft_toolkit.mix import check_strength
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run


def merge(
    run: Run,
    to: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    *,
    strength: float = 1.0,
    screen: Screen | None = None,
) -> Path:
    """Write the merged checkpoint and check it: loaded again it scores as base and adapter did.

    to       a folder that is not there yet; by default RUN/merged, with -0.75 or -bfloat16 where asked for
    strength what the adapter's update is multiplied by, as a changed alpha would; ft compare --strength
             shows what each is worth
    returns  the folder, which AutoModel… and AutoTokenizer load as it is
    raises   FtError for a run without an adapter; IntegrityFailed for an adapter that is not the one that was
             trained, and when the scores do not agree
    """
    import torch

    from ft_toolkit.judging.merging import write_merged
    from ft_toolkit.runtime import prepare_torch

    screen = screen or Screen()
    if dtype not in ("float32", "bfloat16"):
        raise FtError("--dtype", "float32 or bfloat16", dtype, "Leave it at float32.")
    check_strength(strength)
    if run.recipe.adapter.is_whole_model:
        found = f"method {run.recipe.adapter.method}"
        raise FtError(run.folder, "a run with an adapter", found, "Its model/ is whole already.")
    run.check_trained(screen.say)
    prepare_torch()
    at = "" if strength == 1 else f"-{strength:g}"
    folder = to or run.folder / (f"merged{at}" if dtype == "float32" else f"merged{at}-{dtype}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    moved = write_merged(run, folder, getattr(torch, dtype), strength)
    rounded = "" if dtype == "float32" else ", weights rounded to bfloat16"
    rounded += "" if strength == 1 else f", the adapter at strength {strength:g}"
    words = f"at most {moved:.1e} nats a token from base and adapter, by document"
    title = f"# {run.recipe.name}, merged\n\n"
    facts = f"{run.recipe.base} and the adapter of {run.recipe.name} in one checkpoint{rounded}: {words}.\n"
    (folder / "README.md").write_text(title + facts, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    screen.say(f"merged: {folder} ({size:.1f} MB{rounded}), {words}")
    return folder
