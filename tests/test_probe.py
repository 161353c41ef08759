"""ft probe: are a tuned masked model's features of more use? And the labelled sets that ship."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from ft_toolkit import shipped
from ft_toolkit.cli import app
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.features import mean_pooled
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.labels import read_labelled
from ft_toolkit.text.overlap import overlaps

SETS = ("italian-cooking", "everyday-medicine")
CORPORA = (*SETS, "general-probe")
ROWS = "text,label\n" + "".join(f"{word} number {i},{word}\n" for i in range(4) for word in ("soup", "bread"))


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for family in ("bert", "gpt2"):
        values: dict[str, Any] = {
            "name": family,
            "base": str(checkpoints[family]),
            "corpus": {"source": str(short_corpus)},
            "training": {"steps": 2, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
            "judging": {"general": None},
        }
        options = Options(gate=False, judge=False)
        made[family] = finetune(Recipe.model_validate(values), folder, options, Screen(quiet=True))
    return made


def probed(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["probe", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_features_are_the_mean_of_transformers_own_last_hidden_states(
    checkpoints: dict[str, Path], family: str
) -> None:
    model = load_base(str(checkpoints[family]))
    long = " ".join(f"word{i}" for i in range(60))  # more than the 64 positions: read in windows
    texts = ["Boil the pasta.", "Rest the limb, cool it and raise it on a cushion.", "x", long]
    found = mean_pooled(model, texts)
    alone = AutoModel.from_pretrained(checkpoints[family]).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[family])
    for text, row in zip(texts[:3], found, strict=False):
        with torch.no_grad():
            states = alone(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state
        np.testing.assert_allclose(row, states[0].double().mean(0).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[3:], mean_pooled(model, [long]), atol=1e-5)
    assert np.isfinite(found).all()


def test_a_run_is_probed_on_a_set_that_ships_in_words_and_in_json(runs: dict[str, Run]) -> None:
    pytest.importorskip("sklearn", reason="the extra probe is not installed")
    arguments = (runs["bert"].folder, "--labels", "package:everyday-medicine", "--folds", 3)
    code, said, _ = probed(*arguments)
    assert code == 0 and "of 144 texts with 6 labels" in said
    assert "F1 when to seek help" in said and "right in 16.7 %" in said
    code, written, noted = probed(*arguments, "--json")
    whole = json.loads(written)
    assert code == 0 and whole["schema"] == 1 and "F1" not in noted
    found = whole["probe"]
    assert found["texts"] == [24] * 6 and found["folds"] == 3
    assert found["words"] in said  # the same seed, the same folds
    assert found["base"]["accuracy"] > 1 / 6


def test_a_causal_run_is_told_that_probes_are_for_masked_models(runs: dict[str, Run], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the extra probe is not installed")
    code, _, said = probed(runs["gpt2"].folder, "--labels", table(tmp_path, ROWS), "--folds", 3)
    assert code == 2 and "expected a run of a masked model, such as BERT" in said and "a causal one" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sentence,label\nx,y\n", "row 1: expected a column 'text', found the columns 'sentence', 'label'"),
        ("text;label\nx;y\n", "expected a column 'text', found the columns 'text;label'"),
        ("text,label\n", "found no row"),
        ("", "found no row"),
        ("text,label\nx,soup\n  ,soup\n", "row 2: expected a text, found an empty cell"),
        ("text,label\nx,soup\ny,\n", "row 2: expected a label, found an empty cell"),
        (
            "text,label\nx,soup\nx,bread\n",
            "row 2: expected one label a text, found 'bread', and 'soup' in row 1",
        ),
        ("text,label\nx,soup\ny,soup\n", "expected at least two labels, found 'soup' alone"),
        ("text,label\nx,soup\ny,bread\n", "expected at least 5 texts of each label"),
        ('text,label\n"x,soup\n', "expected a table row"),
        ("text,label\nx,soup,more\n", "expected 2 fields, found more"),
        ("text,label\nPâté bien salé,entrée\n".encode("cp1252"), "expected UTF-8, found Windows-1252"),
        ("text,label\n수프를 끓이고 소금을 넣는다,국\n".encode("cp949"), "Save the table as UTF-8"),
        (b"text,label\n\x81\xff\xfe,soup\n", "Save the table as UTF-8"),
        ("text,label\nx,soup\n".encode("utf-16"), "expected UTF-8, found UTF-16"),
    ],
)
def test_a_fault_of_the_table_is_one_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    code, _, said = probed("no-run-is-opened", "--labels", table(tmp_path, content))
    assert code == 2 and words in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.csv", "found no such file"),
        (".", "found a folder"),
        (
            "package:french-cooking",
            "expected one of everyday-medicine, italian-cooking, found french-cooking",
        ),
        ("README.md", "found a .md file"),
    ],
)
def test_a_source_that_is_no_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("no table")
    code, _, said = probed("no-run-is-opened", "--labels", source)
    assert code == 2 and words in said and len(said.strip().splitlines()) == 1


def test_without_scikit_learn_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, _, said = probed("no-run-is-opened", "--labels", table(tmp_path, ROWS))
    assert code == 2 and "pip install 'ft-toolkit[probe]'" in said


def test_a_row_that_repeats_a_text_counts_once(tmp_path: Path) -> None:
    found = read_labelled(str(table(tmp_path, ROWS + "soup number 0 ,soup\n")))
    assert len(found.texts) == len(found.labels) == 8 and found.copies == 1


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_ships_is_balanced_free_and_in_no_corpus(name: str) -> None:
    path = shipped.labelled(name)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert 120 <= len(rows) <= 200 and len({row["text"].casefold() for row in rows}) == len(rows)
    counts = Counter(row["label"] for row in rows)
    assert len(counts) == 6 and len(set(counts.values())) == 1
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    assert "CC0-1.0" in readme and "Written for this project" in readme and f"{len(rows)} sentences" in readme
    lengths = [len(row["text"]) for row in rows]
    assert f"{min(lengths)} to {max(lengths)}" in " ".join(readme.split())
    assert all(label in readme for label in counts)
    documents = [TextDocument(name, number, row["text"]) for number, row in enumerate(rows)]
    for corpus in CORPORA:
        found = overlaps(list(read_source(f"package:{corpus}").documents), {"labelled": documents})[
            "labelled"
        ]
        assert (found.as_dict()["copies"], found.as_dict()["with_8gram"]) == (0, 0)
