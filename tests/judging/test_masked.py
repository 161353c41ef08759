"""Masked protocols: what is hidden, what is scored, and that both sides see the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POSITIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ft_toolkit.errors import FtError
from ft_toolkit.judging.masked import covering, in_windows, one_at_a_time, score_documents
from ft_toolkit.judging.protocols import EXACT_TOKENS, choose_protocol, sampled_fraction, score
from ft_toolkit.judging.share import Share
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.families import SpecialTokens
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import NO_TARGET, TokenScorer
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument

WINDOW = POSITIONS - 2  # beside [CLS] and [SEP]
NAMES = ("bert", "distilbert")


def nats(*arguments: Any, **how: Any) -> list[TokenNll]:
    """Of every token of each document, without the rest of its scores."""
    return [scored.nats for scored in score_documents(*arguments, **how)]


class Watched(TokenScorer):
    """The real thing, which also keeps each row that it was asked: (ids without padding, targets)."""

    def nll_and_top1(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for ids, asked, one_seen in zip(input_ids, targets, seen.bool(), strict=True):
            self.rows = [*getattr(self, "rows", []), (ids[one_seen].numpy(), asked[one_seen].numpy())]
        return super().nll_and_top1(input_ids, targets, attention_mask, position_ids)


@pytest.fixture(scope="module")
def bases(checkpoints: dict[str, Path]) -> dict[str, LanguageModel]:
    return {name: load_base(str(checkpoints[name])) for name in NAMES}


def document(tokens: int, seed: int = 0) -> Encoded:
    ids = np.random.default_rng([seed, tokens]).permutation(np.arange(5, 8192, dtype=np.int32))[:tokens]
    return Encoded(
        TextDocument("t.txt", seed, f"{seed} {tokens}"),
        ids,
        np.ones(tokens, dtype=bool),
        np.arange(tokens, dtype=np.int32),
    )


def scores(
    base: LanguageModel, documents: list[Encoded], groups: int = 7, seed: int = 0, **how: int
) -> list[TokenNll]:
    losses = TokenScorer(base.model, base.family)
    return nats(losses, documents, base.special, in_windows(base.positions, covering(groups, seed)), **how)


def one_mask_at_a_time(base: LanguageModel, one: Encoded) -> np.ndarray:
    special = base.special
    row = torch.tensor([special.begin, *one.ids.tolist(), special.end])
    found = []
    for place, target in enumerate(one.ids.tolist(), start=1):
        hidden = row.clone()
        hidden[place] = special.mask
        with torch.no_grad():
            logits = base.model(hidden[None]).logits[0, place]
        found.append(-float(logits.log_softmax(-1)[target]))
    return np.array(found)


@given(
    st.lists(st.integers(min_value=1, max_value=150), min_size=1, max_size=3),
    st.integers(min_value=1, max_value=70),
    st.integers(min_value=0, max_value=2**32),
)
@settings(derandomize=True, deadline=None, max_examples=20)
def test_every_token_is_scored_exactly_once(
    bases: dict[str, LanguageModel], sizes: list[int], groups: int, seed: int
) -> None:
    documents = [document(size, row) for row, size in enumerate(sizes)]
    scored: list[int] = []
    base = bases["bert"]
    losses = TokenScorer(base.model, base.family)
    nll = nats(
        losses,
        documents,
        base.special,
        in_windows(base.positions, covering(groups, seed)),
        share=Share(advance=scored.append),
    )
    assert [len(part) for part in nll] == sizes
    assert all(np.isfinite(part).all() for part in nll)
    assert sum(scored) == sum(sizes)


@pytest.mark.parametrize("tokens", [1, 5, 7, 40, WINDOW, WINDOW + 1, 200])
def test_each_position_is_hidden_once_and_all_others_are_shown(
    bases: dict[str, LanguageModel], tokens: int
) -> None:
    base, one = bases["bert"], document(tokens)  # its ids are all different
    watched = Watched(base.model, base.family)
    nats(watched, [one], base.special, in_windows(base.positions, covering(7, 0)))
    asked: list[int] = []
    for ids, targets in watched.rows:
        hidden = ids == base.special.mask
        assert np.array_equal(hidden, targets != NO_TARGET)
        assert hidden.sum() <= -(-(len(ids) - 2) // 7)  # a seventh of the window, rounded up
        start = one.ids.tolist().index(np.where(hidden, targets, ids)[1])
        window = one.ids[start : start + len(ids) - 2]
        whole = np.array([base.special.begin, *window, base.special.end])
        assert np.array_equal(np.where(hidden, targets, ids), whole)
        asked += targets[hidden].tolist()
    assert sorted(asked) == sorted(one.ids.tolist())


def windows_of(base: LanguageModel, tokens: int) -> list[int]:
    watched = Watched(base.model, base.family)
    nats(watched, [document(tokens)], base.special, in_windows(base.positions, covering(1, 0)))
    return sorted(len(ids) - 2 for ids, _ in watched.rows)


@pytest.mark.parametrize(
    ("tokens", "windows"),
    [(1, [1]), (WINDOW, [62]), (WINDOW + 1, [31, 32]), (130, [43, 43, 44]), (3 * WINDOW, [62, 62, 62])],
)
def test_a_long_document_is_read_in_windows_of_nearly_equal_size(
    bases: dict[str, LanguageModel], tokens: int, windows: list[int]
) -> None:
    assert windows_of(bases["bert"], tokens) == windows


@pytest.mark.parametrize("tokens", range(61, 700, 71))
def test_windows_never_exceed_the_positions_and_differ_by_one_at_most(
    bases: dict[str, LanguageModel], tokens: int
) -> None:
    found = windows_of(bases["bert"], tokens)
    assert sum(found) == tokens
    assert found[-1] <= WINDOW
    assert found[-1] - found[0] <= 1
    assert len(found) == -(-tokens // WINDOW)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores_and_another_gives_others(
    bases: dict[str, LanguageModel], name: str
) -> None:
    documents = [document(100, 1), document(30, 2)]
    first, again, other = (scores(bases[name], documents, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other, strict=True))


def test_the_groups_of_a_document_depend_on_its_text_and_not_on_its_place(
    bases: dict[str, LanguageModel],
) -> None:
    base = bases["bert"]
    moved = Encoded(
        TextDocument("elsewhere.txt", 99, document(40).document.text),
        document(40).ids,
        np.ones(40, bool),
        np.arange(40, dtype=np.int32),
    )
    assert np.array_equal(scores(base, [document(40)])[0], scores(base, [moved])[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("groups", [40, 41, 1000])
def test_as_many_groups_as_tokens_is_one_mask_at_a_time(
    bases: dict[str, LanguageModel], name: str, groups: int
) -> None:
    one = document(40)
    found = scores(bases[name], [one], groups=groups)[0]
    np.testing.assert_allclose(found, one_mask_at_a_time(bases[name], one), atol=1e-5, rtol=0)


def test_hiding_a_seventh_is_another_quantity_than_one_mask_at_a_time(
    bases: dict[str, LanguageModel],
) -> None:
    one = document(40)
    found = scores(bases["bert"], [one])[0]
    assert np.abs(found - one_mask_at_a_time(bases["bert"], one)).max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_tokens", [1, 200, 4096])
def test_neighbours_and_padding_do_not_move_a_document(
    bases: dict[str, LanguageModel], name: str, batch_tokens: int
) -> None:
    documents = [document(size, seed) for seed, size in enumerate([3, 130, 1, 62, 20, 21])]
    together = scores(bases[name], documents, batch_tokens=batch_tokens)
    turned = scores(bases[name], documents[::-1], batch_tokens=batch_tokens)[::-1]
    for one, among, among_turned in zip(documents, together, turned, strict=True):
        alone = scores(bases[name], [one])[0]
        np.testing.assert_allclose(among, alone, atol=1e-5, rtol=0)
        np.testing.assert_allclose(among_turned, alone, atol=1e-5, rtol=0)


def test_covering_is_seven_groups_over_all_positions(bases: dict[str, LanguageModel]) -> None:
    base = bases["distilbert"]
    protocol = choose_protocol(base, "covering")
    assert (protocol.metric, protocol.words()) == ("pseudo-perplexity", "covering(7)")
    documents = [document(100)]
    found = score(base, documents, protocol)[0]
    assert np.array_equal(found, scores(base, documents, groups=7, seed=0)[0])


def with_words(sizes: list[int], seed: int = 0) -> Encoded:
    """A document whose words have so many pieces each."""
    one = document(sum(sizes), seed)
    return replace(one, word_ids=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))


def brute_force(base: LanguageModel, one: Encoded, *, within_word: bool) -> np.ndarray:
    """One row a token, one forward pass a row: the token hidden, and with within_word its word's rest."""
    special = base.special
    found = []
    for place, target in enumerate(one.ids.tolist()):
        ids = one.ids.tolist()
        for later in range(place, len(ids)):
            if later == place or (within_word and one.word_ids[later] == one.word_ids[place]):
                ids[later] = special.mask
        with torch.no_grad():
            logits = base.model(torch.tensor([[special.begin, *ids, special.end]])).logits[0, place + 1]
        found.append(-float(logits.log_softmax(-1)[target]))
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("protocol", "within_word"), [("pll", False), ("word-l2r", True)])
def test_one_at_a_time_costs_what_brute_force_says(
    bases: dict[str, LanguageModel], name: str, protocol: str, within_word: bool
) -> None:
    base = bases[name]
    documents = [with_words([1, 3, 2, 1, 5], seed=1), with_words([4] * 10, seed=2), with_words([1], seed=3)]
    found = score(base, documents, choose_protocol(base, protocol))
    for one, nll in zip(documents, found, strict=True):
        expected = brute_force(base, one, within_word=within_word)
        np.testing.assert_allclose(nll, expected, atol=5e-6, rtol=0)
        assert nll.sum() == pytest.approx(expected.sum(), abs=1e-4)


