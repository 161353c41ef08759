"""An architecture without a row: what is found in it must give its own logits, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from tiny_checkpoints import POSITIONS, save
from torch import nn

from ft_toolkit.errors import LINE_CHARACTERS, FtError
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.token_nll import TokenScorer
from ft_toolkit.sections import Adapter

# architecture → a family whose sizes and tokenizer fit it, positions of its own rows, how it differs
UNDERSTOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("llama", {}),
    "mistral": ("llama", {"head_dim": 8}),
    "gpt_bigcode": ("gpt2", {}),
    "camembert": ("roberta", {}),  # RoBERTa's head
    "ernie": ("bert", {}),  # BERT's
    "data2vec-text": ("roberta", {}),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_an_inspected_architecture_has_its_own_logits_and_adapters_in_its_layers(
    name: str, tmp_path: Path
) -> None:
    like, changes = UNDERSTOOD[name]
    torch.manual_seed(1)
    save(tmp_path, name, like, **changes)
    base = load_base(str(tmp_path))
    assert base.family.note is not None and base.family.note.startswith(
        f"{name} is not in the table of families"
    )
    assert not base.family.packs
    assert base.positions == POSITIONS
    ids = torch.randint(5, base.model.config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        lean = TokenScorer(base.model, base.family)(ids, ids)
        own = F.cross_entropy(base.model(input_ids=ids).logits.flatten(0, 1), ids.flatten(), reduction="none")
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=0)
    trunk = base.model.get_submodule(base.family.trunk)
    matrices = {
        f"base_model.model.{base.family.trunk}.{inner}"
        for inner, module in trunk.named_modules()
        if isinstance(module, nn.Linear)
    }
    model = attach_adapter(base, Adapter(), seed=0)
    assert {where for where, module in model.named_modules() if isinstance(module, LoraLayer)} == matrices
    with torch.no_grad():
        assert torch.equal(TokenScorer(model, base.family)(ids, ids), lean)


# gemma2 caps its logits, granite scales them, xlnet looks ahead, convbert mixes padding in
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma2": ("llama", {"head_dim": 8, "query_pre_attn_scalar": 8}, "llama"),
    "granite": ("llama", {"logits_scaling": 8.0}, "llama"),
    "xlnet": ("gpt2", {"d_inner": 32}, "gpt2"),
    "convbert": ("bert", {"embedding_size": 16}, "bert"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_whose_parts_do_not_give_its_logits_is_refused_with_the_nearest_family(
    name: str, tmp_path: Path
) -> None:
    like, changes, nearest = REFUSED[name]
    torch.manual_seed(1)
    save(tmp_path, name, like, **changes)
    with pytest.raises(FtError, match=f"found {name}") as refusal:
        load_base(str(tmp_path))
    assert refusal.value.fix.startswith(f"Nearest: {nearest} (")
    assert len(str(refusal.value)) <= LINE_CHARACTERS


def test_ia3_is_refused_where_nobody_knows_which_matrices_are_keys(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save(tmp_path, "qwen2", "llama")
    with pytest.raises(FtError, match="ia3"):
        attach_adapter(load_base(str(tmp_path)), Adapter(method="ia3"), seed=0)
