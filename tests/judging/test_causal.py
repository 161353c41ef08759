"""The protocol `document`: every token once, with the longest context that the windows give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POSITIONS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft_toolkit.errors import FtError
from ft_toolkit.judging.causal import Cut, page, rolling, score_documents, score_stream, sliding
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.share import Share
from ft_toolkit.judging.totals import TokenNll
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.token_nll import TokenScorer
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument

BEGIN = 0


def nats(*arguments: Any, **how: Any) -> list[TokenNll]:
    """Of every token of each document, without the rest of its scores."""
    return [scored.nats for scored in score_documents(*arguments, **how)]


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> LanguageModel:
    return load_base(str(checkpoints["gpt2"]))


@pytest.fixture(scope="module")
def losses(base: LanguageModel) -> TokenScorer:
    return TokenScorer(base.model, base.family)


def document(tokens: int, seed: int = 0) -> Encoded:
    ids = np.random.default_rng([seed, tokens]).integers(5, 8192, tokens, dtype=np.int32)
    return Encoded(
        TextDocument("t.txt", seed, f"{seed} {tokens}"),
        ids,
        np.ones(tokens, dtype=bool),
        np.arange(tokens, dtype=np.int32),
    )


def maximal_context(base: LanguageModel, ids: np.ndarray, window: int) -> np.ndarray:
    """One token at a time, with as much before it as a window holds."""
    stream = [BEGIN, *ids.tolist()]
    found = []
    for place, target in enumerate(ids.tolist(), start=1):
        context = torch.tensor([stream[max(0, place - window) : place]])
        with torch.no_grad():
            logits = base.model(context, use_cache=False).logits[0, -1]
        found.append(-float(logits.log_softmax(-1)[target]))
    return np.array(found)


@given(
    st.lists(st.integers(min_value=1, max_value=90), min_size=1, max_size=4),
    st.integers(min_value=1, max_value=POSITIONS),
    st.integers(min_value=1, max_value=POSITIONS),
    st.sampled_from([1, 50, 4096]),
)
@example([1, 63, 64, 65, 128, 129], 64, 32, 4096)
@example([7, 8, 9, 16], 8, 8, 4096)  # windows that only touch
@settings(derandomize=True, deadline=None, max_examples=30)
def test_every_token_is_scored_exactly_once_for_any_window_and_stride(
    losses: TokenScorer, sizes: list[int], window: int, stride: int, batch_tokens: int
) -> None:
    documents = [document(size, seed) for seed, size in enumerate(sizes)]
    scored: list[int] = []
    nll = nats(
        losses,
        documents,
        BEGIN,
        sliding(window, min(stride, window)),
        batch_tokens=batch_tokens,
        share=Share(advance=scored.append),
    )
    assert [len(part) for part in nll] == sizes
    assert all(np.isfinite(part).all() for part in nll)  # none was left out
    assert sum(scored) == sum(sizes)  # so none was scored twice


@pytest.mark.parametrize("cut", [sliding, page])
@pytest.mark.parametrize("stride", [0, -1, 11, 64])
def test_a_stride_that_would_leave_a_gap_is_refused(cut: Callable[[int, int], Cut], stride: int) -> None:
    with pytest.raises(FtError, match="stride: expected 1 to 10, the window"):
        cut(10, stride)


@given(
    st.integers(min_value=1, max_value=400),
    st.integers(min_value=2, max_value=POSITIONS),
    st.integers(min_value=1, max_value=POSITIONS),
)
@settings(derandomize=True, deadline=None, max_examples=50)
def test_windows_of_one_long_text_score_no_token_twice_and_miss_none_but_where_they_only_touch(
    tokens: int, window: int, stride: int
) -> None:
    stride = min(stride, window)
    windows = page(window, stride)(tokens)
    scored = [place for w in windows for place in range(w.first_scored, w.stop)]
    missed = set(range(tokens)) - set(scored)
    assert len(scored) == len(set(scored))
    assert missed == (set(range(window - 1, tokens, window)) if stride == window else set())
    assert all(w.start <= w.first_scored <= w.stop <= w.start + window - 1 for w in windows)


@pytest.mark.parametrize("tokens", [1, 30, POSITIONS - 1, POSITIONS])
def test_a_document_that_fits_a_window_does_not_know_the_stride(losses: TokenScorer, tokens: int) -> None:
    found = [
        nats(losses, [document(tokens)], BEGIN, sliding(POSITIONS, stride))[0]
        for stride in (1, 17, 32, POSITIONS)
    ]
    assert all(np.array_equal(part, found[0]) for part in found[1:])


def test_a_longer_document_does_know_the_stride(losses: TokenScorer) -> None:
    found = [nats(losses, [document(150)], BEGIN, sliding(POSITIONS, stride))[0] for stride in (16, 64)]
    assert np.array_equal(found[0][:POSITIONS], found[1][:POSITIONS])
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_neighbours_and_order_do_not_move_a_document(losses: TokenScorer, batch_tokens: int) -> None:
    documents = [document(size, seed) for seed, size in enumerate([3, 150, 64, 1, 40, 65, 40])]
    alone = [nats(losses, [one], BEGIN, sliding(POSITIONS, 32))[0] for one in documents]
    together = nats(losses, documents, BEGIN, sliding(POSITIONS, 32), batch_tokens=batch_tokens)
    turned = nats(losses, documents[::-1], BEGIN, sliding(POSITIONS, 32), batch_tokens=batch_tokens)[::-1]
    for one, among, among_turned in zip(alone, together, turned, strict=True):
        np.testing.assert_allclose(among, one, atol=1e-5, rtol=0)
        np.testing.assert_allclose(among_turned, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("window", "tokens"), [(8, 30), (1, 5), (POSITIONS, 80)])
def test_stride_one_gives_every_token_all_the_context_that_fits(
    base: LanguageModel, losses: TokenScorer, window: int, tokens: int
) -> None:
    one = document(tokens)
    found = nats(losses, [one], BEGIN, sliding(window, 1))[0]
    np.testing.assert_allclose(found, maximal_context(base, one.ids, window), atol=1e-5, rtol=0)


def test_windows_that_only_touch_begin_each_with_one_token_of_context(
    base: LanguageModel, losses: TokenScorer
) -> None:
    one = document(20)
    found = nats(losses, [one], BEGIN, sliding(10, 10))[0]
    first = nats(losses, [document_of(one.ids[:10])], BEGIN, sliding(10, 10))[0]
    # the second window reads token 9 where the first one read the token that begins a text
    second = nats(losses, [document_of(one.ids[10:])], int(one.ids[9]), sliding(10, 10))[0]
    np.testing.assert_allclose(found, np.concatenate([first, second]), atol=1e-5, rtol=0)


def document_of(ids: np.ndarray) -> Encoded:
    return Encoded(
        TextDocument("t.txt", 0, "piece"),
        ids,
        np.ones(len(ids), dtype=bool),
        np.arange(len(ids), dtype=np.int32),
    )


def test_the_default_is_the_whole_window_and_half_of_it_as_stride(
    base: LanguageModel, losses: TokenScorer
) -> None:
    protocol = choose_protocol(base)
    assert (protocol.name, protocol.metric) == ("document", "perplexity")
    assert (protocol.window_tokens, protocol.stride_tokens) == (POSITIONS, POSITIONS // 2)
    one = document(150)
    assert np.array_equal(
        score(base, [one], protocol)[0],
        nats(losses, [one], BEGIN, sliding(POSITIONS, 32))[0],
    )


def test_without_a_token_that_begins_a_text_the_first_one_is_context_and_not_scored(
    losses: TokenScorer,
) -> None:
    one = document(100)
    found = nats(losses, [one], None, sliding(POSITIONS, 32))[0]
    rest = nats(losses, [document_of(one.ids[1:])], int(one.ids[0]), sliding(POSITIONS, 32))[0]
    assert np.isnan(found[0])
    assert np.array_equal(found[1:], rest)


@given(st.integers(min_value=1, max_value=400), st.integers(min_value=1, max_value=POSITIONS))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_rolling_windows_are_full_and_score_each_token_once(tokens: int, window: int) -> None:
    windows = rolling(window)(tokens)
    assert [place for w in windows for place in range(w.first_scored, w.stop)] == list(range(tokens))
    assert all(w.stop - w.start == min(window, tokens) for w in windows)
    assert all(w.start <= w.first_scored for w in windows)


def test_rolling_is_document_for_a_text_that_fits(base: LanguageModel, losses: TokenScorer) -> None:
    one = [document(50)]
    names = ("document", "rolling")
    found = [score(base, one, choose_protocol(base, name))[0] for name in names]
    assert np.array_equal(*found)


def hugging_face_page(base: LanguageModel, stream: np.ndarray, window: int, stride: int) -> float:
    """The loop of the page, on its own terms: a window's labels, all but the new ones hidden."""
    total, before = 0.0, 0
    for begin in range(0, len(stream), stride):
        end = min(begin + window, len(stream))
        ids = torch.tensor(stream[begin:end].astype(np.int64))[None]
        labels = ids.clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = base.model(ids, labels=labels).loss
        total += float(loss) * int((labels[:, 1:] != -100).sum())
        before = end
        if end == len(stream):
            break
    return total


