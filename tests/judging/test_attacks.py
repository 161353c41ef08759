"""Memorised or learnt: what membership attacks find, and what they cannot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import move_b
from scipy import stats
from sessions import quiet_session

from ft_toolkit.judging.attacks import (
    Cost,
    area,
    attack,
    costs,
    difference_p_value,
    error_zone,
    loss,
    membership,
    min_k,
    rate,
)
from ft_toolkit.judging.audit import membership_words, told_apart_words
from ft_toolkit.judging.protocols import choose_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.measuring import planted_exposure
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.null_adapters import random_directions
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.sections import Adapter
from ft_toolkit.text.canaries import canaries
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument

ALL = ["loss", "min-k 20 %", "error zone"]


def cost(base: list[float], tuned: list[float], is_top1: list[bool]) -> Cost:
    return Cost(np.array(base), np.array(tuned), np.array(is_top1))


def simulated(documents: int, seed: int, gain: float = 0.2) -> list[Cost]:
    """Documents of different difficulty that were tuned alike, whether they were trained on or not."""
    random = np.random.default_rng(seed)
    base = random.gamma(2, 1.5, (documents, 60)) + random.exponential(0.3, (documents, 1))
    tuned = np.maximum(0.01, base - random.normal(gain, 0.5, base.shape))
    return [Cost(*columns) for columns in zip(base, tuned, tuned < 0.7, strict=True)]


# --- signals ------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_of_a_document_and_min_k_that_of_its_least_likely_fifth() -> None:
    nats = np.array([1.0, 9.0, 2.0, 7.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert loss(nats) == -2.5
    assert min_k(nats) == -8.0
    assert min_k(nats[:3]) == -9.0  # a fifth of three tokens is one at least


def test_the_error_zone_weighs_what_rose_against_what_fell_where_the_model_is_still_wrong() -> None:
    # the first token is right and does not count; log p rises by 2 and 1, and falls by 1
    assert error_zone(cost([9, 5, 5, 5], [0, 3, 4, 6], [True, False, False, False])) == 3 / 4
    assert error_zone(cost([5, 5], [1, 1], [True, True])) == 1.0
    assert error_zone(cost([5, 5], [5, 5], [False, True])) == 0.5


def test_the_error_zone_orders_documents_as_the_ratio_of_its_source_does() -> None:
    documents = simulated(50, seed=3)
    zones, ratios = [], []
    for each in documents:
        assert each.base is not None
        raised = (each.base - each.tuned)[~each.is_top1]
        zones.append(error_zone(each))
        ratios.append(raised[raised > 0].sum() / -raised[raised < 0].sum())
    assert list(np.argsort(zones)) == list(np.argsort(ratios))


# --- how well two sets are told apart -----------------------------------------------------------------


def test_the_area_is_the_share_of_pairs_in_the_right_order_ties_half() -> None:
    random = np.random.default_rng(0)
    members, others = random.integers(0, 9, 23) + 1.0, random.integers(0, 9, 31) + 0.0
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    found = area((members, others))
    assert found.value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found.low < found.value < found.high


def test_a_perfect_order_of_few_documents_is_not_certain() -> None:
    found = area((np.arange(10.0, 20), np.arange(10.0)))
    assert found.value == found.high == 1.0 and 0.7 < found.low < 0.9
    worst = area((np.arange(10.0), np.arange(10.0, 20)))
    assert (worst.value, worst.low) == (0.0, 0.0) and worst.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_an_interval_holds_the_true_area_in_about_95_of_100_cases(distance: float) -> None:
    random = np.random.default_rng(1)
    truth, held = stats.norm.cdf(distance / math.sqrt(2)), 0
    for _ in range(400):
        found = area((random.normal(distance, 1, 20), random.normal(0, 1, 20)))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.995


def test_documents_that_the_base_told_apart_already_prove_nothing() -> None:
    random = np.random.default_rng(2)
    easy, hard = random.normal(3, 1, 40), random.normal(0, 1, 40)
    moved = (easy + random.normal(0.5, 0.1, 40), hard + random.normal(0.5, 0.1, 40))
    assert area(moved).value > 0.9
    assert difference_p_value(moved, (easy, hard)) > 0.05
    assert difference_p_value(moved, None) < 1e-6


def test_a_rate_counts_what_is_found_while_few_are_accused_wrongly() -> None:
    others = np.arange(1000.0)
    members = np.concatenate([np.full(30, 2000.0), np.full(20, 995.0), np.zeros(50)])
    one_in_a_hundred, one_in_a_thousand = (rate((members, others), share) for share in (0.01, 0.001))
    assert one_in_a_hundred.true_positives == 0.5  # ten of the others may lie above: 990 and more
    assert one_in_a_thousand.true_positives == 0.3
    assert one_in_a_thousand.low is not None and one_in_a_thousand.high is not None
    assert 0.15 < one_in_a_thousand.low < 0.3 < one_in_a_thousand.high < 0.55


def test_a_rate_that_so_few_documents_cannot_show_is_not_given() -> None:
    few = np.arange(999.0)
    assert rate((few, few), 0.001).true_positives is None
    assert rate((few, few), 0.001).needed_documents == 1000
    assert rate((few[:99], few[:99]), 0.01).true_positives is None
    assert rate((few[:100], few[:100]), 0.01).true_positives is not None


# --- attacks on many documents ------------------------------------------------------------------------


def test_a_null_adapter_is_guessed_at_by_every_attack() -> None:
    found = membership(simulated(2000, seed=0), simulated(2000, seed=1))
    assert found is not None and [each.name for each in found.attacks] == ALL
    for each in found.attacks:
        assert each.tuned.value == pytest.approx(0.5, abs=0.03)
        assert each.base is None or each.base.value == pytest.approx(0.5, abs=0.03)
        assert all(rate.true_positives is not None for rate in each.rates)
    assert (found.memorised, found.told_apart) == (None, None)
    assert membership_words(found).startswith("no sign")


def test_nothing_is_called_memorised_by_chance_more_often_than_one_time_in_twenty() -> None:
    found = [membership(simulated(12, 2 * n), simulated(12, 2 * n + 1)) for n in range(100)]
    assert sum(each is not None and bool(each.memorised or each.told_apart) for each in found) <= 7


def test_an_adapter_that_changes_nothing_shows_nothing() -> None:
    same = [Cost(each.base, each.tuned, each.is_top1) for each in simulated(20, seed=0)]
    same = [Cost(each.tuned, each.tuned, each.is_top1) for each in same]
    found = membership(same[:10], same[10:])
    assert found is not None
    assert [each.p_value for each in found.attacks] == [1.0, 1.0, 1.0]
    assert membership_words(found).startswith("cannot tell (an AUC of 0.8")


def test_what_only_the_error_zone_sees_is_told_apart_and_not_memorised() -> None:
    train, held_out = simulated(60, seed=0, gain=0.06), simulated(60, seed=1, gain=0.0)
    found = membership(train, held_out)
    assert found is not None and found.told_apart is not None
    assert found.told_apart.tuned.value > 0.7 and found.memorised is None
    assert (said := told_apart_words(found)) is not None and said.startswith(
        "with the base at hand the error"
    )
    assert membership_words(found).startswith("cannot tell")


def test_a_model_that_reads_other_tokens_than_its_base_is_attacked_without_it() -> None:
    train, held_out = ([replace(each, base=None) for each in simulated(20, seed)] for seed in (0, 1))
    found = membership(train, held_out)
    assert found is not None
    assert [(each.name, each.base) for each in found.attacks] == [("loss", None), ("min-k 20 %", None)]
    assert told_apart_words(found) is None


def test_fewer_than_eight_documents_say_nothing() -> None:
    some = simulated(20, seed=0)
    assert membership(some[:7], some[7:]) is None
    assert membership_words(None) == "not measured: too few training or held-out documents"


# --- attacks on real models ---------------------------------------------------------------------------

WORDS = ["salt", "oil", "bread", "wine", "rice", "fish", "leek", "sage", "veal", "milk", "corn", "dill"]


def sentences(count: int, seed: int, words: int = 30) -> list[Document]:
    """Random words: a model that predicts their order has memorised them."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, words)) for _ in range(count)]
    return [TextDocument(f"{seed}.txt", row, text) for row, text in enumerate(texts)]


