"""What each family promises: packed rows read as if alone, the right matrices adapted, framed documents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES, POSITIONS
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, GPT2Config, RobertaConfig, T5Config
from transformers.pytorch_utils import Conv1D

from ft_toolkit import shipped
from ft_toolkit.errors import FtError
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import Base, load_base
from ft_toolkit.models.families import FAMILIES, SpecialTokens, family_of, special_tokens
from ft_toolkit.models.losses import NO_TARGET, TokenLosses
from ft_toolkit.recipe import Adapter
from ft_toolkit.text.blocks import Row, collate, encode, mask, pack
from ft_toolkit.text.corpus import Document

LAYERS = 2  # of the tiny checkpoints
TRUNK_MATRICES_OF_A_LAYER = {"gpt2": 4, "bert": 6, "distilbert": 6}
ATTENTION_OF_A_LAYER = {
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "bert": {
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    },
    "distilbert": {"attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"},
}
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
def bases(checkpoints: dict[str, Path]) -> dict[str, Base]:
    return {name: load_base(str(checkpoints[name])) for name in FAMILY_NAMES}


def packed_rows(base: Base, block_tokens: int = 50) -> list[Row]:
    documents = encode([Document("t.txt", row, text) for row, text in enumerate(TEXTS)], base.tokenizer)
    rows = pack(documents, base.family.objective, base.special.begin, base.special.end, block_tokens)
    if base.family.objective == "causal":
        return rows
    assert base.special.mask is not None
    plain_ids = documents[2].ids
    return [mask(row, 0, 0, base.special.mask, plain_ids, fraction=0.3) for row in rows]


def pieces(row: Row) -> list[slice]:
    """Where each document of a row stands."""
    return [
        slice(
            int((row.segments == s).argmax()), int((row.segments == s).argmax() + (row.segments == s).sum())
        )
        for s in range(int(row.segments.max()) + 1)
    ]


def logits_of(base: Base, ids: Tensor, **how: Tensor) -> Tensor:
    more = {"use_cache": False} if base.family.objective == "causal" else {}
    with torch.no_grad():
        logits: Tensor = base.model(input_ids=ids, **how, **more).logits
    return logits


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_packed_row_holds_several_documents_and_pieces_of_long_ones(
    bases: dict[str, Base], name: str
) -> None:
    rows = packed_rows(bases[name])
    assert max(len(pieces(row)) for row in rows) >= 3
    assert len({len(row.input_ids) for row in rows}) > 1  # so that collate has something to pad
    assert sum(len(pieces(row)) for row in rows) > len(TEXTS)  # a long one was cut


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_logits_of_a_packed_row_are_those_of_its_documents_alone(bases: dict[str, Base], name: str) -> None:
    base = bases[name]
    rows = packed_rows(base)
    batch = collate(rows, base.family.objective)
    together = logits_of(
        base, batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    )
    for row, found in zip(rows, together, strict=True):
        for piece in pieces(row):
            alone = logits_of(base, torch.from_numpy(row.input_ids[piece]).long()[None])[0]
            torch.testing.assert_close(found[piece], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_loss_of_a_packed_row_is_that_of_its_documents_alone(bases: dict[str, Base], name: str) -> None:
    base = bases[name]
    rows = packed_rows(base)
    batch = collate(rows, base.family.objective)
    losses = TokenLosses(base.model, base.family)
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


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_without_the_packing_mask_documents_would_see_each_other(bases: dict[str, Base], name: str) -> None:
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


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_auto_targets_are_all_matrices_of_the_trunk_and_nothing_else(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    trunk = base.model.get_submodule(base.family.trunk)
    matrices = {
        f"{base.family.trunk}.{inner}"
        for inner, module in trunk.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    found = adapted(attach_adapter(base, Adapter(), seed=0))
    assert found == matrices
    assert len(found) == LAYERS * TRUNK_MATRICES_OF_A_LAYER[name]
    assert not any("embed" in module or module in (base.family.output, *base.family.head) for module in found)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_attention_targets_are_attention_only(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    found = adapted(attach_adapter(base, Adapter(targets="attention"), seed=0))
    assert len(found) == LAYERS * len(ATTENTION_OF_A_LAYER[name])
    for suffix in ATTENTION_OF_A_LAYER[name]:
        assert sum(module.endswith(f".{suffix}") for module in found) == LAYERS


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_part_that_a_family_names_is_there(bases: dict[str, Base], name: str) -> None:
    base = bases[name]
    assert base.family.model_type == name
    for part in (base.family.trunk, *base.family.head, base.family.output):
        base.model.get_submodule(part)
    assert isinstance(base.model.get_submodule(base.family.output), nn.Linear)


def test_an_unknown_architecture_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(FtError, match=r"model_type roberta\. The nearest is bert") as refusal:
        family_of(RobertaConfig(), "base some/roberta")
    assert "gpt2, bert, distilbert" in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_an_architecture_like_none_of_ours_is_refused_without_a_guess() -> None:
    with pytest.raises(FtError) as refusal:
        family_of(T5Config(), "base some/t5")
    assert "nearest" not in str(refusal.value)
    assert "gpt2, bert, distilbert" in str(refusal.value)


def test_positions_come_from_the_config_and_not_from_the_tokenizer(
    bases: dict[str, Base],
) -> None:
    assert {base.positions for base in bases.values()} == {POSITIONS}
    assert bases["gpt2"].tokenizer.model_max_length != POSITIONS
    assert FAMILIES["gpt2"].positions(GPT2Config(n_positions=17)) == 17
    assert FAMILIES["bert"].positions(BertConfig(max_position_embeddings=18)) == 18


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