@pytest.mark.parametrize(("window", "stride"), [(POSITIONS, 32), (POSITIONS, POSITIONS), (20, 7)])
def test_concatenated_is_what_the_hugging_face_page_computes(
    base: LanguageModel, losses: TokenScorer, window: int, stride: int
) -> None:
    documents = [document(size, seed) for seed, size in enumerate([30, 100, 7, 55])]
    found = [each.nats for each in score_stream(losses, documents, window, stride)]
    assert [len(part) for part in found] == [30, 100, 7, 55]
    assert np.isnan(found[0][0])
    unscored = 1 if stride < window else -(-192 // window)  # where windows only touch, the first of each
    assert sum(int(np.isnan(part).sum()) for part in found) == unscored
    expected = hugging_face_page(base, np.concatenate([d.ids for d in documents]), window, stride)
    assert np.nansum(np.concatenate(found)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"name": "pll"}, "one of document, rolling, concatenated"),
        ({"window": POSITIONS + 1}, "3 to 64 tokens"),
        ({"window": 10, "stride": 11}, "1 to 10, the window"),
        ({"name": "rolling", "stride": 3}, "overlapping windows"),
    ],
)
def test_a_protocol_that_does_not_fit_is_refused(
    base: LanguageModel, how: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(FtError, match=wanted):
        choose_protocol(base, **how)
