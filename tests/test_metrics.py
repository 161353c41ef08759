"""Our scores through the evaluate library: the same numbers, and combinable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.activations import GELUTanh

from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import choose_protocol, prepare, score
from ft_toolkit.judging.totals import corpus_totals, document_totals
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.models.adapters import attach_adapter, load_whole, save_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.documents import TextDocument

TEXTS = ["Wash your hands before you eat.", "Boil the pasta in plenty of salted water.", ""]


def totals(folder: Path, protocol: str = "auto") -> tuple[float, int]:
    base = load_base(str(folder))
    chosen = choose_protocol(base, protocol)
    documents = prepare(
        [TextDocument("t", row, text) for row, text in enumerate(TEXTS) if text], base.tokenizer, chosen
    )
    scores = score(base, documents, chosen)
    found = corpus_totals(document_totals(d, nll) for d, nll in zip(documents, scores, strict=True))
    return found.perplexity, found.tokens


def test_a_causal_model_gets_the_perplexity_that_ft_compare_gives(checkpoints: dict[str, Path]) -> None:
    found = DomainPerplexity(str(checkpoints["gpt2"])).compute(predictions=TEXTS)
    assert (found["perplexity"], found["tokens"]) == totals(checkpoints["gpt2"])
    assert found["protocol"] == "document(64/32)"
    assert found["bits_per_byte"] > 0


def test_a_masked_model_object_gets_a_pseudo_perplexity_and_no_bits(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["bert"]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    metric = DomainPerplexity(model, tokenizer=tokenizer, protocol="covering")
    found = metric.compute(predictions=TEXTS)
    assert (found["pseudo_perplexity"], found["tokens"]) == totals(folder, "covering")
    assert "perplexity" not in found
    assert "bits_per_byte" not in found


def test_a_run_whose_adapter_is_not_the_one_that_was_trained_is_refused(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = finetune(tiny_recipe(training={"steps": 1}), tmp_path, options=Options(judge=False, gate=False))
    path = run.adapter_folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityFailed, match="expected the file that was trained"):
        DomainPerplexity(run.folder)


def test_metrics_combine(checkpoints: dict[str, Path]) -> None:
    names = {name: DomainPerplexity(str(checkpoints[name])) for name in ("gpt2", "bert")}
    found = evaluate.combine(names).compute(predictions=TEXTS)
    assert found["perplexity"] == totals(checkpoints["gpt2"])[0]
    assert found["pseudo_perplexity"] == totals(checkpoints["bert"])[0]


def test_a_model_object_without_its_tokenizer_is_refused(checkpoints: dict[str, Path]) -> None:
    model = AutoModelForMaskedLM.from_pretrained(checkpoints["bert"])
    with pytest.raises(FtError, match="Pass tokenizer"):
        DomainPerplexity(model)


def state_of(model: torch.nn.Module) -> dict[str, object]:
    """All that a metric could change in somebody's model: its modules, their modes and hooks, its weights."""
    return {
        "modules": {name: (id(module), type(module)) for name, module in model.named_modules()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "weights": {
            name: (id(p), p.requires_grad, p.detach().clone().numpy().tobytes())
            for name, p in model.named_parameters()
        },
    }


@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize(("family", "auto"), [("gpt2", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)])
def test_a_model_object_is_left_exactly_as_it_was(
    checkpoints: dict[str, Path], tmp_path: Path, family: str, auto: Any, with_adapter: bool
) -> None:
    folder = checkpoints[family]
    model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.train()
    next(model.base_model.children()).eval()  # modes are mixed
    model.get_input_embeddings().requires_grad_(False)
    before = state_of(model)
    adapter = None
    if with_adapter:
        base = load_base(str(folder))
        save_adapter(attach_adapter(base, Adapter(), seed=0), tmp_path / "adapter")
        adapter = tmp_path / "adapter"
    metric = DomainPerplexity(model, tokenizer=tokenizer, adapter=adapter)
    assert state_of(model) == before
    found = metric.compute(predictions=TEXTS)
    assert state_of(model) == before
    name = "perplexity" if family == "gpt2" else "pseudo_perplexity"
    assert found[name] == pytest.approx(totals(folder)[0], rel=1e-6)  # without dropout


def test_a_model_object_is_scored_as_it_is_when_it_is_asked(checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["gpt2"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    metric = DomainPerplexity(model, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert metric.compute(predictions=TEXTS)["perplexity"] == pytest.approx(len(tokenizer), rel=1e-6)


@pytest.mark.parametrize("load", ["base", "fresh", "whole"])
def test_gpt2s_activation_is_the_quick_one_in_every_model_of_our_own(
    checkpoints: dict[str, Path], tmp_path: Path, load: str
) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    model: Any = base.model
    if load != "base":
        model = attach_adapter(base, Adapter(method="scratch"), seed=0)
    if load == "whole":
        save_adapter(model, tmp_path / "model")
        model = load_whole(base, tmp_path / "model")
    assert type(model.transformer.h[0].mlp.act) is GELUTanh
