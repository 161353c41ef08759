"""What a training starts from is read again where an earlier start of the same made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_toolkit import material
from ft_toolkit.judging.protocols import score_tokens
from ft_toolkit.material import gathered, untrained_score, validation_documents, validation_score
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Session, kept_text
from ft_toolkit.text import tokens
from ft_toolkit.training.accelerator import make_accelerator

TinyRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_start_that_was_validated_before_is_not_validated_again(
    family: str, tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(model: Any, documents: Sequence[Any], **how: Any) -> Any:
        counts.append(len(documents))
        return score_tokens(model, documents, **how)

    session = Session(make_accelerator("cpu"))
    recipes = [tiny_recipe(family), tiny_recipe(family), tiny_recipe(family, training={"seed": 1})]
    starts = [gathered(recipe, CPU) for recipe in recipes]
    documents = validation_documents(starts[0].parts)
    expected = [validation_score(it.pair.tuned, documents)() for it in starts]
    monkeypatch.setattr(material, "score_tokens", counted)
    assert [untrained_score(it, session)() for it in starts] == expected
    assert counts[0] == counts[-1] == len(documents) > 3  # another seed is another start
    assert sum(counts[1:-1]) <= 2  # the documents by which the cache is checked


def test_a_second_start_tokenises_nothing_and_trains_on_the_same_rows(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object) -> None:
        raise AssertionError("tokenised again")

    first = gathered(tiny_recipe(), CPU).rows
    monkeypatch.setattr(tokens, "_encoded", never)
    second = gathered(tiny_recipe(), CPU).rows
    assert [row.input_ids.tolist() for row in first] == [row.input_ids.tolist() for row in second]
    with pytest.raises(AssertionError, match="again"):
        gathered(tiny_recipe(judging={"canaries": 2}), CPU)


def test_who_keeps_no_text_keeps_no_token_ids(tiny_recipe: TinyRecipe) -> None:
    rows = gathered(tiny_recipe(judging={"keep_text": False}), CPU).rows
    assert rows.outline.tokens > 100
    assert not kept_text("tokens")[0].exists()
