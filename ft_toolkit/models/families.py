"""What each architecture needs, as data. A new family is a row here, its test parameters and its docs.

Dotted names are module paths inside the transformers model of that family (transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import gelu
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError

Objective = Literal["causal", "masked"]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """One architecture: the names of its parts, and how its text is framed."""

    model_type: str  # as in config.json
    objective: Objective
    tier: Literal[1, 2]  # 1: every method is tested on it; 2: LoRA (tests/test_family_matrix.py)
    trunk: str  # token ids in, hidden states out
    head: tuple[str | Activation, ...]  # between the trunk and the output projection, in order
    output: str  # the projection to the vocabulary; its weight is (vocabulary, width)
    attention: tuple[str, ...]  # the matrices of attention, as PEFT's suffixes
    feed_forward: tuple[str, ...]  # and of the feed-forward part, as data passes them; together: all matrices
    keys_values: tuple[str, ...]  # of `attention`: what makes keys and values (with the queries, where fused)
    feed_forward_out: tuple[str, ...]  # of `feed_forward`: the matrices that lead back to the trunk's width
    packs: bool  # takes position_ids and a 4D additive mask, exactly (tests/models/test_families.py)
    conv1d: bool = False  # weights stored (in, out), as GPT-2's Conv1D does
    output_bias: str | None = None  # where the projection's bias is, if not beside its weight
    first_position: Callable[[PretrainedConfig], int] = lambda config: 0  # the id of a row's first position
    position_table: str | None = None  # learned rows of positions, below the trunk
    note: str | None = None  # what a person should know before trusting this row

    def positions(self, config: PretrainedConfig) -> int:
        """The longest row, in tokens, that such a checkpoint can read; not from the tokenizer."""
        longest: int = config.max_position_embeddings
        return longest - self.first_position(config)

    def targets(self, wanted: str | list[str]) -> list[str]:
        """The module suffixes that get an adapter; none of them matches the head or an embedding."""
        if wanted in ("auto", "all-linear"):  # peft's own all-linear would take the head's transform too
            return [*self.attention, *self.feed_forward]
        return list(self.attention) if isinstance(wanted, str) else wanted


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that frame a document; None where the tokenizer has no such token. `mask` for masked models."""

    begin: int | None
    end: int | None
    mask: int | None


_BERT_ATTENTION = ("query", "key", "value", "attention.output.dense")
_BERT_FEED_FORWARD = ("intermediate.dense", "output.dense")
_ROBERTA_HEAD = ("lm_head.dense", gelu, "lm_head.layer_norm")  # gelu is a plain function there


def _after_padding(config: PretrainedConfig) -> int:
    """RoBERTa counts positions from behind the padding id: 514 rows of its table are 512 tokens."""
    return (config.pad_token_id or 0) + 1


_ROBERTA = Family(
    model_type="roberta",
    objective="masked",
    tier=1,
    trunk="roberta",
    head=_ROBERTA_HEAD,
    output="lm_head.decoder",
    attention=_BERT_ATTENTION,
    feed_forward=_BERT_FEED_FORWARD,
    keys_values=("key", "value"),
    feed_forward_out=("output.dense",),
    packs=True,
    first_position=_after_padding,
    position_table="embeddings.position_embeddings",
)

FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            model_type="gpt2",
            objective="causal",
            tier=1,
            trunk="transformer",
            head=(),
            output="lm_head",
            attention=("attn.c_attn", "attn.c_proj"),
            feed_forward=("mlp.c_fc", "mlp.c_proj"),
            keys_values=("attn.c_attn",),
            feed_forward_out=("mlp.c_proj",),
            packs=True,
            conv1d=True,
            position_table="wpe",
        ),
        Family(
            model_type="openai-gpt",
            objective="causal",
            tier=1,
            trunk="transformer",
            head=(),
            output="lm_head",
            attention=("attn.c_attn", "attn.c_proj"),
            feed_forward=("mlp.c_fc", "mlp.c_proj"),
            keys_values=("attn.c_attn",),
            feed_forward_out=("mlp.c_proj",),
            packs=False,  # takes padding masks only
            conv1d=True,
            position_table="positions_embed",
        ),
        Family(
            model_type="gpt_neo",
            objective="causal",
            tier=2,
            trunk="transformer",
            head=(),
            output="lm_head",
            attention=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
            feed_forward=("mlp.c_fc", "mlp.c_proj"),
            keys_values=("attention.k_proj", "attention.v_proj"),
            feed_forward_out=("mlp.c_proj",),
            packs=True,
            position_table="wpe",
        ),
        Family(
            model_type="gptj",
            objective="causal",
            tier=2,
            trunk="transformer",
            head=(),
            output="lm_head",
            attention=("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
            feed_forward=("mlp.fc_in", "mlp.fc_out"),
            keys_values=("attn.k_proj", "attn.v_proj"),
            feed_forward_out=("mlp.fc_out",),
            packs=True,
        ),
        Family(
            model_type="opt",
            objective="causal",
            tier=2,
            trunk="model",  # with opt-350m's project_out at its end
            head=(),
            output="lm_head",
            attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
            feed_forward=("fc1", "fc2"),
            keys_values=("self_attn.k_proj", "self_attn.v_proj"),
            feed_forward_out=("fc2",),
            packs=True,  # and adds its own offset of 2 to the positions
            position_table="decoder.embed_positions",
        ),
        Family(
            model_type="gpt_neox",
            objective="causal",
            tier=2,
            trunk="gpt_neox",
            head=(),
            output="lm_head",
            attention=("attention.query_key_value", "attention.dense"),
            feed_forward=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
            keys_values=("attention.query_key_value",),
            feed_forward_out=("mlp.dense_4h_to_h",),
            packs=True,
        ),
        Family(
            model_type="llama",
            objective="causal",
            tier=2,
            trunk="model",
            head=(),
            output="lm_head",
            attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            feed_forward=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
            keys_values=("self_attn.k_proj", "self_attn.v_proj"),
            feed_forward_out=("mlp.down_proj",),
            packs=True,
        ),
        Family(
            model_type="bert",
            objective="masked",
            tier=1,
            trunk="bert",
            head=("cls.predictions.transform",),
            output="cls.predictions.decoder",
            attention=_BERT_ATTENTION,
            feed_forward=_BERT_FEED_FORWARD,
            keys_values=("key", "value"),
            feed_forward_out=("output.dense",),
            packs=True,
            position_table="embeddings.position_embeddings",
        ),
        Family(
            model_type="distilbert",
            objective="masked",
            tier=1,
            trunk="distilbert",
            head=("vocab_transform", "activation", "vocab_layer_norm"),
            output="vocab_projector",
            attention=("q_lin", "k_lin", "v_lin", "out_lin"),
            feed_forward=("lin1", "lin2"),
            keys_values=("k_lin", "v_lin"),
            feed_forward_out=("lin2",),
            packs=True,
            position_table="embeddings.position_embeddings",
        ),
        _ROBERTA,
        replace(_ROBERTA, model_type="xlm-roberta", tier=2),
        Family(
            model_type="albert",
            objective="masked",
            tier=2,
            trunk="albert",  # all layers share one set of matrices, and so one adapter
            head=("predictions.dense", "predictions.activation", "predictions.LayerNorm"),
            output="predictions.decoder",
            attention=("attention.query", "attention.key", "attention.value", "attention.dense"),
            feed_forward=("ffn", "ffn_output"),
            keys_values=("attention.key", "attention.value"),
            feed_forward_out=("ffn_output",),
            packs=True,
            position_table="embeddings.position_embeddings",
        ),
        Family(
            model_type="electra",
            objective="masked",
            tier=2,
            trunk="electra",
            head=("generator_predictions",),
            output="generator_lm_head",
            attention=_BERT_ATTENTION,
            feed_forward=_BERT_FEED_FORWARD,
            keys_values=("key", "value"),
            feed_forward_out=("output.dense",),
            packs=True,
            position_table="embeddings.position_embeddings",
        ),
        Family(
            model_type="deberta-v2",
            objective="masked",
            tier=2,
            trunk="deberta",
            head=("cls.predictions.transform",),
            output="cls.predictions.decoder",
            attention=("query_proj", "key_proj", "value_proj", "attention.output.dense"),
            feed_forward=_BERT_FEED_FORWARD,
            keys_values=("key_proj", "value_proj"),
            feed_forward_out=("output.dense",),
            packs=False,  # its 4D masks are of its own kind
        ),
        Family(
            model_type="mpnet",
            objective="masked",
            tier=2,
            trunk="mpnet",
            head=_ROBERTA_HEAD,
            output="lm_head.decoder",
            attention=("attn.q", "attn.k", "attn.v", "attn.o"),
            feed_forward=_BERT_FEED_FORWARD,
            keys_values=("attn.k", "attn.v"),
            feed_forward_out=("output.dense",),
            packs=True,
            first_position=lambda config: 2,  # behind a padding id that is 1 whatever the config says
            position_table="embeddings.position_embeddings",
        ),
        Family(
            model_type="modernbert",
            objective="masked",
            tier=2,
            trunk="model",
            head=("head",),
            output="decoder",
            attention=("attn.Wqkv", "attn.Wo"),
            feed_forward=("mlp.Wi", "mlp.Wo"),
            keys_values=("attn.Wqkv",),
            feed_forward_out=("mlp.Wo",),
            packs=False,  # wants a mask for each kind of layer
        ),
    )
}


def family_of(config: PretrainedConfig, where: str) -> Family:
    """The row of a checkpoint's config; an architecture without one is refused with the nearest name."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        near = get_close_matches(config.model_type, FAMILIES, n=1, cutoff=0.5)
        hint = f"The nearest is {near[0]}." if near else "docs/models.md lists them."
        raise FtError(where, "a family of the table", f"model_type {config.model_type}", hint)
    if family.model_type == "deberta-v2" and not config.legacy:
        head = ("dense", "transform_act_fn", "LayerNorm")
        return replace(
            family,
            head=tuple(f"lm_predictions.lm_head.{part}" for part in head),
            output="deberta.embeddings.word_embeddings",
            output_bias="lm_predictions.lm_head.bias",
        )
    return family


def special_tokens(family: Family, tokenizer: PreTrainedTokenizerBase, where: str) -> SpecialTokens:
    """How documents are framed: by begin and end of text (causal) or by [CLS] and [SEP] (masked).

    Padding is found by a row's length, never by id, so an end-of-text token that doubles as padding stays a
    target (transformers issue 23530).
    """
    if family.objective == "causal":
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return SpecialTokens(begin, tokenizer.eos_token_id, None)
    names: dict[str, Any] = {
        "cls_token": tokenizer.cls_token_id,
        "sep_token": tokenizer.sep_token_id,
        "mask_token": tokenizer.mask_token_id,
    }
    missing = [name for name, value in names.items() if value is None]
    if missing:
        raise FtError(
            where,
            "a tokenizer with [CLS], [SEP], [MASK]",
            f"no {', '.join(missing)}",
            "Add them to the tokenizer.",
        )
    return SpecialTokens(names["cls_token"], names["sep_token"], names["mask_token"])
