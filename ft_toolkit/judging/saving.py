"""Saves a comparison where the user asks: ft compare --out FOLDER."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import Comparison
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.judging.verdict import judge
from ft_toolkit.run import Run

Judged = tuple[Comparison, TokenScores]


def refuse_taken(folder: Path) -> None:
    """raises   FtError unless the folder is not there yet, or empty"""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        found = "one with files in it" if folder.is_dir() else "a file"
        raise FtError(f"--out {folder}", "a new or an empty folder", found, "Name another one.")


def save(folder: Path, found: Sequence[Judged]) -> None:
    """Write comparison.json and scores/*.parquet, several comparisons each in a subfolder.

    The folder appears once it is complete.

    raises   FtError for a folder with something in it, or one that cannot be made
    """
    refuse_taken(folder)
    folder = folder.absolute()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        for name, (comparison, scores) in zip(_names(found), found, strict=True):
            place = unfinished / name if len(found) > 1 else unfinished
            place.mkdir(exist_ok=True)
            write(Run(place), comparison, scores)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        unfinished.rename(folder)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        wanted, cure = "a folder that can be made", "Name another one."
        raise FtError(f"--out {folder}", wanted, error.strerror or error, cure) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write(run: Run, comparison: Comparison, scores: TokenScores) -> None:
    """scores/*.parquet, and then comparison.json, in the folder of a run or in one like it."""
    scores.write(run)
    run.write_json("comparison.json", comparison.as_dict() | {"verdict": asdict(judge(comparison))})


def _names(found: Sequence[Judged]) -> list[str]:
    """A subfolder's name for each: the run's, numbered where two runs share it."""
    names: list[str] = []
    for comparison, _ in found:
        name, number = comparison.name, 1
        while name in names:
            number += 1
            name = f"{comparison.name}-{number}"
        names.append(name)
    return names
