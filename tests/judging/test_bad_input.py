"""What a comparison cannot go on with: one line that names it, an exit code, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from ft_toolkit.cli import app
from ft_toolkit.errors import LINE_CHARACTERS
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

INVISIBLE = "\u200b\u200d"  # characters, but no token of BERT's


@dataclass
class Ground:
    """An unjudged run, its base and a place for text, all of which a test may change."""

    run: Run
    base: Path
    other: Run  # on another base
    text: Path
    more: list[str] = field(default_factory=list)  # arguments of ft compare behind the run

    @property
    def adapter(self) -> Path:
        return self.run.adapter_folder / "adapter_model.safetensors"

    def on(self, text: str) -> None:
        self.text.write_text(text)
        self.more = ["--on", str(self.text)]

    def compare(self) -> Result:
        return CliRunner().invoke(app, ["compare", str(self.run.folder), *self.more])


@pytest.fixture(scope="module")
def trained(
    checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Run, Path]]:
    """An unjudged run of each family, and a copy of its base that it alone has."""
    found = {}
    for family in ("gpt2", "bert"):
        folder = tmp_path_factory.mktemp(family)
        base = Path(shutil.copytree(checkpoints[family], folder / "base"))
        values = {
            "name": family,
            "base": str(base),
            "corpus": {"source": str(small_corpus)},
            "training": {"steps": 1, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
            "judging": {"general": None, "protocol": "auto" if family == "gpt2" else "covering"},
        }
        recipe = Recipe.model_validate(values)
        found[family] = (
            finetune(recipe, folder, options=Options(judge=False, gate=False), screen=Screen(quiet=True)),
            base,
        )
    return found


@pytest.fixture
def ground(trained: dict[str, tuple[Run, Path]], tmp_path: Path) -> Callable[[str], Ground]:
    def make(family: str) -> Ground:
        run, base = trained[family]
        other, _ = trained["bert" if family == "gpt2" else "gpt2"]
        copied = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
        own = shutil.copytree(base, tmp_path / "base")
        recipe = (copied.folder / "recipe.yaml").read_text()
        copied.write("recipe.yaml", recipe.replace(str(base), str(own)))
        return Ground(copied, own, other, tmp_path / "notes.txt")

    return make


def base_changed(ground: Ground) -> None:
    weights = load_file(ground.base / "model.safetensors")
    next(iter(weights.values())).view(-1)[5] += 1e-3
    save_file(weights, ground.base / "model.safetensors", metadata={"format": "pt"})


def tokenizer_changed(ground: Ground) -> None:
    path = ground.base / "tokenizer.json"
    content = json.loads(path.read_text())
    pieces = content["model"]["vocab"]
    one, other = list(pieces)[-2:]
    pieces[one], pieces[other] = pieces[other], pieces[one]
    path.write_text(json.dumps(content))


def adapter_of_another_base(ground: Ground) -> None:
    shutil.rmtree(ground.run.adapter_folder)
    shutil.copytree(ground.other.adapter_folder, ground.run.adapter_folder)
    ground.run.record(files=ground.run.trained_files())


def base_of_another_adapter(ground: Ground) -> None:
    recipe = (ground.run.folder / "recipe.yaml").read_text()
    ground.run.write("recipe.yaml", recipe.replace(str(ground.base), ground.other.recipe.base))


def weights_that_are_no_numbers(ground: Ground) -> None:
    weights = load_file(ground.adapter)
    save_file({key: weight * np.nan for key, weight in weights.items()}, ground.adapter)
    ground.run.record(files=ground.run.trained_files())


def adapter_that_moved_since(ground: Ground) -> None:
    weights = load_file(ground.adapter)
    weights[min(weights)] += 1.0
    save_file(weights, ground.adapter, metadata={"format": "pt"})


def newer_schema(ground: Ground) -> None:
    ground.run.record(schema=99)


def no_text(ground: Ground) -> None:
    ground.on("")


def blank_text(ground: Ground) -> None:
    ground.on(" \n\t\n")


def invisible_text(ground: Ground) -> None:
    ground.on(INVISIBLE)


def one_token_without_context(ground: Ground) -> None:
    ground.on("a")
    ground.more += ["--protocol", "concatenated"]


FAULTS: list[tuple[Callable[[Ground], None], str, int]] = [
    (base_changed, "expected the base of training (sha256 ", 2),
    (tokenizer_changed, "expected the tokenizer of training (sha256 ", 2),
    (adapter_of_another_base, "expected an adapter for ", 2),
    (base_of_another_adapter, "expected the base of training (sha256 ", 2),
    (weights_that_are_no_numbers, ".md#0: expected finite scores, found NaN or infinity", 5),
    (adapter_that_moved_since, "adapter/adapter_model.safetensors: expected the file that was trained", 4),
    (newer_schema, "expected schema 1 or older, found schema 99. Upgrade ft-toolkit.", 2),
    (no_text, "expected at least one document with text, found 1 empty documents. Check ", 2),
    (blank_text, "expected at least one document with text, found 1 empty documents. Check ", 2),
]
CASES = [
    *((family, *fault) for family in ("gpt2", "bert") for fault in FAULTS),
    (
        "bert",
        invisible_text,
        "text of notes.txt: expected a token to score, found none. Choose more text.",
        2,
    ),
    ("gpt2", one_token_without_context, "text of notes.txt: expected a token to score, found none.", 2),
]


@pytest.mark.parametrize(("family", "lay", "words", "code"), CASES)
def test_a_comparison_that_cannot_be_made_says_why_in_one_line_and_writes_nothing(
    ground: Callable[[str], Ground], family: str, lay: Callable[[Ground], None], words: str, code: int
) -> None:
    here = ground(family)
    lay(here)
    before = {path: path.read_bytes() for path in here.run.folder.parent.rglob("*") if path.is_file()}
    result = here.compare()
    assert (result.exit_code, result.stdout) == (code, "")
    line = result.stderr.splitlines()[-1]
    assert words in line
    assert len(line) <= LINE_CHARACTERS
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in here.run.folder.parent.rglob("*") if path.is_file()} == set(before)
    assert not here.run.is_finished


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_document_of_one_token_is_scored_and_too_little_to_judge_by(
    ground: Callable[[str], Ground], family: str
) -> None:
    here = ground(family)
    here.on("a")
    result = here.compare()
    assert result.exit_code == 0, result.output
    assert "cannot tell: 1 documents are too few for an interval" in result.stdout
    assert "of 1 better" in result.stdout
