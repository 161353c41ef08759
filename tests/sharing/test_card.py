"""README.md: valid metadata, the numbers of comparison.json and no others, and words that warn."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard

from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.sharing.card import write_card
from ft_toolkit.sharing.licences import Licence, Source
from ft_toolkit.sharing.published import Published
from ft_toolkit.sharing.snippet import Place, loading_snippet
from ft_toolkit.sharing.staging import BaseOnTheHub
from sharing.loopback import BASES, plan_of

LOW, HIGH = -0.2, -0.1  # nats a token; exp(-0.2) - 1 = −18.1 %, exp(-0.1) - 1 = −9.5 %


def published(source: str = "hf:acme/leaflets", **changes: Any) -> Published:
    """A card's content with figures that are easy to find again."""
    difference = {"nats_per_token": -0.15, "low": LOW, "high": HIGH, "documents": 40, "better": 37}
    held_out = {"corpus": "acme/leaflets", "kind": "held-out", "difference": difference, "percent": -13.929}
    held_out |= {"base_perplexity": 111.25, "adapter_perplexity": 95.75, "repeated_token_fraction": 0.125}
    comparison = {
        "protocol": {"metric": "perplexity", "name": "document", "window_tokens": 64, "stride_tokens": 32},
        "corpora": [held_out],
        "gap": {"adapter_nats": 0.5, "base_nats": 0.25, "low": 0.125, "high": 0.375, "excess_nats": 0.25},
        "verdict": {
            "headline": "tiny: 14 % lower perplexity than its base on unseen text of acme/leaflets",
            "forgotten": "not measured: no general text",
            "memorised": "somewhat",
            "caveats": ["The interval covers the choice of documents, not the training seed."],
        },
        "run": {"documents": {"train": 100, "test": 40}, "sha256": {"base": "b" * 64}, "device": "cpu"},
    }
    base = BaseOnTheHub("acme/base", Place("acme/base", "c" * 40), None)
    recipe = Recipe.model_validate({"name": "tiny", "base": "acme/base", "corpus": {"source": source}})
    licence = Licence("mit", (Source("base", "acme/base", "mit"), Source("corpus", source, "own")), False)
    it = Published("me/x-lora", recipe, base, licence, comparison, "print('loaded')\n", merged=False)
    return replace(it, **changes)


def test_the_card_of_a_mixture_names_every_text_with_its_weight() -> None:
    sources = [{"source": "hf:acme/leaflets", "weight": 3}, {"source": "package:everyday-medicine"}]
    values = {"name": "tiny", "base": "acme/base", "corpus": sources}
    it = published()
    apart = [
        it.comparison["corpora"][0] | {"corpus": name, "kind": "source"} for name in ("leaflets", "other")
    ]
    comparison = {**it.comparison, "corpora": [*it.comparison["corpora"], *apart]}
    text = write_card(published(recipe=Recipe.model_validate(values), comparison=comparison))
    data = ModelCard(text).data
    assert data.datasets == ["acme/leaflets"] and data.eval_results is None  # they are of no data set alone
    assert data.language == "en" and "medical" in data.tags
    assert "datasets/acme/leaflets) (weight 3) and `package:everyday-medicine`" in text
    assert "| of it, leaflets | 40 |" in text


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = ModelCard(write_card(published())).data
    assert (data.base_model, data.base_model_relation) == ("acme/base", "adapter")
    assert (data.library_name, data.pipeline_tag, data.license) == ("peft", "text-generation", "mit")
    assert data.datasets == ["acme/leaflets"] and "lora" in data.tags and data.language is None
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == (
        "perplexity",
        95.75,
        "acme/leaflets",
    )
    assert result.metric_args["change_percent_interval_95"] == [-18.1269, -9.5163]
    assert (
        result.metric_args["protocol"]["stride_tokens"] == 32 and result.metric_args["base_value"] == 111.25
    )


def test_a_text_that_is_no_data_set_of_the_hub_gets_no_model_index() -> None:
    data = ModelCard(write_card(published("leaflets"))).data
    assert data.eval_results is None and data.datasets is None and data.to_dict().get("model-index") is None