def test_words_of_one_piece_make_both_estimands_one(bases: dict[str, LanguageModel]) -> None:
    base, one = bases["bert"], with_words([1] * 40)
    found = [score(base, [one], choose_protocol(base, name))[0] for name in ("pll", "word-l2r")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6, rtol=0)


def test_longer_words_part_them(bases: dict[str, LanguageModel]) -> None:
    base, one = bases["bert"], with_words([4] * 10)
    found = [score(base, [one], choose_protocol(base, name))[0] for name in ("pll", "word-l2r")]
    assert np.array_equal(found[0][3::4], found[1][3::4])  # the last piece of a word has nothing behind it
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_default_of_a_masked_model_hides_the_rest_of_the_word(bases: dict[str, LanguageModel]) -> None:
    protocol = choose_protocol(bases["bert"])
    assert (protocol.name, protocol.metric, protocol.exact) == ("word-l2r", "pseudo-perplexity", False)


def test_above_twenty_thousand_tokens_a_sample_is_scored_and_exact_scores_all(
    bases: dict[str, LanguageModel],
) -> None:
    base = bases["bert"]
    many = [document(8000, seed) for seed in range(5)]
    assert sampled_fraction(many[:2], choose_protocol(base)) == 1.0
    assert sampled_fraction(many, choose_protocol(base)) == EXACT_TOKENS / 40_000
    assert sampled_fraction(many, choose_protocol(base, exact=True)) == 1.0
    assert sampled_fraction(many, choose_protocol(base, "covering")) == 1.0


