"""Where it learnt: bands that add up to the whole, and the few tokens that a gain may hang on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from sessions import quiet_session
from tokenizers import Tokenizer

from ft_toolkit import shipped
from ft_toolkit.judging.audit import influence_lines
from ft_toolkit.judging.bands import COUNT_NAMES, POSITION_NAMES, Band, bands, corpus_bands
from ft_toolkit.judging.frequency import count_bits, training_counts
from ft_toolkit.judging.protocols import Protocol, choose_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both, score_parts
from ft_toolkit.judging.token_scores import (
    TOKENS,
    CorpusScores,
    DocumentScores,
    Side,
    Subject,
    TokenScores,
)
from ft_toolkit.judging.vocabulary import KINDS, Vocabulary
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.tokenizers import train_tokenizer, with_fresh_weights
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import Parts

NEWLINE = 11  # some ids of a made-up vocabulary


def vocabulary(name: str) -> Vocabulary:
    return Vocabulary(Tokenizer.from_file(str(shipped.starter(name) / "tokenizer.json")))


@pytest.fixture(scope="module")
def documents(small_corpus: Path) -> list[Document]:
    texts = [document.text for document in read_source(str(small_corpus)).documents[:20]]
    return [TextDocument("t.md", row, text[:150] + text[-250:]) for row, text in enumerate(texts)]


def scorer_of(base_folder: Path) -> Scorer:
    base = load_base(str(base_folder))
    model = attach_adapter(base, Adapter(), seed=0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data.fill_(0.02)
    return Scorer(ModelPair(base, base.with_model(model)), choose_protocol(base), quiet_session())


def recipe_of(base_folder: Path, *, keep_text: bool = True) -> Recipe:
    judging = {"general": None, "keep_text": keep_text}
    values = {"name": "t", "base": str(base_folder), "corpus": {"source": "t"}, "judging": judging}
    return Recipe.model_validate(values)


def judged(folder: Path, documents: list[Document], *, keep_text: bool = True) -> TokenScores:
    scorer, parts = scorer_of(folder), Parts(documents[10:], [], documents[:10])
    corpora = score_parts(scorer, recipe_of(folder, keep_text=keep_text), parts)
    return TokenScores(scorer.subject("run"), corpora)


# --- the bands add up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_bands_of_every_division_add_up_to_the_whole(
    family: str, checkpoints: dict[str, Path], documents: list[Document]
) -> None:
    scores = judged(checkpoints[family], documents)
    (found,) = bands(scores, vocabulary(family))
    base, tuned = scores.corpora[0].base, scores.corpora[0].adapter
    gain = math.fsum(each.nll_nats for each in base) - math.fsum(each.nll_nats for each in tuned)
    assert found.whole.tokens == sum(each.tokens for each in base)
    assert found.whole.gain_nats == pytest.approx(gain, abs=1e-9)
    assert abs(gain) > 1
    assert found.frequency is not None and found.token_kind is not None
    for division in (found.frequency, found.position, found.token_kind):
        assert len(division) >= 3
        assert sum(band.tokens for band in division) == found.whole.tokens
        assert math.fsum(band.gain_nats for band in division) == pytest.approx(gain, abs=1e-9)
        for band in division:
            assert band.difference.nats_per_token * band.tokens == pytest.approx(-band.gain_nats)


def test_a_sample_of_a_masked_text_adds_up_as_well(
    checkpoints: dict[str, Path], documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_toolkit.judging.protocols.EXACT_TOKENS", 300)
    scores = judged(checkpoints["bert"], documents)
    (found,) = bands(scores, vocabulary("bert"))
    assert scores.corpora[0].scored_fraction < 0.5
    assert found.frequency is not None and found.token_kind is not None
    for division in (found.frequency, found.position, found.token_kind):
        total = math.fsum(band.gain_nats for band in division)
        assert total == pytest.approx(found.whole.gain_nats, abs=1e-9)


def test_a_model_that_reads_other_tokens_than_its_base_has_no_bands(
    checkpoints: dict[str, Path], documents: list[Document]
) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    own = with_fresh_weights(base, train_tokenizer(base, [document.text for document in documents]))
    scorer = Scorer(ModelPair(base, own), choose_protocol(base), quiet_session())
    parts = Parts(documents[10:], [], documents[:10])
    corpora = score_parts(scorer, recipe_of(checkpoints["gpt2"]), parts)
    assert corpora[0].documents[0].base.train_count_bits is not None
    assert corpora[0].documents[0].adapter.train_count_bits is None
    assert bands(TokenScores(scorer.subject("run"), corpora), None) == []


# --- frequency ----------------------------------------------------------------------------------------


def test_a_count_is_kept_as_its_bit_length() -> None:
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 63, 64, 511, 512, 10**6])
    ids = np.arange(13, dtype=np.int32)  # the last one is beyond the vocabulary that was counted
    expected = [int(count).bit_length() for count in counts] + [0]
    assert count_bits(counts, ids).tolist() == expected


@pytest.mark.parametrize("keep_text", [True, False])
def test_frequency_is_that_in_the_training_text_also_where_no_text_is_kept(
    keep_text: bool, checkpoints: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    judged(checkpoints["gpt2"], documents, keep_text=keep_text).write(Run(tmp_path))
    scores = TokenScores.read(Run(tmp_path))
    tokenizer = load_base(str(checkpoints["gpt2"])).tokenizer
    counted = Counter(id for document in documents[10:] for id in tokenizer(document.text)["input_ids"])
    expected = dict.fromkeys(COUNT_NAMES, 0)
    for document in documents[:10]:
        for id in tokenizer(document.text)["input_ids"]:
            edge = sum(counted[id] >= least for least in (1, 8, 64, 512))
            expected[COUNT_NAMES[edge]] += 1
    (found,) = bands(scores, vocabulary("gpt2"))
    assert found.counted_in == "the training text" and found.frequency is not None
    assert {band.name: band.tokens for band in found.frequency} == {k: n for k, n in expected.items() if n}
    assert (found.token_kind is not None) == keep_text
    assert (found.gained_most is not None) == keep_text


def test_scores_of_an_older_release_are_read_and_counted_in_their_own_text(
    checkpoints: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    before = judged(checkpoints["gpt2"], documents)
    before.write(Run(tmp_path))
    table = parquet.read_table(tmp_path / TOKENS)
    parquet.write_table(table.drop_columns(["train_count_bits"]), tmp_path / TOKENS, write_page_checksum=True)
    after = TokenScores.read(Run(tmp_path))
    assert after.corpora[0].totals() == before.corpora[0].totals()
    (found,) = bands(after, None)
    assert found.counted_in == "this text itself" and found.frequency is not None
    assert "never" not in {band.name for band in found.frequency}
    assert math.fsum(band.gain_nats for band in found.frequency) == pytest.approx(found.whole.gain_nats)


def test_of_a_large_training_text_whole_documents_are_counted_whatever_their_order(
    checkpoints: dict[str, Path], documents: list[Document]
) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    whole = training_counts(base, documents)
    some, turned = (training_counts(base, texts, 1000) for texts in (documents, documents[::-1]))
    assert whole is not None and some is not None and turned is not None
    assert (some == turned).all() and 0 < some.sum() < whole.sum() / 4
    assert training_counts(base, []) is None


# --- made-up texts ------------------------------------------------------------------------------------


def made_up(gains: np.ndarray, ids: np.ndarray) -> TokenScores:
    """Documents, a row each, of which the tokens gained so many nats; general text of the same."""
    groups = []
    for number, (gain, row) in enumerate(zip(gains, ids, strict=True)):
        fresh = np.ones(len(row), dtype=np.bool_)
        base = Side(row.astype(np.int32), fresh, np.full(len(row), 5.0), fresh)
        groups.append(DocumentScores(f"{number}", number, 99, 20, base, replace(base, nats=5.0 - gain)))
    subject = Subject("run", "base", "", None, True, Protocol("document", 64))
    return TokenScores(subject, [CorpusScores("made-up", "held-out", groups, 1.0, 0.0)])


@pytest.fixture
def texts() -> tuple[np.ndarray, np.ndarray]:
    """(noise around no gain, ids) of 40 documents of 60 tokens, every sixth of them a newline."""
    random = np.random.default_rng(0)
    ids = random.integers(100, 1100, (40, 60))
    ids[:, ::6] = NEWLINE
    return random.normal(0, 0.3, ids.shape), ids


def only(scores: TokenScores) -> tuple[Band, list[str]]:
    (found,) = bands(scores, None)
    return found.whole, influence_lines([(found, found.influence)])


def test_a_gain_that_hangs_on_a_handful_of_tokens_says_so(texts: tuple[np.ndarray, np.ndarray]) -> None:
    noise, ids = texts
    whole, said = only(made_up(noise + 3.0 * (ids == NEWLINE), ids))
    assert whole.difference.nats_per_token == pytest.approx(-0.5, abs=0.05)
    assert len(said) == 1
    assert said[0].startswith("held-out text: ten token types make more than half of the gain, 'token 11',")


def test_a_loss_that_a_handful_of_tokens_hides_is_told(texts: tuple[np.ndarray, np.ndarray]) -> None:
    noise, ids = texts
    whole, said = only(made_up(noise + np.where(ids == NEWLINE, 2.5, -0.5), ids))
    assert abs(whole.difference.nats_per_token) < 0.05
    assert said[0].startswith("held-out text: ten token types hide a loss, 'token 11',")
    assert "; without them +6" in said[0]


def test_a_gain_of_all_words_alike_hangs_on_none(texts: tuple[np.ndarray, np.ndarray]) -> None:
    noise, ids = texts
    assert only(made_up(noise + 0.5, ids))[1] == []
    assert only(made_up(noise - 0.5, ids))[1] == []
    assert only(made_up(noise * 0, ids))[1] == []


def test_the_types_that_gained_and_lost_most_are_counted_and_summed(
    texts: tuple[np.ndarray, np.ndarray],
) -> None:
    _, ids = texts
    ids[:, 1] = 50
    gains = np.where(ids == NEWLINE, 1.0, 0.0) + np.where(ids == 50, -2.0, 0.0)
    (found,) = bands(made_up(gains, ids), None)
    assert found.gained_most is not None and found.lost_most is not None
    assert [(one.text, one.count, one.gain_nats) for one in found.gained_most] == [("token 11", 400, 400.0)]
    assert [(one.text, one.count, one.gain_nats) for one in found.lost_most] == [("token 50", 40, -80.0)]


def test_positions_count_from_one_and_a_band_ends_at_its_last(texts: tuple[np.ndarray, np.ndarray]) -> None:
    _, ids = texts
    gains = np.zeros(ids.shape)
    gains[:, 15], gains[:, 16] = 1.0, 3.0
    (found,) = bands(made_up(gains, ids), None)
    assert [(band.name, band.tokens, band.gain_nats) for band in found.position] == [
        (POSITION_NAMES[0], 640, 40.0),
        (POSITION_NAMES[1], 40 * 44, 120.0),
    ]


def test_control_characters_of_a_text_reach_no_terminal(checkpoints: dict[str, Path]) -> None:
    texts = [TextDocument("t", n, f"\x1b[2J{n} soup " * 9) for n in range(9)]
    scorer = scorer_of(checkpoints["gpt2"])
    found = corpus_bands(score_both(scorer, Text("t", "other", texts)), vocabulary("gpt2"))
    assert found.influence is not None
    said = influence_lines([(found, replace(found.influence, hides_loss=True))])
    assert "\\x1b" in said[0] and "\x1b" not in said[0]
    assert {band.name for band in found.token_kind or ()} <= set(KINDS)