def test_the_table_shows_the_figures_with_their_interval() -> None:
    card = write_card(published())
    assert "| 40 | 111.25 | 95.75 | −13.9 % | −18.1 … −9.5 % | 37 of 40 |" in card
    assert "excess +0.250, 95 % interval +0.125 … +0.375" in card
    assert "12.5 % of held-out tokens" in card and "`" + "b" * 64 + "`" in card


def test_the_card_says_how_far_the_model_is_from_its_base() -> None:
    it = published()
    assert "- **Drift** from its base: not measured." in write_card(it)
    kl_nats = {"value": 0.5125, "low": 0.475, "high": 0.55, "method": "bootstrap"}
    drift = {"corpus": "samples of its base", "documents": 32, "tokens": 4096, "kl_nats": kl_nats}
    verdict = it.comparison["verdict"] | {"drifted": "far"}
    card = write_card(replace(it, comparison={**it.comparison, "drift": drift, "verdict": verdict}))
    line = "far (KL 0.5125 nats a token, 95 % interval 0.4750 … 0.5500; 32 documents, 4096 tokens: samples of"
    assert f"- **Drift** from its base: {line} its base)." in card


def test_every_figure_of_the_card_comes_from_the_run() -> None:
    """Figures that are in none of the inputs are listed here one by one, with their reason."""
    it = published()
    figures = re.findall(r"\d+\.\d+", write_card(it).partition("---\n\n")[2].replace("−", "-"))
    known = json.dumps(it.comparison) + json.dumps(it.recipe.model_dump())
    derived = {"13.9", "18.1", "9.5", "12.5", "0.500", "0.250"}  # rounded, or as per cent
    assert [figure for figure in figures if figure not in known and figure not in derived] == []


@pytest.mark.parametrize("strength", [None, 1.0, 0.8])
def test_the_card_says_at_which_strength_an_adapter_was_saved(strength: float | None) -> None:
    it = published()
    training = {"steps": 9, "planned_steps": 9, "best_step": 9, "tokens": 99, "precision": "float32"}
    training |= {"learning_rate": 0.005} | ({} if strength is None else {"strength": strength})
    run = it.comparison["run"] | {"training": training}
    card = write_card(replace(it, comparison=it.comparison | {"run": run}))
    says = "of step 9, chosen on the validation part, saved at strength 0.8 (in its alpha). Seed 0."
    assert (says in card) == (strength == 0.8)
    assert ("chosen on the validation part. Seed 0." in card) == (strength != 0.8)


def test_what_was_not_measured_says_so() -> None:
    card = write_card(published())
    assert "**Energy**: not measured" in card and "**Calibration**: not measured" in card
    assert "**Forgotten** (general text): not measured: no general text" in card
    measured = published()
    more: dict[str, Any] = dict(measured.comparison)
    more["run"] = measured.comparison["run"] | {"energy_kwh": 0.0125, "energy_method": "codecarbon 3: CPU"}
    more["calibration"] = {"expected_error": 0.03}
    card = write_card(replace(measured, comparison=more))
    assert (
        "**Energy**: 0.0125 kWh (codecarbon 3: CPU)" in card
        and "**Calibration**: expected error 0.03" in card
    )


def test_a_medical_adapter_says_that_it_is_no_medical_advice() -> None:
    assert "medical advice" not in write_card(published())
    medical = Recipe.model_validate(
        {"name": "tiny", "base": "acme/base", "corpus": {"source": "x"}, "publish": {"tags": ["medical"]}}
    )
    for it in (published(recipe=medical), published(recipe=published("package:everyday-medicine").recipe)):
        card = write_card(it)
        assert "**Not medical advice.**" in card and "medical" in ModelCard(card).data.tags


def test_a_base_that_goes_along_is_named_and_claims_no_place_on_the_hub(tmp_path: Path) -> None:
    base = BaseOnTheHub("starter/gpt2", Place("me/x-lora", subfolder="base"), tmp_path)
    card = write_card(published(base=base))
    assert ModelCard(card).data.base_model is None
    assert "starter/gpt2, is in the subfolder `base/`" in card


