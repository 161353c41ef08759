"""The corpora that ship: large enough, varied enough, and free to use."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from ft_toolkit import shipped
from ft_toolkit.recipe import read_recipe
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.text.splitting import split

DOMAINS = ("italian-cooking", "everyday-medicine")
CORPORA = (*DOMAINS, "general-probe")
Gram = tuple[str, ...]


@cache
def documents(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(shipped.corpus(name).iterdir())}


@cache
def five_grams(name: str) -> dict[str, list[Gram]]:
    """The word 5-grams of each document, in lower case and without punctuation."""
    words = {key: re.findall(r"\w+", data.decode().lower()) for key, data in documents(name).items()}
    return {key: [tuple(w[i : i + 5]) for i in range(len(w) - 4)] for key, w in words.items()}


@pytest.mark.parametrize(
    ("name", "least_documents", "least_bytes"),
    [("italian-cooking", 120, 100_000), ("everyday-medicine", 120, 100_000), ("general-probe", 40, 40_000)],
)
def test_a_corpus_is_large_enough_to_judge_by(name: str, least_documents: int, least_bytes: int) -> None:
    assert len(documents(name)) >= least_documents
    assert sum(map(len, documents(name).values())) >= least_bytes


@pytest.mark.parametrize("name", CORPORA)
def test_each_document_is_a_page_of_markdown(name: str) -> None:
    sizes = {key: len(data) for key, data in documents(name).items()}
    assert {key: size for key, size in sizes.items() if not 400 <= size <= 1500} == {}
    assert {key for key in sizes if not key.endswith(".md")} == set()


@pytest.mark.parametrize("name", CORPORA)
def test_no_two_documents_are_near_copies(name: str) -> None:
    grams = {key: set(found) for key, found in five_grams(name).items()}
    near = [
        (a, b) for a, b in combinations(grams, 2) if len(grams[a] & grams[b]) > 0.2 * len(grams[a] | grams[b])
    ]
    assert near == []


@pytest.mark.parametrize("name", CORPORA)
def test_no_sentence_of_boilerplate_runs_through_a_corpus(name: str) -> None:
    lines: Counter[str] = Counter()
    for data in documents(name).values():
        lines.update({line.strip() for line in data.decode().split("\n") if len(line.split()) >= 4})
    assert [line for line, count in lines.items() if count > 2] == []


@pytest.mark.parametrize("name", CORPORA)
def test_nearly_every_word_five_gram_of_a_corpus_occurs_once(name: str) -> None:
    grams = [gram for found in five_grams(name).values() for gram in found]
    assert len(set(grams)) / len(grams) >= 0.95


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_says_what_it_is_whose_and_how_large(name: str) -> None:
    text = (shipped.corpus(name).parent / "README.md").read_text()
    assert text.startswith(f"# package:{name}\n")
    assert "written for this project" in text.lower()
    assert "CC0-1.0" in text
    size = sum(map(len, documents(name).values()))
    sizes = [len(data) for data in documents(name).values()]
    assert f"{len(sizes)} documents, {size:,} bytes" in text
    assert f"{min(sizes):,} to {max(sizes):,} bytes" in text


def test_the_medicine_corpus_says_that_it_is_no_advice() -> None:
    text = (shipped.corpus("everyday-medicine").parent / "README.md").read_text()
    assert "education, not advice" in text


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_readme_is_not_one_of_its_documents(name: str) -> None:
    assert shipped.corpus(name).name == "documents"
    assert "README.md" not in documents(name)


@pytest.mark.parametrize("name", ["quickstart", "quickstart-bert"])
def test_a_quickstart_is_judged_on_at_least_32_documents(name: str) -> None:
    corpus = read_recipe(name).recipe.corpus
    assert len(split(read_corpora(corpus).documents, corpus.split).test) >= 32


def test_the_general_probe_shares_no_text_with_the_domains() -> None:
    probe = {gram for found in five_grams("general-probe").values() for gram in found}
    for name in DOMAINS:
        domain = {gram for found in five_grams(name).values() for gram in found}
        assert len(probe & domain) <= 0.001 * len(probe)


def test_the_corpora_that_ship_are_those_tested_here() -> None:
    shelf = Path(shipped.__file__).parent / "corpora"
    assert sorted(path.name for path in shelf.iterdir() if path.is_dir()) == sorted(CORPORA)
