"""The token map: every character of a passage in its place, every token with its own two figures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ft_toolkit import shipped
from ft_toolkit.judging.token_scores import CorpusScores, DocumentScores, Side
from ft_toolkit.judging.vocabulary import Vocabulary
from ft_toolkit.reporting.passages import PASSAGE_TOKENS, PASSAGES, token_map

TEXT = "Peel the  garlic.\n\nÀ point: 🦉🧄 한글\u00a0x \tend "


def scored(tokenizer: Tokenizer, text: str, name: str, gain: float) -> DocumentScores:
    """A document whose n-th token takes n / 10 nats under the base, and `gain` fewer when tuned."""
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)
    nats = np.arange(len(ids)) / 10 + 1
    nats[0] = math.nan  # a protocol may leave a token out
    bits = np.arange(len(ids), dtype=np.int8)
    fresh = np.ones(len(ids), dtype=np.bool_)
    sides = [Side(ids, fresh, each, np.zeros(len(ids), dtype=np.bool_), bits) for each in (nats, nats - gain)]
    return DocumentScores(name, 0, len(text.encode()), None, *sides)


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_file(str(Path(shipped.starter(request.param)) / "tokenizer.json"))


def test_the_pieces_are_the_text_and_their_nats_are_its_tokens(tokenizer: Tokenizer) -> None:
    document = scored(tokenizer, TEXT, "a", 0.8)
    corpus = CorpusScores("c", "held-out", [document], 1.0, 0.0)
    found = token_map(corpus, Vocabulary(tokenizer), {"a": TEXT}, {"a": "A"})
    assert found is not None
    (passage,) = found.passages
    text = "".join(piece.blank + piece.text for piece in passage.pieces)
    assert TEXT.startswith(text) and TEXT[len(text) :].strip() == ""
    base = math.fsum(piece.base_nats for piece in passage.pieces if piece.base_nats is not None)
    assert base == pytest.approx(np.nansum(document.base.nats))  # bytes of one emoji add up
    first = next(piece for piece in passage.pieces if piece.text.strip())
    assert first.base_nats is None and first.shade == 0  # it was not scored
    plain = [piece for piece in passage.pieces if piece.base_nats is not None and piece.gain < 1]
    assert {piece.shade for piece in plain} == {2}  # 0.8 nats: more than twice as likely
    assert passage.name == "A" and found.knows_rare


def test_shades_go_by_how_many_times_as_likely_a_token_is(tokenizer: Tokenizer) -> None:
    shades = {}
    for times in (1.1, 1.3, 2.1, 5, 20, 1 / 1.3, 1 / 20):
        document = scored(tokenizer, "one two three", "a", math.log(times))
        corpus = CorpusScores("c", "held-out", [document], 1.0, 0.0)
        found = token_map(corpus, Vocabulary(tokenizer), {"a": "one two three"}, {"a": "A"})
        assert found is not None
        shades[times] = found.passages[0].pieces[-1].shade
    assert list(shades.values()) == [0, 1, 2, 3, 4, -1, -4]


def test_of_many_long_documents_a_few_beginnings_are_shown_from_most_gained_to_most_lost(
    tokenizer: Tokenizer,
) -> None:
    text = "one two " * PASSAGE_TOKENS
    documents = [scored(tokenizer, text, f"{n}", (n - 100) / 100) for n in range(200)]
    texts = {f"{n}": text for n in range(200)}
    corpus = CorpusScores("c", "held-out", documents, 1.0, 0.0)
    found = token_map(corpus, Vocabulary(tokenizer), texts, texts | {"199": "best", "0": "worst"})
    assert found is not None and found.documents == 200 and len(found.passages) == PASSAGES
    assert (found.passages[0].name, found.passages[-1].name) == ("best", "worst")
    assert all(len(passage.pieces) <= 2 * PASSAGE_TOKENS for passage in found.passages)
    gains = [piece.gain for passage in found.passages for piece in passage.pieces if piece.is_gained]
    assert min(gains) >= max(p.gain for one in found.passages for p in one.pieces if not p.is_gained)


def test_a_text_that_is_not_what_was_scored_is_not_shown(tokenizer: Tokenizer) -> None:
    corpus = CorpusScores("c", "held-out", [scored(tokenizer, "one two", "a", 1.0)], 1.0, 0.0)
    assert token_map(corpus, Vocabulary(tokenizer), {"a": "another text"}, {"a": "A"}) is None
    assert token_map(corpus, Vocabulary(tokenizer), {}, {}) is None
