"""A session for tests: on the CPU, with a silent screen, and keeping no scores unless asked to."""

from __future__ import annotations

from pathlib import Path

from ft_toolkit.progress import Screen
from ft_toolkit.session import Session
from ft_toolkit.training.accelerator import make_accelerator


def quiet_session(score_cache: Path | None = None, screen: Screen | None = None) -> Session:
    return Session(make_accelerator("cpu"), screen or Screen(quiet=True), score_cache)