@pytest.mark.parametrize("name", ['evil"+print("ran")+"', "a\\nb", "l'été"])
def test_a_folder_name_never_becomes_code_of_the_snippet(name: str) -> None:
    snippet = loading_snippet("causal", Place(name), Place("me/x-lora"), own_tokenizer=False)
    calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    texts = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
    assert texts.count(name) == 2  # the tokenizer's and the base's


def test_a_merged_model_is_a_finetune_for_transformers() -> None:
    data = ModelCard(write_card(published(merged=True))).data
    assert (data.base_model_relation, data.library_name) == ("finetune", "transformers")
    assert "lora" not in data.tags


@pytest.mark.parametrize(
    ("method", "merged", "says", "tag"),
    [
        ("lora", False, "A LoRA adapter for", "lora"),
        ("dora", False, "A DoRA adapter for", "lora"),
        ("lora+", True, "A model merged from a LoRA+ adapter and its base, [acme/base]", None),
        ("ia3", False, "An (IA)³ adapter for", "ia3"),
        ("ia3", True, "A model merged from an (IA)³ adapter and its base", None),
        ("full", True, "with all of its weights trained further, with ft-toolkit", None),
        ("scratch", True, "A model of the architecture of [acme/base]", None),
    ],
)
def test_the_card_says_by_which_method_it_was_made(
    method: str, merged: bool, says: str, tag: str | None
) -> None:
    it = published()
    adapter = {"method": method, "rank": 8, "alpha": 16}  # a run's recipe has a number for each auto
    values = it.recipe.model_dump() | {"adapter": adapter}
    card = write_card(replace(it, recipe=Recipe.model_validate(values), merged=merged))
    assert says in card
    data = ModelCard(card).data
    assert [name for name in ("lora", "ia3") if name in data.tags] == ([tag] if tag else [])
    assert ("rank 8, alpha 16" in card) is (method in ("lora", "dora", "lora+"))
    assert ("LoRA" in card) is method.startswith("lora")
    assert ("adapter" in card.partition("## How to get")[0].partition("\n# ")[2]) is (
        method not in ("full", "scratch")
    )
    assert (data.base_model is None) is (method == "scratch")


@pytest.mark.parametrize(
    ("empty", "says"), [(0, "100 train, 40 test; by a hash"), (3, "; 3 empty documents were")]
)
def test_the_split_line_names_parts_alone(empty: int, says: str) -> None:
    it = published()
    run = it.comparison["run"] | {"documents": {"train": 100, "test": 40, "empty": empty}}
    card = write_card(replace(it, comparison=dict(it.comparison) | {"run": run}))
    assert says in card and f"{empty} empty," not in card and "0 empty" not in card


def test_the_rights_that_were_stated_stand_on_the_card() -> None:
    it = published()
    assert "states that they have the rights" not in write_card(it)
    stated = replace(it.licence, has_the_rights=True)
    assert "The publisher states that they have the rights" in write_card(replace(it, licence=stated))


@pytest.mark.parametrize(("family", "tag"), [("gpt2", "text-generation"), ("bert", "fill-mask")])
def test_a_real_run_gets_a_card_whose_figures_are_its_own(
    family: str, tag: str, hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run(family)
    plan = plan_of(run)
    card = plan.files["README.md"].read_text()
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.base_model, data.language) == (tag, BASES[family], "en")
    comparison = json.loads((run.folder / "comparison.json").read_text())
    figure = "perplexity" if family == "gpt2" else "pseudo_perplexity"
    for part in comparison["corpora"]:
        assert f"| {part[f'base_{figure}']:.2f} | {part[f'adapter_{figure}']:.2f} |" in card
    assert comparison["verdict"]["headline"] in card and plan.snippet in card
    assert ("pseudo-perplexity" in card) is (family == "bert") and "Not medical advice" in card
    assert "None" not in card
