"""What each family promises: packed rows read as if alone, the right matrices adapted, framed documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from tiny_checkpoints import POSITIONS, WIDTH, save
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)
from transformers.pytorch_utils import Conv1D

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import FAMILIES, SpecialTokens, family_of, special_tokens
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.sections import Adapter
from ft_toolkit.text.blocks import collate, encode, mask
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Row

LAYERS = 2  # of the tiny checkpoints
CAUSAL = ("gpt2", "openai-gpt", "gpt_neo", "gptj", "opt", "gpt_neox", "llama")
MASKED = (
    "bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "deberta-v2", "mpnet", "modernbert",
)  # fmt: skip
PACKED = [name for name in (*CAUSAL, *MASKED) if FAMILIES[name].packs]
BETWEEN_EMBEDDING_AND_LAYERS = {
    "project_in",
    "project_out",
    "embeddings_project",
    "embedding_hidden_mapping_in",
}
# as transformers names them, inside a layer
ATTENTION_OF_A_LAYER = {
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "openai-gpt": {"attn.c_attn", "attn.c_proj"},
    "gpt_neo": {f"attn.attention.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "gptj": {f"attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "opt": {f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")},
    "gpt_neox": {"attention.query_key_value", "attention.dense"},
    "llama": {f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "o_proj")},
    "distilbert": {f"attention.{x}" for x in ("q_lin", "k_lin", "v_lin", "out_lin")},
    "albert": {f"attention.{x}" for x in ("query", "key", "value", "dense")},
    "deberta-v2": {f"attention.{x}" for x in ("self.query_proj", "self.key_proj", "self.value_proj")}
    | {"attention.output.dense"},
    "mpnet": {f"attention.attn.{x}" for x in ("q", "k", "v", "o")},
    "modernbert": {"attn.Wqkv", "attn.Wo"},
} | {
    name: {f"attention.{x}" for x in ("self.query", "self.key", "self.value", "output.dense")}
    for name in ("bert", "roberta", "xlm-roberta", "electra")
}  # fmt: skip
LONG = "The patient was given water, rest and a warm blanket; by the evening the fever had fallen. " * 6
TEXTS = [
    "Salt.",
    "Boil the pasta.",
    LONG,
    "감기에는 물을 많이 마신다.",
    "Wash your hands 🙂 often.",
    LONG[40:400],
]


@pytest.fixture(scope="module")
def bases(checkpoints: dict[str, Path]) -> dict[str, LanguageModel]:
    class Loaded(dict[str, LanguageModel]):
        def __missing__(self, name: str) -> LanguageModel:
            self[name] = shaken(load_base(str(checkpoints[name])))
            return self[name]

    return Loaded()


def shaken(base: LanguageModel) -> LanguageModel:
    """With biases and norms that are no longer zeros and ones, so that leaving one out would show."""
    torch.manual_seed(2)
    for parameter in base.model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return base


def packed_rows(base: LanguageModel, block_tokens: int = 50) -> list[Row]:
    documents = encode([TextDocument("t.txt", row, text) for row, text in enumerate(TEXTS)], base.tokenizer)
    rows = list(pack(documents, base.family.objective, base.special.begin, base.special.end, block_tokens))
    if base.family.objective == "causal":
        return rows
    assert base.special.mask is not None
    plain_ids = documents[2].ids
    return [mask(row, 0, 0, base.special.mask, plain_ids, fraction=0.3) for row in rows]


def rows_of_ids(base: LanguageModel, rows: int, width: int, seed: int = 0) -> Tensor:
    """Ids of plain tokens."""
    special = set(base.tokenizer.all_special_ids)
    plain = torch.tensor([id for id in range(base.model.config.vocab_size) if id not in special])
    return plain[torch.randint(len(plain), (rows, width), generator=torch.Generator().manual_seed(seed))]


def pieces(row: Row) -> list[slice]:
    """Where each document of a row stands."""
    return [
        slice(
            int((row.segments == s).argmax()), int((row.segments == s).argmax() + (row.segments == s).sum())
        )
        for s in range(int(row.segments.max()) + 1)
    ]


def logits_of(base: LanguageModel, ids: Tensor, **how: Tensor) -> Tensor:
    more = {"use_cache": False} if base.family.objective == "causal" else {}
    with torch.no_grad():
        logits: Tensor = base.model(input_ids=ids, **how, **more).logits
    return logits


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_row_holds_several_documents_and_pieces_of_long_ones(
    bases: dict[str, LanguageModel], name: str
) -> None:
    rows = packed_rows(bases[name])
    assert max(len(pieces(row)) for row in rows) >= 3
    assert len({len(row.input_ids) for row in rows}) > 1  # so that collate has something to pad
    assert sum(len(pieces(row)) for row in rows) > len(TEXTS)  # a long one was cut


@pytest.mark.parametrize("name", PACKED)
def test_logits_of_a_packed_row_are_those_of_its_documents_alone(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    rows = packed_rows(base)
    batch = collate(rows, base.family.objective)
    positions = batch.position_ids + base.family.first_position(base.model.config)
    together = logits_of(base, batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions)
    for row, found in zip(rows, together, strict=True):
        for piece in pieces(row):
            alone = logits_of(base, torch.from_numpy(row.input_ids[piece]).long()[None])[0]
            torch.testing.assert_close(found[piece], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PACKED)
def test_the_loss_of_a_packed_row_is_that_of_its_documents_alone(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    rows = packed_rows(base)
    batch = collate(rows, base.family.objective)
    losses = TokenScorer(base.model, base.family)
    with torch.no_grad():
        together = losses(batch.input_ids, batch.targets, batch.attention_mask, batch.position_ids)
        alone = torch.cat(
            [
                losses(
                    torch.from_numpy(row.input_ids[piece]).long()[None],
                    torch.from_numpy(row.targets[piece]).long()[None],
                )
                for row in rows
                for piece in pieces(row)
            ]
        )
    assert len(together) == sum(int((row.targets != NO_TARGET).sum()) for row in rows) > 50
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PACKED)
def test_without_the_packing_mask_documents_would_see_each_other(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    row = max(packed_rows(base), key=lambda row: len(pieces(row)))
    last = pieces(row)[-1]
    leaking = logits_of(base, torch.from_numpy(row.input_ids).long()[None])[0]
    alone = logits_of(base, torch.from_numpy(row.input_ids[last]).long()[None])[0]
    assert (leaking[last] - alone).abs().max() > 0.1


def adapted(model: PeftModel) -> set[str]:
    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_auto_targets_are_all_matrices_of_the_layers_and_nothing_else(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    trunk = base.model.get_submodule(base.family.trunk)
    matrices = {
        f"{base.family.trunk}.{inner}"
        for inner, module in trunk.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and inner.rpartition(".")[2] not in BETWEEN_EMBEDDING_AND_LAYERS
    }
    found = adapted(attach_adapter(base, Adapter(), seed=0))
    assert found == matrices
    assert not any("embed" in module or module in (base.family.output, *base.family.head) for module in found)
    assert all(module.startswith(f"{base.family.trunk}.") for module in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_targets_are_attention_only(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    found = adapted(attach_adapter(base, Adapter(targets="attention"), seed=0))
    layers = 1 if name == "albert" else LAYERS  # albert's layers are one
    assert len(found) == layers * len(ATTENTION_OF_A_LAYER[name])
    for suffix in ATTENTION_OF_A_LAYER[name]:
        assert sum(module.endswith(f".{suffix}") for module in found) == layers


@pytest.mark.parametrize("name", FAMILIES)
def test_every_part_that_a_family_names_is_there(bases: dict[str, LanguageModel], name: str) -> None:
    base = bases[name]
    assert base.family.model_type == name
    for part in (base.family.trunk, *base.family.head, base.family.output):
        if isinstance(part, str):
            base.model.get_submodule(part)
    assert base.model.get_submodule(base.family.output) is base.model.get_output_embeddings()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lean_loss_is_the_cross_entropy_of_the_models_own_logits(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    ids, targets = rows_of_ids(base, 7, 40), rows_of_ids(base, 7, 40, seed=1)
    with torch.no_grad():
        lean = TokenScorer(base.model, base.family)(ids, targets)
        own = F.cross_entropy(
            base.model(input_ids=ids).logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=0)


def asked_here_and_there(base: LanguageModel) -> tuple[Tensor, Tensor]:
    """Rows of ids and a fifth of the positions as targets."""
    ids, targets = rows_of_ids(base, 7, 40), rows_of_ids(base, 7, 40, seed=1)
    asked = torch.rand(7, 40, generator=torch.Generator().manual_seed(2)) < 0.2
    return ids, targets.where(asked, torch.tensor(NO_TARGET))


@pytest.mark.parametrize("name", FAMILIES)
def test_few_targets_cost_the_same_nats_as_in_the_models_own_logits(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    ids, targets = asked_here_and_there(base)
    lean = TokenScorer(base.model, base.family)(ids, targets)
    own = F.cross_entropy(logits_of(base, ids).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(lean, own[targets.flatten() != NO_TARGET], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MASKED)
def test_the_last_layer_feeds_forward_only_what_is_asked_for(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    model = attach_adapter(base, Adapter(), seed=0)
    ids, targets = asked_here_and_there(base)
    widths = []
    ends = tuple(f".{suffix}" for suffix in base.family.feed_forward_out)
    for found, module in model.named_modules():
        if found.endswith(ends) and not found.endswith("attention.output.dense"):
            module.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].numel()))
    TokenScorer(model, base.family)(ids, targets)
    asked = int((targets != NO_TARGET).sum())
    earlier, last = widths
    assert earlier / ids.numel() == last / (ids.numel() if name == "albert" else asked)  # albert's are shared
    widths.clear()
    model(input_ids=ids)  # as it was
    assert widths == [earlier, earlier]


def test_a_feed_forward_part_that_transformers_runs_in_chunks_is_left_as_it_is(
    checkpoints: dict[str, Path],
) -> None:
    base = load_base(str(checkpoints["bert"]))
    ids, targets = asked_here_and_there(base)
    at_once = TokenScorer(base.model, base.family)(ids, targets)
    for module in base.model.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 10
    in_chunks = TokenScorer(base.model, base.family)(ids, targets)
    torch.testing.assert_close(in_chunks, at_once, atol=1e-5, rtol=0)


def test_debertas_newer_head_is_another_row(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save(tmp_path, "deberta-v2", legacy=False)
    base = shaken(load_base(str(tmp_path)))
    assert base.family.output_bias == "lm_predictions.lm_head.bias"
    ids, targets = rows_of_ids(base, 2, 20), rows_of_ids(base, 2, 20, seed=1)
    with torch.no_grad():
        lean = TokenScorer(base.model, base.family)(ids, targets)
        own = F.cross_entropy(
            base.model(input_ids=ids).logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_counted_positions_are_the_ones_that_a_model_takes_by_itself(
    bases: dict[str, LanguageModel], name: str
) -> None:
    base = bases[name]
    ids = rows_of_ids(base, 3, base.positions)
    counted = torch.arange(base.positions).expand(3, -1)
    losses = TokenScorer(base.model, base.family)
    with torch.no_grad():
        torch.testing.assert_close(losses(ids, ids, None, counted), losses(ids, ids), atol=0, rtol=0)
        if base.family.packs:  # so that the comparison above could have failed
            wrong = losses(ids, ids, None, counted.flip(1))
            assert (wrong - losses(ids, ids)).abs().max() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_ia3_scales_keys_values_and_the_way_back_from_the_feed_forward_part(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    family, layers = base.family, 1 if name == "albert" else LAYERS
    model = attach_adapter(base, Adapter(method="ia3"), seed=0)
    scaled = {name: module for name, module in model.named_modules() if isinstance(module, IA3Layer)}
    way_back = {name: module for name, module in scaled.items() if module.is_feedforward}
    assert len(way_back) == layers * len(family.feed_forward_out)
    assert len(scaled) - len(way_back) == layers * len(family.keys_values)
    for module in way_back.values():
        weight = module.get_base_layer().weight
        wide, narrow = weight.shape if family.conv1d else weight.shape[::-1]
        assert wide > narrow == WIDTH
    others = {name.rpartition(".")[2] for name in scaled.keys() - way_back.keys()}
    fused = {"c_attn", "query_key_value", "Wqkv"}
    assert others <= fused or (
        len(others) == 2 and not others & {"o", "query", "dense", "out_proj", "out_lin"}
    )


def test_an_architecture_without_a_row_is_named_with_the_nearest_one() -> None:
    with pytest.raises(FtError, match=r"model_type robertta\. The nearest is roberta") as refusal:
        family_of(PretrainedConfig(model_type="robertta"), "base some/roberta")
    assert refusal.value.exit_code == 2


def test_an_architecture_like_none_of_ours_is_refused_without_a_guess() -> None:
    with pytest.raises(FtError) as refusal:
        family_of(T5Config(), "base some/t5")
    assert "nearest" not in str(refusal.value)


def test_positions_come_from_the_config_and_not_from_the_tokenizer(bases: dict[str, LanguageModel]) -> None:
    assert {bases[name].positions for name in FAMILIES} == {POSITIONS}
    assert bases["gpt2"].tokenizer.model_max_length != POSITIONS
    assert FAMILIES["gpt2"].positions(GPT2Config(n_positions=17)) == 17
    assert FAMILIES["bert"].positions(BertConfig(max_position_embeddings=18)) == 18
    assert FAMILIES["gptj"].positions(GPTJConfig()) == 2048
    assert FAMILIES["llama"].positions(LlamaConfig(max_position_embeddings=8192)) == 8192


@pytest.mark.parametrize(
    ("name", "config"),
    [("roberta", RobertaConfig), ("xlm-roberta", XLMRobertaConfig), ("mpnet", MPNetConfig)],
)
def test_514_rows_of_positions_are_512_tokens_where_they_are_counted_from_behind_padding(
    name: str, config: type[PretrainedConfig]
) -> None:
    assert FAMILIES[name].positions(config(max_position_embeddings=514)) == 512


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "mpnet"])
def test_one_token_more_than_the_positions_would_fail(bases: dict[str, LanguageModel], name: str) -> None:
    base = bases[name]
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        base.model(input_ids=rows_of_ids(base, 1, base.positions + 1))


def test_gpt1_has_no_special_tokens_and_scores_all_but_the_first_token(
    bases: dict[str, LanguageModel],
) -> None:
    base = bases["openai-gpt"]
    assert base.special == SpecialTokens(None, None, None)
    (row,) = pack(
        encode([TextDocument("t", 0, "Boil the pasta.")], base.tokenizer),
        "causal",
        None,
        None,
        60,
        packed=False,
    )
    (document, alone) = encode(
        [TextDocument("t", 0, "Boil the pasta."), TextDocument("t", 1, "a")], base.tokenizer
    )
    assert row.input_ids.tolist() == document.ids[:-1].tolist()
    assert row.targets.tolist() == document.ids[1:].tolist()
    scores, none = score(base, [document, alone], choose_protocol(base))
    assert np.isnan(scores).tolist() == [True] + [False] * (len(document.ids) - 1)
    assert len(alone.ids) == 1 and np.isnan(none).all()  # a text of one token says nothing


def test_the_end_of_text_stays_a_target_where_it_is_the_padding_too(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    base.tokenizer.pad_token = base.tokenizer.eos_token
    end = base.special.end
    documents = encode([TextDocument("t", row, text) for row, text in enumerate(TEXTS)], base.tokenizer)
    rows = pack(documents, "causal", base.special.begin, end, 50)
    batch = collate(rows, "causal")
    assert int((batch.targets == end).sum()) == len(TEXTS)
    assert int((batch.targets == NO_TARGET).sum()) > 0  # and padding is none


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_framed_by_the_familys_own_tokens(bases: dict[str, LanguageModel], name: str) -> None:
    base = bases[name]
    frame = {
        "openai-gpt": (None, None, None),
        "llama": ("<s>", "</s>", None),
        "opt": ("</s>", "</s>", None),
        "roberta": ("<s>", "</s>", "<mask>"),
        "xlm-roberta": ("<s>", "</s>", "<mask>"),
        "mpnet": ("<s>", "</s>", "<mask>"),
    }.get(name, ("<|endoftext|>", "<|endoftext|>", None) if name in CAUSAL else ("[CLS]", "[SEP]", "[MASK]"))
    ids = [None if token is None else base.tokenizer.convert_tokens_to_ids(token) for token in frame]
    assert base.special == SpecialTokens(*ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_vocabulary_stays_the_models(bases: dict[str, LanguageModel], name: str) -> None:
    base = bases[name]
    assert (
        len(base.tokenizer) == base.model.config.vocab_size == len(base.model.get_input_embeddings().weight)
    )


def test_gpt2_begins_and_ends_a_text_with_its_only_special_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert special_tokens(FAMILIES["gpt2"], tokenizer, "base") == SpecialTokens(end, end, None)


def test_a_causal_tokenizer_without_a_begin_token_begins_with_its_end_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("gpt2"))
    tokenizer.bos_token = None
    assert special_tokens(FAMILIES["gpt2"], tokenizer, "base").begin == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_masked_families_frame_a_text_with_cls_and_sep_and_hide_with_mask(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("bert"))
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[MASK]")]
    assert len(set(ids)) == 3
    assert special_tokens(FAMILIES[name], tokenizer, "base") == SpecialTokens(*ids)


@pytest.mark.parametrize("missing", ["mask_token", "cls_token", "sep_token"])
def test_a_masked_tokenizer_without_a_token_that_is_needed_is_refused(missing: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped.starter("bert"))
    setattr(tokenizer, missing, None)
    with pytest.raises(FtError, match=rf"base some/bert: .* found no {missing}"):
        special_tokens(FAMILIES["bert"], tokenizer, "base some/bert")
