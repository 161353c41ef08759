"""ft audit: a run's own scores tell what it remembers, and where it learnt; no model is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ft_toolkit.audit import audit
from ft_toolkit.cli import app
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.audit import Audit
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Recipe
from ft_toolkit.run import Run
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
WORDS = [
    "salt",
    "oil",
    "bread",
    "wine",
    "rice",
    "fish",
    "leek",
    "sage",
    "veal",
    "milk",
    "corn",
    "dill",
    "plum",
    "bean",
    "lamb",
    "crab",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents, of which nothing can be learnt but by heart: random words."""
    folder = tmp_path_factory.mktemp("words")
    random = np.random.default_rng(0)
    for number in range(60):
        (folder / f"{number}.txt").write_text(" ".join(random.choice(WORDS, 40)))
    return folder


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """The same corpus read once and fifty times."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, epochs in (("once", 1), ("fifty", 50)):
        values = {
            "name": name,
            "base": str(checkpoints["gpt2"]),
            "corpus": {"source": str(corpus), "split": {"test": 0.4}},
            "adapter": {"method": "full"},
            "training": {"epochs": epochs, "block_tokens": 64, "batch_tokens": 512, "learning_rate": 0.01},
            "judging": {"general": None},
        }
        values["training"] |= {"patience": 999}  # type: ignore[operator]
        found[name] = finetune(Recipe.model_validate(values), folder, Options(gate=False), QUIET)
    return found


def audited(run: Run) -> Audit:
    return audit(Run.open(run.folder), screen=QUIET)


def ft(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


def test_a_corpus_read_fifty_times_is_memorised_and_the_same_read_once_is_not(runs: dict[str, Run]) -> None:
    once, fifty = audited(runs["once"]).memorisation, audited(runs["fifty"]).memorisation
    print(once.words, fifty.words)
    assert fifty.words.startswith("much: the ")
    assert once.words.startswith(("no sign", "cannot tell"))
