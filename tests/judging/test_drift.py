"""Drift: exactly zero for a model that is its base, exact elsewhere, and kept with a run's scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from sessions import quiet_session

from ft_toolkit.judging import drift, samples
from ft_toolkit.judging.comparison import Comparison, compare
from ft_toolkit.judging.drift import score_divergence, score_drift
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.judging.verdict import judge
from ft_toolkit.models.adapters import trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair, new_pair
from ft_toolkit.models.tokenizers import train_tokenizer, with_fresh_weights
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Judging
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument

PLAN, NOTHING = Judging(), Judging(general=None)
MakePair = Callable[..., ModelPair]


@pytest.fixture(scope="module")
def documents(small_corpus: Path) -> list[Document]:
    return [
        TextDocument(d.source, d.row, d.text[:150]) for d in read_source(str(small_corpus)).documents[:10]
    ]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SAMPLES", 10)
    monkeypatch.setattr(drift, "SAMPLE_TOKENS", 12)


@pytest.fixture(scope="module")
def pair_of(checkpoints: dict[str, Path]) -> MakePair:
    def make(family: str, method: str = "lora", push: float = 0.05) -> ModelPair:
        pair = new_pair(load_base(str(checkpoints[family])), Adapter(method=method), seed=0)  # type: ignore[arg-type]
        draw = torch.Generator().manual_seed(1)
        for parameter in trainable(pair.tuned.model).values():
            parameter.data += push * torch.randn(parameter.shape, generator=draw)
        return pair

    return make


def scorer_of(pair: ModelPair, protocol: str = "auto", cache: Path | None = None, **how: int) -> Scorer:
    return Scorer(pair, choose_protocol(pair.base, protocol, **how), quiet_session(cache))


def nats_of(scored: CorpusScores) -> NDArray[np.float64]:
    return np.concatenate([one.adapter.nats for one in scored.documents])


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_adapter_that_changes_nothing_drifts_by_exactly_nothing(
    pair_of: MakePair, documents: list[Document], family: str
) -> None:
    scorer = scorer_of(pair_of(family, push=0.0))
    corpora = [
        score_both(scorer, Text("texts", "other", documents)),
        *score_divergence(scorer, "texts", documents, keeps_ids=True),
        *score_drift(scorer, PLAN, documents),
    ]
    found = compare(TokenScores(scorer.subject("run"), corpora))
    for divergence in (found.drift, found.corpora[0].divergence):
        assert divergence is not None and divergence.documents == 10
        kl_nats, same = divergence.kl_nats, divergence.same_top1
        assert (kl_nats.value, kl_nats.low, kl_nats.high) == (0.0, 0.0, 0.0)
        assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    change = found.corpora[0].true_token
    assert change is not None and change.mean.value == 0.0
    assert {each.value for each in change.percentiles.values()} == {0.0}
    assert judge(found).drifted == "not at all"


def log_shares(pair: ModelPair, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 log-probabilities (T, V) of base and tuned at each place, by the libraries' own forward."""
    rows = torch.tensor([ids])
    more = {"use_cache": False} if pair.base.family.objective == "causal" else {}
    model = pair.tuned.model
    with torch.no_grad():
        tuned = model(input_ids=rows, **more).logits[0]
        if isinstance(model, PeftModel):
            with model.disable_adapter():
                base = model(input_ids=rows, **more).logits[0]
        else:
            base = pair.base.model(input_ids=rows, **more).logits[0]
    return base.double().log_softmax(-1), tuned.double().log_softmax(-1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_drift_of_a_causal_model_is_the_divergence_of_both_predictions_at_each_place_of_its_samples(
    pair_of: MakePair, method: str
) -> None:
    pair = pair_of("gpt2", method)
    (scored,) = score_drift(scorer_of(pair), NOTHING, [])
    assert (scored.kind, len(scored.documents)) == ("drift", 10)
    expected: list[float] = []
    same: list[bool] = []
    for one in scored.documents:
        assert one.base.ids is not None
        stream = [pair.base.special.begin or 0, *one.base.ids.tolist()]
        base, tuned = log_shares(pair, stream[:-1])
        expected += (base.exp() * (base - tuned)).sum(-1).tolist()
        same += (base.argmax(-1) == tuned.argmax(-1)).tolist()
    assert np.mean(expected) > 0.01
    np.testing.assert_allclose(nats_of(scored), expected, atol=1e-5)
    assert np.concatenate([one.adapter.is_top1 for one in scored.documents]).tolist() == same
    assert not all(same)


def test_drift_of_a_masked_model_is_the_divergence_where_a_seventh_of_general_text_is_hidden(
    pair_of: MakePair, documents: list[Document]
) -> None:
    pair = pair_of("bert")
    (scored,) = score_drift(scorer_of(pair), PLAN, documents[:4])
    assert scored.corpus == "general-probe"  # by its name in the recipe
    assert 0.12 < scored.scored_fraction < 0.2
    for one in scored.documents:
        assert one.base.ids is not None
        ids, asked = one.base.ids, np.flatnonzero(~np.isnan(one.adapter.nats))
        if len(ids) + 2 > pair.base.positions:
            continue  # read in two windows
        row = np.array([pair.base.special.begin, *ids, pair.base.special.end])
        row[asked + 1] = pair.base.special.mask
        base, tuned = (each[asked + 1] for each in log_shares(pair, row.tolist()))
        expected = (base.exp() * (base - tuned)).sum(-1)
        np.testing.assert_allclose(one.adapter.nats[asked], expected, atol=1e-5)
        assert one.adapter.is_top1[asked].tolist() == (base.argmax(-1) == tuned.argmax(-1)).tolist()
    assert nats_of(scored)[~np.isnan(nats_of(scored))].mean() > 0.01


def test_drift_is_on_average_what_the_base_finds_likelier_in_its_own_text(
    pair_of: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "SAMPLES", 500)
    pair = pair_of("gpt2", push=0.03)
    scorer = scorer_of(pair)
    (scored,) = score_drift(scorer, NOTHING, [])
    samples = drift._as_documents(
        pair, [one.base.ids for one in scored.documents if one.base.ids is not None]
    )
    tuned = score(pair.tuned, samples, scorer.protocol)
    with pair.base_side() as base:
        plain = score(base, samples, scorer.protocol)
    log_ratios = np.array([(t - b).sum() for t, b in zip(tuned, plain, strict=True)])
    kl_nats = np.array([one.adapter.nats.sum() for one in scored.documents])
    error = (log_ratios - kl_nats).std() / np.sqrt(500)
    assert abs(log_ratios.mean() - kl_nats.mean()) < 4 * error
    assert kl_nats.mean() > 5 * error and kl_nats.std() < log_ratios.std()


def test_samples_are_drawn_once_for_a_base_and_read_again_for_its_next_adapter(
    pair_of: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "scores.sqlite"
    (first,) = score_drift(scorer_of(pair_of("gpt2"), cache=cache), NOTHING, [])
    (alone,) = score_drift(scorer_of(pair_of("gpt2")), NOTHING, [])
    monkeypatch.setattr(samples, "sample_ids", None)  # whoever draws again fails
    scorer = scorer_of(pair_of("gpt2"), cache=cache)
    scorer.session.screen.log_to(tmp_path / "run.log")
    (again,) = score_drift(scorer, NOTHING, [])
    stages = [line.split()[0] for line in (tmp_path / "run.log").read_text().splitlines()]
    assert stages == ["drift"]  # no line of a stage that did nothing
    for other in (again, alone):
        assert np.array_equal(nats_of(first), nats_of(other))
    (further,) = score_drift(scorer_of(pair_of("gpt2", push=0.1), cache=cache), NOTHING, [])
    assert nats_of(further).mean() > nats_of(first).mean()
    for one, same in zip(first.documents, further.documents, strict=True):
        assert one.id == same.id and np.array_equal(one.base.ids, same.base.ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "protocol", "how"),
    [("gpt2", "rolling", {"window": 8}), ("gpt2", "concatenated", {}), ("bert", "pll", {})],
)
def test_drift_does_not_hang_on_the_protocol_that_texts_are_judged_by(
    pair_of: MakePair, documents: list[Document], family: str, protocol: str, how: dict[str, int]
) -> None:
    found = [
        nats_of(score_drift(scorer, PLAN, documents[:3])[0])
        for scorer in (scorer_of(pair_of(family)), scorer_of(pair_of(family), protocol, **how))
    ]
    assert np.array_equal(*found, equal_nan=True)


def test_where_nothing_can_be_compared_there_is_no_drift(
    pair_of: MakePair, checkpoints: dict[str, Path], documents: list[Document]
) -> None:
    assert score_drift(scorer_of(pair_of("bert")), NOTHING, []) == []
    base = load_base(str(checkpoints["gpt2"]))
    learner = with_fresh_weights(base, train_tokenizer(base, [d.text for d in documents]))
    scorer = scorer_of(ModelPair(base, learner))
    assert scorer.pair.own_tokenizer_sha256 is not None
    assert score_drift(scorer, PLAN, documents) == []
    assert score_divergence(scorer, "texts", documents, keeps_ids=True) == []
    other = score_both(scorer, Text("texts", "other", documents))
    found = compare(TokenScores(scorer.subject("run"), [other]))
    assert (found.drift, found.corpora[0].divergence, found.corpora[0].true_token) == (None, None, None)
    assert judge(found).drifted == "not measured"


def test_texts_of_a_single_token_behind_which_nothing_is_predicted_have_no_divergence(
    pair_of: MakePair,
) -> None:
    pair = pair_of("openai-gpt")  # no begin token
    texts = [TextDocument("t.md", row, letter) for row, letter in enumerate("abc")]
    assert {len(one.ids) for one in encode(texts, pair.base.tokenizer)} == {1}
    assert score_divergence(scorer_of(pair), "texts", texts, keeps_ids=True) == []
    (scored,) = score_drift(scorer_of(pair), NOTHING, [])
    assert all(np.isnan(one.adapter.nats[0]) for one in scored.documents)
    assert np.nansum(nats_of(scored)) > 0


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_drift_is_kept_with_the_scores_and_read_back_bit_by_bit(
    pair_of: MakePair, documents: list[Document], tmp_path: Path, family: str
) -> None:
    scorer = scorer_of(pair_of(family))
    judged = score_both(scorer, Text("texts", "held-out", documents))
    more = [
        *score_drift(scorer, PLAN, documents),
        *score_divergence(scorer, "texts", documents, keeps_ids=False),
    ]
    before = TokenScores(scorer.subject("run"), [judged, *more])
    before.write(Run(tmp_path))
    after = compare(TokenScores.read(Run(tmp_path)))
    assert after == compare(before) and after.drift is not None
    assert after.drift.kl_nats.value > 0 and after.corpora[0].divergence is not None
    without = compare(TokenScores(scorer.subject("run"), [judged]))
    assert after.corpora[0].difference == without.corpora[0].difference
    assert [corpus.kind for corpus in after.corpora] == ["held-out"]
    assert Comparison.from_dict(after.as_dict()) == after
