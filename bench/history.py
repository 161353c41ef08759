"""The history of the benchmarks: a line a run in bench/history.jsonl, which docs/pages.py shows as tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from ft_toolkit.runtime import bfloat16_is_faster

HISTORY = Path(__file__).with_name("history.jsonl")
LIBRARIES = ("torch", "transformers", "peft", "lm_eval")
Sides = dict[str, dict[str, float]]  # of each side: median_seconds, over_ours


def append(
    results: dict[str, Sides], rounds: int, documents: int | None = None, history: Path = HISTORY
) -> None:
    """Add one run: where and with what it was measured, and the figures of each side of each bench.

    documents   of a bench whose size is chosen
    """
    line = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": _cpu() + _used_as(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "documents": documents,
        "rounds": rounds,
        "results": results,
    }
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _commit() -> str | None:
    """Short, and with `-dirty` where files were changed since; None outside a repository."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(asked, cwd=HISTORY.parent, capture_output=True, text=True)
    return done.stdout.strip() or None


def _cpu() -> str:
    """The processor's own name; platform.processor() gives none on Linux."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _used_as() -> str:
    """What of its instructions is used; ATEN_CPU_CAPABILITY=avx2 makes it an older processor."""
    if bfloat16_is_faster("cpu"):
        return " with bfloat16"
    is_lowered = os.environ.get("ATEN_CPU_CAPABILITY") == "avx2"
    return " as one with AVX2 alone" if is_lowered else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:
        return None
