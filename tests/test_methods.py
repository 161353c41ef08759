"""Every method, from a recipe's one word to a judged run: it learns, its base stays, and saved is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.metrics import DomainPerplexity
from ft_toolkit.models.adapters import (
    attach_adapter,
    load_adapter,
    load_whole,
    trainable,
)
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES
from ft_toolkit.models.language_model import LanguageModel, hash_weights, language_model_of
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.models.token_nll import TokenScorer, fuse_activations
from ft_toolkit.recipe import read_recipe
from ft_toolkit.rescoring import compare_runs
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.session import Options
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_corpora
from ft_toolkit.training.optimizers import (
    B_LR_MULTIPLIER,
    MUON_LR_MULTIPLIER,
    make_optimizers,
    set_learning_rate,
)

FIRST_TIER = [name for name, family in FAMILIES.items() if family.tier == 1]
METHODS = ("lora", "rslora", "dora", "pissa", "lora+", "ia3", "full", "scratch")
# every day each method on a causal and a masked family, and each family with one; make slow has all of them
EVERY_DAY = {("gpt2", method) for method in METHODS} | {("bert", method) for method in METHODS}
EVERY_DAY |= {(family, "lora") for family in FIRST_TIER}
ONE_OF_EACH = [
    pytest.param(family, marks=() if family in ("gpt2", "bert") else pytest.mark.slow)
    for family in FIRST_TIER
]
PAIRS = [
    pytest.param(family, method, marks=() if (family, method) in EVERY_DAY else pytest.mark.slow)
    for family in FIRST_TIER
    for method in METHODS
]
Runs = Callable[[str, str], Run]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], small_corpus: Path) -> Runs:
    """A judged run of a family and a method, made when it is first asked for."""
    made: dict[tuple[str, str], Run] = {}

    def run(family: str, method: str) -> Run:
        if (family, method) not in made:
            pace = {"steps": 4, "learning_rate": 0.02}
            if family == "openai-gpt":  # a short document a row: it learns more slowly, ia3's scales slowest
                pace = {"steps": 24, "learning_rate": 1.0 if method == "ia3" else 0.3}
            values = {
                "name": f"{family}-{method.replace('+', '-plus')}",
                "base": str(checkpoints[family]),
                "corpus": {"source": str(small_corpus)},
                "adapter": {"method": method, "rank": 4},
                "training": {"block_tokens": 32, "batch_tokens": 256} | pace,
                "judging": {
                    "general": None,
                    "protocol": "auto" if FAMILIES[family].objective == "causal" else "covering",
                },
            }
            folder = tmp_path_factory.mktemp("runs")
            made[family, method] = finetune(
                Recipe.model_validate(values), folder, options=Options(gate=False)
            )
        return made[family, method]

    return run


def nats(model: torch.nn.Module, base: LanguageModel, run: Run) -> np.ndarray:
    documents = encode(read_corpora(run.recipe.corpus).documents[:3], base.tokenizer)
    protocol = choose_protocol(base, run.recipe.judging.protocol)
    found = np.concatenate(score(base.with_model(model), documents, protocol))
    return found[~np.isnan(found)]  # openai-gpt has no token to begin with, and its first ones go unscored


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_method_moves_the_scores_and_a_second_comparison_finds_them_to_the_bit(
    runs: Runs, family: str, method: str
) -> None:
    run = runs(family, method)
    first = read_json(run.folder / "comparison.json")["corpora"][0]
    assert abs(first["difference"]["nats_per_token"]) > 1e-3
    again = compare_runs([run], []).pop().corpora[0]
    assert again.adapter.nll_nats == first["adapter"]["nll_nats"]
    assert again.base.nll_nats == first["base"]["nll_nats"]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_beside_a_trained_model_the_base_is_the_base_to_the_bit(runs: Runs, family: str, method: str) -> None:
    run = runs(family, method)
    bare, base = load_base(run.recipe.base), load_base(run.recipe.base)
    pair = load_pair(base, run.trained_folder)
    with pair.base_side() as alone:
        assert np.array_equal(nats(alone.model, base, run), nats(bare.model, bare, run))
    assert not np.array_equal(
        nats(pair.tuned.model, base, run), nats(bare.model, bare, run)
    )  # and it is on again


@pytest.mark.parametrize("method", ["full", "scratch"])
@pytest.mark.parametrize("family", FIRST_TIER)
def test_whole_models_leave_the_base_they_came_from_as_it_was(
    checkpoints: dict[str, Path], family: str, method: str
) -> None:
    base = load_base(str(checkpoints[family]))
    model = attach_adapter(base, Adapter(method=method), seed=0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(1.0)
    assert hash_weights(base.model) == base.weights_sha256


@pytest.mark.parametrize("method", ["lora", "full", "scratch"])
def test_the_evaluate_metric_of_a_run_scores_what_was_trained(runs: Runs, method: str) -> None:
    run = runs("gpt2", method)
    texts = [row["text"] for row in run.read_table("documents.parquet") if row["split"] == "test"]
    found = DomainPerplexity(run.folder).compute(predictions=texts)
    judged = read_json(run.folder / "comparison.json")["corpora"][0]
    assert found["perplexity"] == pytest.approx(judged["adapter_perplexity"], rel=1e-12)


def test_a_full_run_is_a_plain_checkpoint_for_transformers(runs: Runs) -> None:
    run = runs("gpt2", "full")
    assert not run.adapter_folder.exists()
    base = load_base(run.recipe.base)
    plain = AutoModelForCausalLM.from_pretrained(run.trained_folder)
    assert hash_weights(plain) == hash_weights(load_whole(base, run.trained_folder))


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank_and_needs_no_surgery_on_the_base(runs: Runs) -> None:
    run = runs("gpt2", "pissa")
    model = AutoPeftModelForCausalLM.from_pretrained(run.trained_folder)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, 16, True)  # of rank 4, alpha 8
    with model.disable_adapter():
        bare = load_base(run.recipe.base).model
        fuse_activations(model)  # as the toolkit does with its own: the same formula in other steps
        ids = torch.arange(20)[None]
        assert torch.equal(model(ids).logits, bare(ids).logits)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_pissa_starts_where_its_base_is_and_takes_its_start_out_of_a_copy(
    checkpoints: dict[str, Path], runs: Runs, family: str
) -> None:
    run, base = runs(family, "pissa"), load_base(str(checkpoints[family]))
    model = attach_adapter(base, Adapter(method="pissa", rank=4), seed=0)
    assert isinstance(model, PeftModel)
    np.testing.assert_allclose(nats(model, base, run), nats(base.model, base, run), atol=1e-4)
    with model.disable_adapter():  # what is left of the copy is not the base
        assert np.abs(nats(model, base, run) - nats(base.model, base, run)).max() > 0.01
    assert hash_weights(base.model) == base.weights_sha256


@pytest.mark.parametrize("family", FIRST_TIER)
def test_scratch_keeps_the_architecture_and_none_of_the_weights(
    checkpoints: dict[str, Path], family: str
) -> None:
    base = load_base(str(checkpoints[family]))
    model = attach_adapter(base, Adapter(method="scratch"), seed=0)
    old, new = dict(base.model.named_parameters()), dict(model.named_parameters())
    assert {name: p.shape for name, p in old.items()} == {name: p.shape for name, p in new.items()}
    matrices = [name for name in old if old[name].ndim == 2]
    assert matrices
    assert not any(torch.equal(old[name], new[name]) for name in matrices)
    other = attach_adapter(base, Adapter(method="scratch"), seed=1)
    assert not torch.equal(new[matrices[0]], dict(other.named_parameters())[matrices[0]])


def test_ia3_scales_keys_values_and_inner_activations_only(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["bert"]))
    names = trainable(attach_adapter(base, Adapter(method="ia3"), seed=0))
    ends = {name.partition(".layer.")[2][2:].removesuffix(".ia3_l.default") for name in names}
    assert ends == {"attention.self.key", "attention.self.value", "output.dense"}


def test_lora_plus_moves_b_sixteen_times_as_fast_as_a(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    plan = Adapter(method="lora+")
    model = attach_adapter(base, plan, seed=0)
    (optimizer,) = make_optimizers(model, base.family, plan)
    set_learning_rate([optimizer], 0.01)
    names = {id(parameter): name for name, parameter in trainable(model).items()}
    rates = {
        names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert rates.keys() == trainable(model).keys()
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {0.01}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {0.01 * B_LR_MULTIPLIER} == {0.16}


def test_scratch_trains_the_matrices_of_the_trunk_by_muon_and_the_rest_by_adamw(
    checkpoints: dict[str, Path],
) -> None:
    base = load_base(str(checkpoints["bert"]))
    plan = Adapter(method="scratch")
    model = attach_adapter(base, plan, seed=0)
    adamw, muon = make_optimizers(model, base.family, plan)
    set_learning_rate([adamw, muon], 0.001)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.001 * MUON_LR_MULTIPLIER)
    assert len(muon.param_groups[0]["params"]) == 2 * 6  # layers, matrices of each
    together = [p for optimizer in (adamw, muon) for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in together} == {id(p) for p in trainable(model).values()}
    assert len(together) == len(trainable(model))


def test_ia3_refuses_targets_since_it_has_places_of_its_own(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    with pytest.raises(FtError, match=r"adapter\.targets: expected auto, with ia3"):
        attach_adapter(base, Adapter(method="ia3", targets=["attn.c_attn"]), seed=0)


def test_runs_of_several_methods_are_compared_in_one_call_and_none_disturbs_another(runs: Runs) -> None:
    some = [runs("gpt2", method) for method in ("lora", "full", "dora", "ia3")]
    together = compare_runs(some, [])
    for run, comparison in zip(some, together, strict=True):
        alone = read_json(run.folder / "comparison.json")["corpora"][0]
        assert comparison.corpora[0].adapter.nll_nats == alone["adapter"]["nll_nats"], run.folder
        assert comparison.corpora[0].base.nll_nats == alone["base"]["nll_nats"], run.folder


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_named_words_get_their_rows_trained_and_every_other_row_stays(
    checkpoints: dict[str, Path], tiny_recipe: Callable[..., Recipe], tmp_path: Path, family: str
) -> None:
    protocol = "auto" if FAMILIES[family].objective == "causal" else "covering"
    recipe = tiny_recipe(
        family, adapter={"tokens": ["fever"]}, judging={"protocol": protocol, "general": None}
    )
    run = finetune(recipe, tmp_path, options=Options(gate=False))
    base = load_base(recipe.base)
    rows = {
        i for text in ("fever", " fever") for i in base.tokenizer(text, add_special_tokens=False).input_ids
    }
    model = load_adapter(base, run.trained_folder)
    embeddings = base.model.get_input_embeddings().weight.detach()
    before = load_base(recipe.base).model.get_input_embeddings().weight
    moved = set((embeddings != before).any(1).nonzero().flatten().tolist())
    assert moved == rows
    assert torch.equal(base.model.get_submodule(base.family.output).weight, embeddings)  # still one matrix
    first = read_json(run.folder / "comparison.json")["corpora"][0]
    assert compare_runs([run], []).pop().corpora[0].adapter.nll_nats == first["adapter"]["nll_nats"]
    assert nats(model, base, run).mean() != pytest.approx(
        nats(load_base(recipe.base).model, base, run).mean()
    )


@pytest.mark.parametrize("family", FIRST_TIER)
def test_before_training_named_words_change_nothing_and_cost_no_bias(
    checkpoints: dict[str, Path], family: str
) -> None:
    base, bare = load_base(str(checkpoints[family])), load_base(str(checkpoints[family]))
    for one in (base, bare):
        bias = one.model.get_submodule(one.family.output).bias
        if bias is not None:
            with torch.no_grad():
                bias.copy_(torch.linspace(-3, 3, len(bias)))
    model = attach_adapter(base, Adapter(tokens=["fever"]), seed=0)
    ids = torch.arange(100, 140)[None]
    found = TokenScorer(model, base.family)(ids, ids)
    assert torch.equal(found, TokenScorer(bare.model, bare.family)(ids, ids))


def test_a_word_that_the_vocabulary_cannot_spell_is_refused_since_it_would_have_to_grow(
    checkpoints: dict[str, Path],
) -> None:
    base = load_base(str(checkpoints["bert"]))
    with pytest.raises(FtError, match=r"adapter\.tokens: .* found 🫠\. Growing the vocabulary is refused"):
        attach_adapter(base, Adapter(tokens=["fever", "🫠"]), seed=0)


def test_a_slot_of_the_vocabulary_may_be_named_by_itself(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["bert"]))
    slot = base.tokenizer.convert_ids_to_tokens(77)
    model = attach_adapter(base, Adapter(tokens=[slot]), seed=0)
    assert 77 in model.peft_config["default"].trainable_token_indices


def scratch_with_its_own_tokenizer(tiny_recipe: Callable[..., Recipe], folder: Path, family: str) -> Run:
    recipe = tiny_recipe(family, adapter={"method": "scratch", "tokenizer": "train"})
    return finetune(recipe, folder, options=Options(gate=False))


def test_scratch_learns_a_tokenizer_of_the_same_kind_from_the_training_part_alone(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = scratch_with_its_own_tokenizer(tiny_recipe, tmp_path, "gpt2")
    base = load_base(run.recipe.base)
    model = AutoModelForCausalLM.from_pretrained(run.trained_folder)
    tokenizer = AutoTokenizer.from_pretrained(run.trained_folder)
    assert type(tokenizer.backend_tokenizer.model) is type(base.tokenizer.backend_tokenizer.model)
    assert tokenizer.get_vocab() != base.tokenizer.get_vocab()
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert tokenizer.eos_token == base.tokenizer.eos_token
    assert model.config.eos_token_id == tokenizer.eos_token_id
    trained_on = [row["id"] for row in run.read_table("documents.parquet") if row["split"] == "train"]
    texts = {document.id: document.text for document in read_corpora(run.recipe.corpus).documents}
    again = base.tokenizer.train_new_from_iterator(
        [texts[name] for name in trained_on], vocab_size=len(base.tokenizer)
    )
    assert again.get_vocab() == tokenizer.get_vocab()


def test_two_tokenizers_are_compared_by_one_unit_and_bits_per_byte_by_hand(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    run = scratch_with_its_own_tokenizer(tiny_recipe, tmp_path, "gpt2")
    comparison = read_json(run.folder / "comparison.json")
    held_out = comparison["corpora"][0]
    held = {row["id"] for row in run.read_table("documents.parquet") if row["split"] == "test"}
    documents = [document for document in read_corpora(run.recipe.corpus).documents if document.id in held]
    model = AutoModelForCausalLM.from_pretrained(run.trained_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.trained_folder)
    own = language_model_of("own", model, tokenizer)
    encoded = encode(documents, tokenizer)
    paid = sum(nll.sum() for nll in score(own, encoded, choose_protocol(own)))
    size = sum(len(document.text.encode()) for document in documents)
    assert held_out["adapter_bits_per_byte"] == pytest.approx(paid / size / math.log(2), rel=1e-9)
    assert held_out["adapter"]["tokens"] == held_out["base"]["tokens"]
    assert held_out["adapter"]["tokens"] != sum(len(document.ids) for document in encoded)
    assert comparison["own_tokenizer_sha256"] not in (None, comparison["tokenizer_sha256"])
    assert any("Bits per byte" in caveat for caveat in comparison["verdict"]["caveats"])
    again = compare_runs([run], []).pop().corpora[0]
    assert again.adapter.nll_nats == held_out["adapter"]["nll_nats"]


def test_masked_models_of_two_tokenizers_get_no_common_figure(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scratch_with_its_own_tokenizer(tiny_recipe, tmp_path, "bert")
    assert not (run.folder / "comparison.json").exists()
    assert "no common figure" in (run.folder / "run.log").read_text()
    assert run.facts["training"]["best_validation_nats"] > 0
    with pytest.raises(FtError, match="one tokenizer for a masked model and its base"):
        compare_runs([run], [])


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"tokenizer": "train"}, "tokenizer: train only with method: scratch"),
        ({"method": "full", "tokens": ["fever"]}, "tokens only with lora, rslora, dora or lora+"),
        ({"method": "olora"}, "expected 'lora', 'rslora', 'dora', 'pissa'"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_is_loaded(
    tmp_path: Path, adapter: dict[str, object], said: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"base": "starter/gpt2", "corpus": {"source": "x"}, "adapter": adapter}))
    with pytest.raises(FtError) as refusal:
        read_recipe(path)
    assert said in str(refusal.value)
