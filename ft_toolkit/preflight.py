"""Checks before torch is imported and a run folder exists: paths, columns, extras, targets."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from ft_toolkit.errors import FtError
from ft_toolkit.references import parse_base, parse_text
from ft_toolkit.sections import Corpus, Recipe
from ft_toolkit.text.corpus import faults_name, raw_documents

# accelerate's names; importing accelerate would import torch
TRACKERS = (
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
HEADER_BYTES = 100_000_000  # the most that safetensors allows


def check(
    recipe: Recipe, runs_folder: str | Path = "runs", trackers: Sequence[str] = (), *, energy: bool = False
) -> None:
    """raises   FtError for a fault that files and installed packages already show"""
    runs_folder = Path(runs_folder)
    if runs_folder.exists() and not runs_folder.is_dir():
        raise FtError(runs_folder, "a folder for runs", "a file", "Move it or use --runs.")
    if runs_folder.is_dir() and not os.access(runs_folder, os.W_OK):
        raise FtError(runs_folder, "a folder we may write", "no permission", "Use --runs FOLDER.")
    for tracker in trackers:
        _check_tracker(tracker)
    if energy and not _is_installed("codecarbon"):
        fix = "Run pip install 'ft-toolkit[energy]'."
        raise FtError("--energy", "codecarbon", "it is not installed", fix)
    _check_text(recipe)
    _check_base(recipe)


def _check_tracker(name: str) -> None:
    if name == "all":
        return
    if name not in TRACKERS:
        near = get_close_matches(name, TRACKERS, n=1)
        wanted, fix = f"one of {', '.join(TRACKERS)}", f"Did you mean {near[0]}?" if near else "Choose one."
        raise FtError("--track", wanted, name, fix)
    if not (_is_installed(name) or (name == "tensorboard" and _is_installed("tensorboardX"))):
        fix = "Run pip install 'ft-toolkit[trackers]'." if name == "tensorboard" else f"Install {name}."
        raise FtError("--track", "a tracker that is installed", name, fix)


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # a mere folder of that name has no origin


def _check_text(recipe: Recipe) -> None:
    """Read the first document: its file is there and readable, its row has the columns."""
    for corpus in recipe.corpora:
        if parse_text(corpus.source).kind != "hub":  # that takes the network, or heavy libraries
            next(raw_documents(corpus), None)
    general = recipe.judging.general
    if general is not None:
        with faults_name("judging.general"):
            if parse_text(general).kind != "hub":
                next(raw_documents(Corpus(source=general)), None)


def _check_base(recipe: Recipe) -> None:
    reference = parse_base(recipe.base)
    if reference.kind == "gguf" and not _is_installed("gguf"):
        fix = "Run pip install 'ft-toolkit[gguf]'."
        raise FtError(f"base {recipe.base}", "the package gguf", "it is not installed", fix)
    folder = reference.folder
    if folder is None:
        return
    if not (folder / "config.json").is_file():
        fix = "Save the model there with save_pretrained."
        raise FtError(f"base {recipe.base}", "a config.json with its model_type", "no config.json", fix)
    matrices = _matrices(folder)
    targets = recipe.adapter.targets
    for target in targets if isinstance(targets, list) and matrices else ():
        # a name with a layer's number may be spelt another way in the file than in the model
        if not any(c.isdigit() for c in target) and not any(f".{m}".endswith(f".{target}") for m in matrices):
            hint = f"Choose among {', '.join(matrices)}."
            raise FtError("adapter.targets", "matrices of the trunk", target, hint)


def _matrices(folder: Path) -> list[str]:
    """Names of the matrices in the numbered layers, by the weights' headers; [] where one is unreadable."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size)) if size <= HEADER_BYTES else {}
            axes = {name: len(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []  # load_base says what is wrong with it
        for name in sorted(axes):
            parts = name.removesuffix(".weight").split(".")
            numbers = [place for place, part in enumerate(parts) if part.isdigit()]
            if numbers and axes[name] == 2 and name.endswith(".weight"):
                found[".".join(parts[numbers[-1] + 1 :])] = None
    return list(found)
