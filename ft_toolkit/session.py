"""What travels together through a journey: options of the command line, accelerator, screen, score cache."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen

if TYPE_CHECKING:
    from accelerate import Accelerator


MOST_KEPT_GB = 10.0  # of documents, and as many of token ids


@dataclass(frozen=True)
class Options:
    """How a fine-tuning is carried out; what is trained stands in the recipe.

    device    auto, cpu, cuda or mps
    trackers  names that accelerate knows
    judge     False: stop after training with the validation figure, so that configurations can be tried
              without a look at the test part; ft compare judges the run later
    gate      False: spare the fresh process that proves what was saved (some seconds); ft push refuses such
              a run
    energy    True: measure with codecarbon (extra `energy`)
    restart   True: an unfinished run whose inputs changed is made anew from there, not refused
    reuse     True: take over what a finished run of this name made from the same inputs
    folder    go on with the run in this very folder
    """

    device: str = "auto"
    trackers: tuple[str, ...] = ()
    judge: bool = True
    gate: bool = True
    energy: bool = False
    restart: bool = False
    reuse: bool = False
    folder: Path | None = None


def cache_folder() -> Path:
    """Where things are kept for the next time: in FT_CACHE, else the user's cache folder."""
    cache = os.environ.get("FT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ft_toolkit"


def score_cache_path() -> Path:
    """The scores of bases."""
    return cache_folder() / "base-scores.sqlite"


def kept_text(kind: Literal["texts", "tokens"]) -> tuple[Path, int]:
    """Where documents of large texts, or token ids of training texts, are kept; and the most bytes of them.

    raises   FtError where FT_KEPT_GB is no number
    """
    given = os.environ.get("FT_KEPT_GB") or str(MOST_KEPT_GB)
    try:
        most_bytes = round(float(given) * 1e9)
    except (ValueError, OverflowError):
        most_bytes = -1
    if most_bytes < 0:
        raise FtError("FT_KEPT_GB", "gigabytes, or 0 to keep no text", given, "Change or unset it.")
    return cache_folder() / kind, most_bytes


def cached_places() -> list[Path]:
    """What ft cache shows and clears: the file of base scores, the folders of documents and of token ids."""
    return [score_cache_path(), kept_text("texts")[0], kept_text("tokens")[0]]


@dataclass(frozen=True)
class Session:
    """One process's part in a journey.

    score_cache   file of the bases' scores; None: none are kept
    """

    accelerator: Accelerator
    screen: Screen = field(default_factory=Screen)
    score_cache: Path | None = field(default_factory=score_cache_path)

    @property
    def is_main(self) -> bool:
        """Whether this process writes to the run's folder; the others only train and score with it."""
        return bool(self.accelerator.is_main_process)
