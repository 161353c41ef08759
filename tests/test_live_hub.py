"""What the gallery says of the real Hub: make live. Some 1.5 GB are downloaded."""

from __future__ import annotations

import os
import re

import datasets
import pytest
from huggingface_hub import HfApi, constants
from test_gallery import ON_THE_HUB, RECIPES, licences, opening

from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.recipe import read_recipe
from ft_toolkit.sections import Recipe
from ft_toolkit.text.corpus import read_corpora

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.environ.get("FT_LIVE") != "1", reason="the real Hub is asked with FT_LIVE=1 only"),
    pytest.mark.timeout(1800),
]
RECIPE_NAMES = list(ON_THE_HUB)
# source: how many documents its recipe's comment promises, and how many rows without text
PROMISED = {
    "hf:common-pile/foodista_filtered": (65_640, 0),
    "hf:lavita/MedQuAD": (16_407, 31_034),
}


@pytest.fixture(autouse=True)
def network_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # conftest.py switched it off
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def recipe(name: str) -> Recipe:
    return read_recipe(name).recipe


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_base_of_the_gallery_has_the_licence_that_is_stated_and_safetensors(name: str) -> None:
    base = recipe(name).base
    info = HfApi().model_info(base)
    assert info.card_data is not None
    assert info.card_data.get("license") == licences(recipe(name))[base]
    assert "model.safetensors" in {file.rfilename for file in info.siblings or ()}


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_every_commit_that_a_recipe_names_of_its_base_is_there(name: str) -> None:
    pinned = recipe(name).corpus.source.partition("@")[2]
    for commit in set(re.findall(r"\b[0-9a-f]{40}\b", opening(RECIPES[name]))) - {pinned}:
        assert HfApi().model_info(recipe(name).base, revision=commit).sha == commit


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_corpus_of_the_gallery_is_there_and_its_card_states_no_other_licence(name: str) -> None:
    source, _, revision = recipe(name).corpus.source.removeprefix("hf:").partition("@")
    info = HfApi().dataset_info(source, revision=revision)
    assert info.sha == revision
    stated = (info.card_data or {}).get("license")
    assert stated in (None, recipe(name).corpus.license, [recipe(name).corpus.license])


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_corpus_of_the_gallery_is_read_as_its_recipe_promises(name: str) -> None:
    reading = read_corpora(recipe(name).corpus)
    documents, empty = PROMISED[recipe(name).corpus.source.partition("@")[0]]
    assert len(reading.documents) + reading.copies == documents
    assert reading.empty_documents == empty
    assert {document.source for document in reading.documents} == {"train"}


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_base_of_the_gallery_loads(name: str) -> None:
    base = load_base(recipe(name).base)
    assert base.family.model_type == ON_THE_HUB[name][0]
    assert base.positions == (1024 if base.family.objective == "causal" else 512)
