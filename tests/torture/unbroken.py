"""What stays the same, byte for byte, however a run came to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import file_sha256
from ft_toolkit.run import Run

TIMES = {"started_at", "finished_at", "ended_at", "wall_seconds"}  # of run.json: all that may differ


def contents(run: Path) -> dict[str, object]:
    """Every file of a run by its hash, hidden ones too; of run.json only what may not differ.

    run.log and report.html tell of times.
    """
    files: dict[str, object] = {
        path.relative_to(run).as_posix(): file_sha256(path)
        for path in run.rglob("*")
        if path.is_file() and path.name not in ("run.json", "run.log", "report.html", ".lock")
    }
    facts = {name: value for name, value in Run(run).facts.items() if name not in TIMES}
    facts["training"] = {name: value for name, value in facts["training"].items() if name != "seconds"}
    return files | {f"run.json {name}": value for name, value in facts.items()}


def scores_in_this_process(base: Any, folder: Path, texts: Any) -> list[dict[str, str]]:
    """What the integrity gate's fresh process does, without starting one: all is read from files again."""
    from ft_toolkit.judging import integrity
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.model_pair import load_pair

    scores = integrity.probe_scores(load_pair(load_base(base.name, base.device), folder).tuned, texts)
    return [{"sha256": integrity._digest(nll), "nats_per_token": "0x0p+0"} for nll in scores]