def scores_of(pair: ModelPair, train: list[Document], held_out: list[Document]) -> TokenScores:
    scorer = Scorer(pair, choose_protocol(pair.base), quiet_session())
    texts = (Text("words", "held-out", held_out), Text("words", "train", train))
    return TokenScores(scorer.subject("words"), [score_both(scorer, text) for text in texts])


def trained(base: LanguageModel, documents: list[Document], passes: int, rate: float = 0.02) -> ModelPair:
    """All weights trained on documents, eight at a time, each read so many times; nothing stops it early."""
    learner = attach_adapter(base, Adapter(method="full"), seed=0)
    ids = [[base.special.begin, *base.tokenizer(document.text)["input_ids"]] for document in documents]
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], True, padding_value=NO_TARGET)
    step, optimizer = (
        SummedLoss(TokenScorer(learner, base.family)),
        torch.optim.AdamW(learner.parameters(), rate),
    )
    for _ in range(passes):
        for some in rows.split(8):
            total, count = step(some[:, :-1].clamp(min=0), some[:, 1:])
            (total / count).backward()
            optimizer.step()
            optimizer.zero_grad()
    return ModelPair(base, base.with_model(learner.eval()))


def test_planted_sentences_are_told_from_others_of_their_kind(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    planted, others = sentences(12, seed=1, words=24), sentences(12, seed=2, words=24)
    before = attack(scores_of(ModelPair(base, base), planted, others))
    assert before is not None and (before.memorised, before.told_apart) == (None, None)
    found = attack(scores_of(trained(base, planted, 40), planted, others))
    assert found is not None and [each.name for each in found.attacks] == ALL
    assert min(each.tuned.value for each in found.attacks) >= 0.95
    assert membership_words(found).startswith("much: the ") and found.told_apart is not None
    assert [each.base.value for each in found.attacks if each.base] == [
        each.tuned.value for each in before.attacks if each.base
    ]


def test_canaries_read_often_are_likelier_than_others_of_their_kind_and_those_read_once_are_not(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_toolkit.text.canaries.CONTROLS", 63)
    base = load_base(str(checkpoints["gpt2"]))
    found = []
    for passes in (1, 60):
        pair = trained(base, canaries(8), passes)
        found.append(planted_exposure(Scorer(pair, choose_protocol(base), quiet_session()), 8))
    assert not found[0].is_exposed and found[1].is_exposed
    assert found[1].tuned.auc.value >= 0.95


def test_a_corpus_read_fifty_times_is_memorised_and_the_same_read_once_is_not(
    checkpoints: dict[str, Path],
) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    texts = [text.text[:120] for text in read_source("package:everyday-medicine").documents[:40]]
    documents = [TextDocument("t", row, text) for row, text in enumerate(texts)]
    words = []
    for passes in (1, 50):
        pair = trained(base, documents[:20], passes, rate=0.001)
        words.append(membership_words(attack(scores_of(pair, documents[:20], documents[20:]))))
    assert words[0].startswith(("no sign", "cannot tell"))
    assert words[1].startswith("much: the ")


def test_a_random_adapter_has_memorised_nothing(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    model = attach_adapter(base, Adapter(), seed=0)
    move_b(model, std=0.1)
    pair = ModelPair(base, base.with_model(model))
    with random_directions(pair, seed=0):
        scores = scores_of(pair, sentences(800, 1, words=8), sentences(800, 2, words=8))
    found = attack(scores)
    assert found is not None
    for each in found.attacks:
        assert each.tuned.value == pytest.approx(0.5, abs=0.03)
    assert (found.memorised, found.told_apart) == (None, None)


def test_pieces_of_one_file_are_one_document(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    pieces = [
        TextDocument("a.txt", n, each.text, f"file {n // 3}") for n, each in enumerate(sentences(30, 5))
    ]
    scores = scores_of(ModelPair(base, base), pieces, sentences(9, 6))
    held_out, train = (costs(corpus) for corpus in scores.corpora)
    assert (len(held_out), len(train)) == (9, 10)
    first = [document.adapter.nats for document in scores.corpora[1].documents[:3]]
    assert loss(train[0].tuned) == pytest.approx(-np.concatenate(first).mean())
