"""Raw totals: they add up, only the end divides, and a broken number is never summed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES, batches_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_toolkit.errors import NumbersGoneWrong
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.totals import Totals, corpus_totals, count_words, document_totals, finite
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.text.blocks import Encoded, encode
from ft_toolkit.text.documents import TextDocument

TEXTS = ["Boil the pasta.", "Wash your hands often, and dry them well. " * 12, "물 und Brot zum Abend"]
SIZES = st.integers(min_value=1, max_value=10_000)


def encoded(base: LanguageModel) -> list[Encoded]:
    return encode([TextDocument("a.md", row, text) for row, text in enumerate(TEXTS)], base.tokenizer)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    for parameter in base.model.get_submodule(base.family.output).parameters():
        parameter.zero_()
    documents = encoded(base)
    nll = score(base, documents, choose_protocol(base))
    totals = corpus_totals(document_totals(d, part) for d, part in zip(documents, nll, strict=True))
    assert totals.perplexity == pytest.approx(8192, rel=1e-6)
    assert totals.tokens == sum(len(document.ids) for document in documents)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_model_that_is_certain_and_right_has_a_perplexity_of_one(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    output = base.model.get_submodule(base.family.output)
    output.weight.zero_()
    bias = torch.zeros(8192)
    bias[17] = 1000.0
    output.bias = torch.nn.Parameter(bias, requires_grad=False)
    long = Encoded(
        TextDocument("a.md", 0, "same " * 100),
        np.full(100, 17, np.int32),
        *(np.arange(100, dtype=np.int32),) * 2,
    )
    (nll,) = score(base, [long], choose_protocol(base))
    assert document_totals(long, nll).perplexity == pytest.approx(1, rel=1e-6)


def test_a_score_carries_the_size_of_its_text_in_tokens_bytes_and_words() -> None:
    document = Encoded(
        TextDocument("a.md", 0, "né  à\nRoma"),
        np.arange(4, dtype=np.int32),
        np.ones(4, bool),
        np.arange(4, dtype=np.int32),
    )
    assert document_totals(document, np.array([1.0, 2.0, 3.0, 0.5])) == Totals(6.5, 4, 12, 3)


def test_a_token_that_the_protocol_leaves_out_does_not_count() -> None:
    document = Encoded(TextDocument("a.md", 0, "one two"), *(np.arange(2, dtype=np.int32),) * 3)
    assert document_totals(document, np.array([math.nan, 2.0])) == Totals(2.0, 1, 7, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Boil the pasta in salted water.", 6),
        ("물을 끓이고 소금을 넣으세요.", 4),  # Korean has spaces
        ("水を沸かして塩を入れます。", None),
        ("把水烧开，然后加盐。", None),
        ("ต้มน้ำให้เดือดแล้วใส่เกลือ", None),
        ("ຕົ້ມນ້ຳໃຫ້ຟົດ", None),
        ("ရေကိုဆူအောင်တည်ပါ", None),
        ("ដាំទឹកឱ្យពុះ", None),
        ("ཆུ་བསྐོལ།", None),
        ("The sign 水 means water, 塩 salt.", 7),  # most letters are Latin
        ("12 + 30 = 42", 5),
        ("", 0),
    ],
)
def test_words_are_counted_only_where_most_letters_are_of_a_script_with_spaces(
    text: str, words: int | None
) -> None:
    assert count_words(text) == words


def test_a_text_has_a_word_count_if_each_of_its_documents_has() -> None:
    assert Totals(1.0, 2, 3, None) + Totals(1.0, 2, 3, 4) == Totals(2.0, 4, 6, None)
    assert Totals(1.0, 2, 3, None).word_perplexity is None
    assert Totals(math.log(8), 2, 3, 3).word_perplexity == pytest.approx(2)


def test_no_figure_overflows() -> None:
    assert Totals(710.0, 10, 3000, 1).word_perplexity is None  # one long word
    assert Totals(709.0, 10, 3000, 1).word_perplexity == pytest.approx(8.2e307, rel=0.01)
    hostile = Totals(8000.0, 10, 30, 5)
    assert hostile.perplexity == math.inf
    assert as_percent(800.0) == math.inf
    assert as_percent(-800.0) == -100


def test_totals_add_field_by_field() -> None:
    assert Totals(1.5, 2, 3, 4) + Totals(10.0, 20, 30, 40) == Totals(11.5, 22, 33, 44)


def test_the_perplexity_of_a_corpus_is_not_the_mean_of_its_documents() -> None:
    # one token at e^0 and three at e^2: exp(6 / 4), not (1 + e^2) / 2
    corpus = corpus_totals([Totals(0.0, 1, 1, 1), Totals(6.0, 3, 3, 1)])
    assert corpus.perplexity == pytest.approx(math.exp(1.5))
    assert corpus.nats_per_token == 1.5


def test_bits_per_byte_is_nats_over_bytes_and_ln_2() -> None:
    assert Totals(8 * math.log(2), 3, 4, 1).bits_per_byte == pytest.approx(2.0, rel=1e-15)


@given(st.floats(min_value=1e-3, max_value=8.0), SIZES, SIZES)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_bits_per_byte_and_perplexity_are_one_quantity(nats: float, tokens: int, size: int) -> None:
    totals = Totals(nats * tokens, tokens, size, 1)
    assert 2 ** (totals.bits_per_byte * size / tokens) == pytest.approx(totals.perplexity, rel=1e-12)


@given(st.floats(min_value=1e-3, max_value=8.0), SIZES, SIZES)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_word_perplexity_is_perplexity_to_the_power_of_tokens_a_word(
    nats: float, tokens: int, words: int
) -> None:
    totals = Totals(nats * tokens, tokens, 1, max(words, tokens // 50))
    found = totals.perplexity ** (totals.tokens / totals.words)
    assert totals.word_perplexity == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_shards_orders_and_batch_sizes_do_not_move_a_corpus(checkpoints: dict[str, Path], name: str) -> None:
    base = load_base(str(checkpoints[name]))
    base.model.double()  # float32 rounds by 1e-7 with the shape of a batch; here only our sums are meant
    protocol = choose_protocol(base)

    def nats(documents: list[Encoded], batch_tokens: int = 512) -> float:
        with batches_of(batch_tokens):
            found = score(base, documents, protocol)
        return corpus_totals(
            document_totals(d, nll) for d, nll in zip(documents, found, strict=True)
        ).nll_nats

    documents = encoded(base)
    whole = nats(documents)
    assert math.fsum(nats([document]) for document in documents) == pytest.approx(whole, rel=1e-9)
    assert nats(documents[:2]) + nats(documents[2:]) == pytest.approx(whole, rel=1e-9)
    for order in [*itertools.permutations(documents)][::5]:  # each document comes first, and each last
        assert nats(list(order)) == pytest.approx(whole, rel=1e-9)
    for batch_tokens in (1, 100, 4096):
        assert nats(documents, batch_tokens) == pytest.approx(whole, rel=1e-9)


def test_the_order_of_documents_does_not_move_a_corpus() -> None:
    parts = [Totals(nats, 1, 1, 1) for nats in (1e16, 1.0, -1e16, 0.1, 3e-9)]
    found = {corpus_totals(order).nll_nats for order in itertools.permutations(parts)}
    assert found == {1.1 + 3e-9}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_names_its_document(broken: float) -> None:
    document = Encoded(
        TextDocument("b.md", 7, "some text"),
        np.arange(2, dtype=np.int32),
        np.ones(2, bool),
        np.arange(2, dtype=np.int32),
    )
    with pytest.raises(NumbersGoneWrong, match=r"document b\.md#7") as failure:
        finite(np.array([1.0, broken]), document)
    assert failure.value.exit_code == 5


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_damaged_weights_are_noticed_at_the_document_that_meets_them(
    checkpoints: dict[str, Path], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    documents = encoded(base)
    elsewhere = np.concatenate([document.ids for document in documents[:2]])
    output = base.model.get_submodule(base.family.output)
    output.weight = torch.nn.Parameter(
        output.weight.clone(), requires_grad=False
    )  # untied: reading alone fails
    base.model.get_input_embeddings().weight[np.setdiff1d(documents[2].ids, elsewhere)] = math.nan
    assert all(np.isfinite(part).all() for part in score(base, documents[:2], choose_protocol(base)))
    with pytest.raises(NumbersGoneWrong, match=r"a\.md#2"):
        score(base, documents, choose_protocol(base))


def test_totals_are_saved_as_plain_numbers() -> None:
    totals = Totals(1.5, 2, 3, 4)
    assert totals.as_dict() == {"nll_nats": 1.5, "tokens": 2, "bytes": 3, "words": 4}
    assert Totals(**replace(totals, tokens=9).as_dict()) == Totals(1.5, 9, 3, 4)  # type: ignore[arg-type]
