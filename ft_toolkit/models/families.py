"""What each architecture needs, as data. A new family is a row here, its test parameters and its docs.

Dotted names are module paths inside the transformers model of that family (transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ft_toolkit.errors import FtError

Objective = Literal["causal", "masked"]


@dataclass(frozen=True)
class Family:
    """One architecture: where its parts are, and how it wants its text."""

    model_type: str  # as in config.json
    objective: Objective
    trunk: str  # token ids in, hidden states out
    head: tuple[str, ...]  # modules between the trunk and the output projection, in order
    output: str  # the projection to the vocabulary, a Linear
    attention: tuple[str, ...]  # the matrices of attention, as PEFT's suffixes
    feed_forward: tuple[str, ...]  # and of the feed-forward part; together: all matrices of the trunk
    keys_values: tuple[str, ...]  # what IA3 scales, the fused matrix where there is one
    feed_forward_out: tuple[str, ...]  # and the matrix whose input it scales
    conv1d: bool  # weights stored (in, out), as GPT-2's Conv1D does
    packs: bool  # takes position_ids and a 4D additive mask, exactly (tests/models/test_families.py)
    positions: Callable[[PretrainedConfig], int]  # the longest row it can read
    position_table: str | None = None  # learned rows of positions, below the trunk

    def targets(self, wanted: str | list[str]) -> list[str]:
        """The module suffixes that get an adapter; none of them matches the head or an embedding."""
        if wanted in ("auto", "all-linear"):  # peft's own all-linear would take the head's transform too
            return [*self.attention, *self.feed_forward]
        return list(self.attention) if isinstance(wanted, str) else wanted


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that frame a document; `mask` and `padding` only where the objective needs them."""

    begin: int | None
    end: int | None
    mask: int | None


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            model_type="gpt2",
            objective="causal",
            trunk="transformer",
            head=(),
            output="lm_head",
            attention=("attn.c_attn", "attn.c_proj"),
            feed_forward=("mlp.c_fc", "mlp.c_proj"),
            keys_values=("attn.c_attn",),
            feed_forward_out=("mlp.c_proj",),
            conv1d=True,
            packs=True,
            positions=lambda config: config.n_positions,
            position_table="wpe",
        ),
        Family(
            model_type="bert",
            objective="masked",
            trunk="bert",
            head=("cls.predictions.transform",),
            output="cls.predictions.decoder",
            attention=("query", "key", "value", "attention.output.dense"),
            feed_forward=("intermediate.dense", "output.dense"),
            keys_values=("key", "value"),
            feed_forward_out=("output.dense",),
            conv1d=False,
            packs=True,
            positions=lambda config: config.max_position_embeddings,
            position_table="embeddings.position_embeddings",
        ),
        Family(
            model_type="distilbert",
            objective="masked",
            trunk="distilbert",
            head=("vocab_transform", "activation", "vocab_layer_norm"),
            output="vocab_projector",
            attention=("q_lin", "k_lin", "v_lin", "out_lin"),
            feed_forward=("lin1", "lin2"),
            keys_values=("k_lin", "v_lin"),
            feed_forward_out=("lin2",),
            conv1d=False,
            packs=True,
            positions=lambda config: config.max_position_embeddings,
            position_table="embeddings.position_embeddings",
        ),
    )
}


def family_of(config: PretrainedConfig, where: str) -> Family:
    """The row of a checkpoint's config; an unknown architecture is refused with the nearest one."""
    model_type = config.model_type
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    near = get_close_matches(model_type, FAMILIES, n=1, cutoff=0.4)
    hint = f"The nearest is {near[0]}." if near else "Choose a checkpoint of one of these."
    raise FtError(where, f"a checkpoint of {', '.join(FAMILIES)}", f"model_type {model_type}", hint)


def special_tokens(family: Family, tokenizer: PreTrainedTokenizerBase, where: str) -> SpecialTokens:
    """How documents are framed: by begin and end of text (causal) or by [CLS] and [SEP] (masked).

    Padding is never chosen by id: a row's length says what is padding, so an end-of-text token that doubles
    as padding stays a target (transformers issue 23530).
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
        raise FtError(where, "a tokenizer with [CLS], [SEP], [MASK]", f"no {', '.join(missing)}", "Mend it.")
    return SpecialTokens(names["cls_token"], names["sep_token"], names["mask_token"])
