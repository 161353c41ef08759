"""What the tests share: tiny real checkpoints, a small real corpus, and one thread."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network says so by itself
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["FT_CACHE"] = tempfile.mkdtemp(prefix="ft-cache-")  # never the user's own

import pytest
import torch
import warm_python
from tiny_checkpoints import POSITIONS, TinyCheckpoints
from torch import nn

from ft_toolkit import shipped
from ft_toolkit.models.adapters import trainable
from ft_toolkit.runtime import prepare_torch, run_python
from ft_toolkit.sections import Recipe

prepare_torch()

SHARED = Path(__file__).resolve().parents[2] / "shared" / "corpora"
FAMILY_NAMES = ("gpt2", "bert", "distilbert")  # the others: tests/test_family_matrix.py
__all__ = ["FAMILY_NAMES", "POSITIONS", "SHARED", "batches_of", "move_b"]


def pytest_collection_finish() -> None:
    gc.freeze()  # a full collection, one after every training, no longer walks what the tests imported


OF_RUNS = ("ft_toolkit.judging.integrity.run_python", "ft_toolkit.sharing.snippet.run_python")


@pytest.fixture(scope="session", autouse=True)
def warm_processes() -> Iterator[None]:
    """The gate and the check of the card's lines ask processes that begin with torch imported."""
    with patch(OF_RUNS[0], warm_python.run_python), patch(OF_RUNS[1], warm_python.run_python):
        yield


@pytest.fixture
def cold_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are started as users' runs start them."""
    for place in OF_RUNS:
        monkeypatch.setattr(place, run_python)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family, made when it is first asked for."""
    return TinyCheckpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty real documents of the bundled medicine corpus, in a folder."""
    folder = tmp_path_factory.mktemp("corpus") / "medicine"
    folder.mkdir()
    for path in sorted(shipped.corpus("everyday-medicine").glob("*.md"))[:40]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def short_corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of 24 of them, for tests that train and judge several times."""
    folder = tmp_path_factory.mktemp("beginnings")
    for path in sorted(small_corpus.iterdir())[:24]:
        (folder / path.name).write_text(path.read_text(encoding="utf-8")[:300], encoding="utf-8")
    return folder


def move_b(model: nn.Module, std: float) -> None:
    """Give an adapter an effect: a fresh B is zero, and A would have no gradient."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if "lora_B" in name:
                parameter.normal_(std=std, generator=generator)


@contextmanager
def batches_of(tokens: int) -> Iterator[None]:
    """Score so many tokens at once, which may move a score by rounding alone."""
    room = "ft_toolkit.judging.{}.BATCH_TOKENS".format
    with patch(room("causal"), tokens), patch(room("masked"), tokens):
        yield


@pytest.fixture
def poisoned_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files named as modules that our processes import; each leaves `executed`."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for module in ("random", "torch", "json", "transformers", "numpy"):
        said = "from os.path import dirname; open(dirname(__file__) + '/executed', 'w'); raise SystemExit(7)"
        (folder / f"{module}.py").write_text(said)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tiny_recipe(checkpoints: dict[str, Path], small_corpus: Path) -> Callable[..., Recipe]:
    """A recipe that trains in about a second: tiny_recipe("bert", training={"steps": 2})."""

    def make(family: str = "gpt2", **sections: Any) -> Recipe:
        values: dict[str, Any] = {
            "name": f"tiny-{family}",
            "base": str(checkpoints[family]),
            "corpus": {"source": str(small_corpus)},
            "training": {
                "steps": 5,
                "block_tokens": 32,
                "batch_tokens": 256,
                "learning_rate": 0.01,
                "replay": 0,
            },
            "judging": {"general": None},
        }
        for key, value in sections.items():
            both_are_sections = isinstance(value, dict) and isinstance(values.get(key), dict)
            values[key] = values[key] | value if both_are_sections else value
        return Recipe.model_validate(values)

    return make
