"""What the tests of publishing share: a loopback Hub, and finished tiny runs on bases that it serves."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hub_server import HubServer
from huggingface_hub.utils import _http, close_session

from ft_toolkit.finetune import finetune
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.sharing.snippet import check_snippet
from sharing.loopback import BASES, FAMILIES, QUIET, point_at


@pytest.fixture
def hub(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with the tiny bases on it, whose requests all have an answer.

    A thread that an earlier test gave up on finds its server gone, and the client's answer to a refused
    connection is to close the session that all threads share: not this test's.
    """
    abandoned = set(threading.enumerate()) - {threading.current_thread()}

    def close() -> None:
        if threading.current_thread() not in abandoned:
            close_session()

    monkeypatch.setattr(_http, "close_session", close)
    with HubServer() as server:
        for family, name in BASES.items():
            server.add("models", name, checkpoints[family])
            server.cards[name] = {"license": "mit"}
        server.large_bytes = 5000
        point_at(monkeypatch, server, tmp_path / "cache")
        yield server
    close_session()
    assert server.unanswered == []


@pytest.fixture(scope="session")
def finished(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A trained, judged and checked run for each family, on a base of the Hub: made by the first worker."""
    session = tmp_path_factory.getbasetemp()
    folder = (session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").exists():
            make_finished(folder, checkpoints, small_corpus)
            (folder / "whole").touch()
    return {family: folder / "runs" / f"tiny-{family}" for family in FAMILIES}


def make_finished(folder: Path, checkpoints: dict[str, Path], corpus: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        point_at(patch, server, folder / "cache")
        for family, objective in FAMILIES.items():
            commit = server.add("models", BASES[family], checkpoints[family])
            recipe = Recipe.model_validate(
                {
                    "name": f"tiny-{family}",
                    "base": f"{BASES[family]}@{commit}",
                    "corpus": {"source": str(corpus), "license": "cc0-1.0", "language": "en"},
                    "training": {"steps": 3, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
                    "judging": {"general": None},
                    "publish": {"tags": ["medical"]},
                }
            )
            run = finetune(recipe, folder / "runs", screen=QUIET)
            check_snippet(run, run.adapter_folder / "adapter_model.safetensors", objective, merged=False)
    close_session()


@pytest.fixture
def finished_run(finished: dict[str, Path], tmp_path: Path) -> Callable[[str], Run]:
    """A copy of a finished run that the test may spoil."""

    def copy(family: str = "gpt2") -> Run:
        folder = tmp_path / "runs" / f"tiny-{family}"
        shutil.copytree(finished[family], folder)
        return Run.open(folder)

    return copy
