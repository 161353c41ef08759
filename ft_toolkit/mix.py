"""Weighted sums of the adapters of one base, each a run of its own: ft mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run, now

if TYPE_CHECKING:
    from ft_toolkit.text.splitting import Parts

MOST_STRENGTH = 10.0


@dataclass(frozen=True)
class Part:
    """One adapter of a mixture."""

    run: Run
    weight: float


def split_weight(text: str) -> tuple[str, float]:
    """`runs/a:0.7` as a run and its weight; without a number the weight is 1."""
    place, colon, number = text.rpartition(":")
    try:
        return (place, float(number)) if colon else (text, 1.0)
    except ValueError:  # hub:owner/name, or a folder with a colon
        return text, 1.0


def mix(parts: Sequence[Part], to: Path, *, device: str = "auto", screen: Screen | None = None) -> Run:
    """Make a run whose adapter is the weighted sum of the parts' adapters, and judge it.

    It is judged on the first part's held-out text, on which no part may have been trained.

    to       the new run folder
    returns  the judged run; run.json lists the parts and their weights
    raises   FtError for parts of different bases, adapters that have no exact sum, a weight that is not a
             number, text that a part was trained on, or a folder that is taken
    """
    from ft_toolkit.judging.unseen import recovered, refuse_trained_text
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.mixing import write_mixed
    from ft_toolkit.models.model_pair import load_pair
    from ft_toolkit.reporting.report import write_report
    from ft_toolkit.rescoring import judge_run
    from ft_toolkit.run_models import scoring_session
    from ft_toolkit.runtime import versions

    screen = screen or Screen()
    _check(parts, to)
    first, others = parts[0].run, [part.run for part in parts[1:]]
    text = recovered(first, screen)
    for run in others:
        refuse_trained_text(run, text.test, f"held-out text of {first.folder}", screen)
    session = scoring_session(device, screen)
    base = load_base(first.recipe.base, session.accelerator.device)
    for part in parts:
        part.run.check_trained(screen.say)
        part.run.check_base(base.name, base.sha256s)
    made = Run.create(to.parent, first.recipe.model_copy(update={"name": to.name}), {"mixed": str(to)})
    try:
        with made.writing(made.adapter_folder):
            folders = [part.run.adapter_folder for part in parts]
            rank = write_mixed(folders, [part.weight for part in parts], made.adapter_folder)
        _keep_documents(made, first, others)
        made.record(
            mixed=[_told(part) for part in parts],
            files=made.trained_files(),
            documents=first.facts.get("documents", {}),
            sha256=first.facts["sha256"],
            versions=versions(),
            device=str(session.accelerator.device),
        )
        names = " + ".join(f"{part.weight:g} × {part.run.folder.name}" for part in parts)
        screen.say(f"mixed: {names}, rank {rank}, in {made.folder}")
        pair = load_pair(base, made.adapter_folder)
        _prove(made, pair.tuned, base, text)
        judge_run(made, pair, text, session)
        made.record(finished_at=now(), ended_at=now())
        session.screen.say(f"report: {write_report(made)}")
    finally:
        made.unlock()
    return made


def at_strength(run: Run, strength: float, *, device: str = "auto", screen: Screen | None = None) -> Run:
    """The run itself at 1; else a run of its own beside it whose adapter is so much weaker, judged anew.

    One that was made before from the same adapter is taken.

    raises   FtError for a number that is no strength, and as mix
    """
    check_strength(strength)
    if strength == 1:
        return run
    part, to = Part(run, strength), run.folder.with_name(f"{run.folder.name}-at-{strength:g}")
    if (to / "run.json").is_file():
        made = Run.open(to)
        if made.is_ended and made.facts.get("mixed") == [_told(part)]:
            return made
    return mix([part], to, device=device, screen=screen)


def check_strength(strength: float) -> None:
    """raises   FtError for a number that an adapter's update is not multiplied by"""
    if not 0 < strength <= MOST_STRENGTH:
        raise FtError("--strength", f"above 0 and at most {MOST_STRENGTH:g}", strength, "1 is as saved.")


def _check(parts: Sequence[Part], to: Path) -> None:
    """raises   FtError for what can be said before torch is imported"""
    if not parts:
        raise FtError("ft mix", "a run, such as runs/a:0.7", "none", "ft runs lists the runs.")
    if to.exists():
        raise FtError(to, "a folder that is not there yet", "one that is", "Name another one with --to.")
    for part in parts:
        if part.run.recipe.adapter.is_whole_model:
            found = f"method {part.run.recipe.adapter.method}"
            raise FtError(part.run.folder, "a run with an adapter", found, "Mix adapters only.")
        if not -100 <= part.weight <= 100:  # NaN is not either
            raise FtError(part.run.folder, "a weight of -100 to 100", part.weight, "Write RUN:0.7.")
    hashes = [part.run.facts.get("sha256", {}) for part in parts]
    for part, own in zip(parts, hashes, strict=True):
        if own.get("base") != hashes[0].get("base"):
            wanted = f"the base of {parts[0].run.folder}, {parts[0].run.recipe.base}"
            raise FtError(part.run.folder, wanted, part.run.recipe.base, "Mix adapters of one base.")


def _keep_documents(made: Run, first: Run, others: Sequence[Run]) -> None:
    """The first part's documents; of the others what they were trained on, so that it is known again."""
    import numpy as np

    from ft_toolkit.judging.unseen import KNOWN_TEXT

    rows = first.read_table("documents.parquet")
    known = {row["text_sha256"] for row in rows}
    for run in others:
        for row in run.read_table("documents.parquet"):
            if row["split"] != "test" and row["text_sha256"] not in known:
                rows.append(row | {"text": None})
    made.write_table("documents.parquet", rows)
    runs = [
        run.read_column(KNOWN_TEXT, "run") for run in (first, *others) if (run.folder / KNOWN_TEXT).exists()
    ]
    if runs:
        made.write_column(KNOWN_TEXT, "run", np.unique(np.concatenate(runs)))


def _told(part: Part) -> dict[str, Any]:
    return {"run": part.run.folder.name, "weight": part.weight, "files": part.run.facts.get("files", {})}


def _prove(made: Run, tuned: Any, base: Any, text: Parts) -> None:
    """The gate of a training: a fresh process must read the saved adapter with the same scores."""
    from ft_toolkit.judging.integrity import (
        PROBE_CHARACTERS,
        PROBE_DOCUMENTS,
        Live,
        probe_scores,
        prove,
        require,
    )
    from ft_toolkit.models.adapters import trainable

    texts = [document.text[:PROBE_CHARACTERS] for document in text.test[:PROBE_DOCUMENTS]]
    live = Live(texts, probe_scores(tuned, texts), [], max(1, len(trainable(tuned.model))))
    found = prove(live, base, made.adapter_folder)
    made.record(integrity=found.as_dict())
    require(found, made.adapter_folder)
