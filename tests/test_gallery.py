"""The recipes that ship: each says what it costs and whose text it reads, and each trains."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import SHARED

from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import gallery, read_recipe
from ft_toolkit.references import parse_base, parse_text
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.sharing.licences import OWN, TERMS, licence_of_base, licence_of_text

RECIPES = {path.stem: path for path in gallery()}
# for each recipe on Hub checkpoints: the family of its base, and a starter in its place
ON_THE_HUB = {
    "cooking-gpt2": ("gpt2", "starter/gpt2"),
    "cooking-distilbert": ("distilbert", "starter/bert"),
    "medical-gpt2": ("gpt2", "starter/gpt2"),
    "medical-bert": ("bert", "starter/bert"),
}
EVERY_PART = ("corpus.split.validation=0.1", "corpus.split.test=0.2")  # of a corpus smaller than the Hub's


def opening(path: Path) -> str:
    """The comment that a recipe opens with."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


def licences(recipe: Recipe) -> dict[str, str | None]:
    """The licence of everything that a recipe builds on."""
    corpus = recipe.corpus
    text = corpus.license or licence_of_text(parse_text(corpus.source))
    return {
        recipe.base: licence_of_base(parse_base(recipe.base)),
        corpus.source.removeprefix("hf:").partition("@")[0]: text,
    }


def train(name: str, runs: Path, overrides: Sequence[str]) -> Run:
    recipe = read_recipe(name, [*EVERY_PART, *overrides, "judging.general=null"]).recipe
    return finetune(
        recipe, runs, options=Options(device="cpu", judge=False, gate=False), screen=Screen(quiet=True)
    )


def test_the_gallery_holds_the_embedded_default_and_four_recipes_for_real_work() -> None:
    assert set(RECIPES) >= {"quickstart", "quickstart-bert", *ON_THE_HUB}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_it_costs_and_what_to_expect(name: str) -> None:
    comment = opening(RECIPES[name])
    assert "Costs " in comment
    assert "Expect " in comment
    assert read_recipe(name).recipe.name == name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_it_builds_on_and_its_licence(name: str) -> None:
    comment = opening(RECIPES[name])
    for source, licence in licences(read_recipe(name).recipe).items():
        assert licence in (*TERMS, OWN), f"{source}: {licence}"
        assert source in comment
        assert licence in comment.lower().replace(" ", "-")


def table() -> dict[str, list[str]]:
    """The cells of each recipe's row in recipes/README.md."""
    page = RECIPES["quickstart"].with_name("README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| [")]
    return {row[0].partition("]")[0][1:]: row for row in rows}


def test_the_gallerys_page_has_every_recipe_with_the_base_corpus_and_licences_of_its_file() -> None:
    assert list(table()) == [row[0].partition("(")[2].removesuffix(".yaml)") for row in table().values()]
    assert table().keys() == RECIPES.keys()
    for name, (_, base, corpus, owned, *_) in table().items():
        recipe = read_recipe(name).recipe
        assert f"`{recipe.base}`" in base, name
        assert f"`{recipe.corpus.source.partition('@')[0]}`" in corpus, name
        assert owned.lower().split(", ") == list(licences(recipe).values()), name


def test_every_result_in_the_gallery_stands_in_the_page_that_it_names() -> None:
    for name, (*_, cost, result) in table().items():
        assert "estimate" in cost or result != "not measured", name
        if result == "not measured":
            assert "estimate; it was never run here" in opening(RECIPES[name]), name
            continue
        words, _, link = result.partition(": [")
        page = (RECIPES[name].parent / link.partition("](")[2].removesuffix(")")).resolve()
        figures = re.findall(r"\d+\.\d+", words)
        assert figures and all(figure in page.read_text(encoding="utf-8") for figure in figures), name


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_recipe_on_the_hub_says_where_its_facts_were_seen_and_which_were_not(name: str) -> None:
    comment = opening(RECIPES[name])
    for words in ("an estimate", "model.safetensors", "seen", "not confirmed from here", "make live"):
        assert words in comment, words
    revision = read_recipe(name).recipe.corpus.source.partition("@")[2]
    assert len(revision) == 40  # the text that was meant, whatever is uploaded later


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_recipe_on_the_hub_trains_once_base_and_text_are_local(
    name: str, checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path
) -> None:
    family, _ = ON_THE_HUB[name]
    local = (f"base={checkpoints[family]}", f"corpus.source={small_corpus}")
    small = ("training.steps=2", "training.block_tokens=32", "training.batch_tokens=256")
    run = train(name, tmp_path, [*local, *small])
    assert run.facts["training"]["steps"] == 2
    assert (run.adapter_folder / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("name", "family"), [("korean-kogpt2", "gpt2"), ("korean-klue-bert", "bert")])
def test_a_korean_recipe_trains_on_notes_in_korean(
    name: str, family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    notes = tmp_path / "korean-notes"
    notes.mkdir()
    for number in range(30):
        (notes / f"{number}.txt").write_text(f"{number}번째 메모. 감기에는 물을 많이 마시고 푹 쉰다. " * 8)
    (notes / "mac.txt").write_text(unicodedata.normalize("NFD", "맥에서 쓴 메모. 물을 많이 마신다. " * 8))
    local = (f"base={checkpoints[family]}", f"corpus.source={notes}")
    run = train(
        name, tmp_path, [*local, "training.steps=2", "training.block_tokens=32", "training.batch_tokens=256"]
    )
    assert run.facts["training"]["steps"] == 2
    assert "1 documents are not in Unicode's NFC form" in (run.folder / "run.log").read_text()


@pytest.mark.parametrize(("name", "family"), [("starter-gpt2", "gpt2"), ("starter-bert", "bert")])
def test_a_starters_recipe_trains_fresh_weights_on_rows_of_text(
    name: str, family: str, checkpoints: dict[str, Path], small_corpus: Path, tmp_path: Path
) -> None:
    rows = [{"text": path.read_text()} for path in sorted(small_corpus.iterdir())]
    (tmp_path / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = (f"base={checkpoints[family]}", f"corpus.source={tmp_path / 'books.jsonl'}")
    run = train(
        name, tmp_path, [*local, "training.steps=4", "training.block_tokens=32", "training.batch_tokens=256"]
    )
    assert run.facts["training"]["best_validation_nats"] < run.facts["training"]["base_validation_nats"]
    assert (run.folder / "model" / "tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the larger texts of ../shared/corpora are not here")
@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_recipe_on_the_hub_trains_a_starter_on_larger_real_text(name: str, tmp_path: Path) -> None:
    _, starter = ON_THE_HUB[name]
    is_medical = name.startswith("medical")
    text = SHARED / ("medical/medquad.jsonl" if is_medical else "cooking")
    local = (f"base={starter}", f"corpus.source={text}")
    small = ("training.steps=4", "training.block_tokens=128", "training.batch_tokens=1024")
    some_twenty = f"corpus.split.validation={0.005 if is_medical else 0.05}"
    training = train(name, tmp_path, [*local, *small, some_twenty]).facts["training"]
    assert training["best_validation_nats"] < training["base_validation_nats"]
