"""Every family with no flags beyond `base`: train, save, load, compare, merge, and score the same text again.

A family that is not tested here reads "not tested" in docs/models.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tiny_checkpoints import save

from ft_toolkit.artefacts import read_json
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.totals import document_totals
from ft_toolkit.models.adapters import attach_adapter, load_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_run
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import Document, TextDocument

TinyRecipe = Callable[..., Recipe]
MOVED_NATS = 1e-3  # a token: less would prove nothing
MERGED_NATS = 1e-5


def held_out(run: Run) -> list[Document]:
    rows = [row for row in run.read_table("documents.parquet") if row["split"] == "test"]
    return [TextDocument(row["source"], row["row"], row["text"]) for row in rows]


def nats(model: torch.nn.Module, base: LanguageModel, documents: list[Document]) -> NDArray[np.float64]:
    """(documents, 2): what each costs, and its tokens, as the verdict counts them."""
    encoded = encode(documents, base.tokenizer)
    scores = score(base.with_model(model), encoded, choose_protocol(base))
    totals = [document_totals(d, nll) for d, nll in zip(encoded, scores, strict=True)]
    return np.array([[total.nll_nats, total.tokens] for total in totals])


def stored(run: Run, side: str) -> NDArray[np.float64]:
    rows = run.read_table("scores/documents.parquet")
    rows = [row for row in rows if (row["split"], row["side"]) == ("held-out", side)]
    return np.array([[row["nll_nats"], row["tokens"]] for row in rows])


@pytest.fixture(scope="module")
def few_documents(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of twenty real documents, eight held out: masked scoring is what takes the time."""
    folder = tmp_path_factory.mktemp("few") / "medicine"
    folder.mkdir()
    for path in sorted(small_corpus.iterdir())[10:30]:
        (folder / path.name).write_text(path.read_text()[:400])
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_saves_loads_compares_and_merges_with_nothing_but_its_base(
    name: str, tiny_recipe: TinyRecipe, few_documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))  # the base is scored here, beside the adapter
    recipe = tiny_recipe(name, corpus={"source": str(few_documents)}, training={"steps": 16})
    run = finetune(recipe, tmp_path, options=Options(gate=False), screen=Screen(quiet=True))
    live_base, live = stored(run, "base"), stored(run, "adapter")
    documents = held_out(run)

    base = load_base(recipe.base)
    bare = nats(base.model, base, documents)
    assert np.array_equal(bare, live_base)
    fresh = attach_adapter(base, Adapter(), seed=0)
    assert np.array_equal(nats(fresh, base, documents), bare)  # an untrained adapter is the base, bitwise

    moved = (live[:, 0] - bare[:, 0]) / bare[:, 1]
    assert np.abs(moved).min() > MOVED_NATS
    matrices = load_file(run.adapter_folder / "adapter_model.safetensors")
    lora_b = {key: matrix for key, matrix in matrices.items() if ".lora_B." in key}
    assert len(lora_b) == len(matrices) / 2 > 0
    assert [key for key, matrix in lora_b.items() if not matrix.any()] == []

    base = load_base(recipe.base)
    loaded = load_adapter(base, run.adapter_folder)
    assert np.array_equal(nats(loaded, base, documents), live)  # loaded is trained, bitwise
    again = compare_run(run, screen=Screen(quiet=True))
    assert again.as_dict()["corpora"] == read_json(run.folder / "comparison.json")["corpora"]

    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    base.tokenizer.save_pretrained(tmp_path / "merged")
    plain = load_base(str(tmp_path / "merged"))
    assert hash_weights(plain.model) != load_base(recipe.base).weights_sha256
    drift = (nats(plain.model, plain, documents)[:, 0] - live[:, 0]) / live[:, 1]
    assert np.abs(drift).max() < MERGED_NATS


def test_an_architecture_without_a_row_says_so_and_makes_the_same_journey(
    tiny_recipe: TinyRecipe, few_documents: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    save(tmp_path / "tiny-qwen2", "qwen2", "llama")
    corpus = {"source": str(few_documents)}
    run = finetune(tiny_recipe("llama", base=str(tmp_path / "tiny-qwen2"), corpus=corpus), tmp_path / "runs")
    note = "qwen2 is not in the table of families; its parts were detected: 14 matrices of its layers can be"
    assert note in (run.folder / "run.log").read_text()
    base = load_base(run.recipe.base)
    loaded = load_adapter(base, run.adapter_folder)
    assert np.array_equal(nats(loaded, base, held_out(run)), stored(run, "adapter"))