def test_a_sample_is_the_same_for_every_model_and_its_tokens_cost_what_they_cost_in_full(
    bases: dict[str, LanguageModel],
) -> None:
    documents = [with_words([2] * 60, seed) for seed in range(8)]
    found = {
        (name, rate): nats(
            TokenScorer(base.model, base.family), documents, base.special,
            in_windows(base.positions, one_at_a_time(within_word=True, rate=rate, seed=0)),
        )
        for name, base in bases.items()
        for rate in (0.25, 1.0)
    }  # fmt: skip
    for one, other, full in zip(
        *(found[key] for key in (("bert", 0.25), ("distilbert", 0.25), ("bert", 1.0))), strict=True
    ):
        assert np.array_equal(np.isnan(one), np.isnan(other))
        drawn = ~np.isnan(one)
        np.testing.assert_allclose(one[drawn], full[drawn], atol=1e-5, rtol=0)
    share = np.mean(~np.isnan(np.concatenate(found["bert", 0.25])))
    assert 0.19 < share < 0.31  # 960 draws at a quarter: four standard errors


def test_a_tokenizer_that_cannot_hide_is_refused(bases: dict[str, LanguageModel]) -> None:
    base = bases["bert"]
    losses = TokenScorer(base.model, base.family)
    with pytest.raises(FtError, match=r"\[MASK\]"):
        nats(losses, [document(3)], SpecialTokens(2, 3, None), in_windows(64, covering(7, 0)))
