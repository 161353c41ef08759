"""Kept base scores on real tiny models: never another number than scoring anew gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sessions import quiet_session
from transformers import AutoConfig, AutoModelForCausalLM

from ft_toolkit.judging.comparison import compare
from ft_toolkit.judging.protocols import choose_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.store import Store
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.models.adapters import attach_adapter
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.progress import Screen
from ft_toolkit.sections import Adapter
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument


class Kept(Screen):
    """A score cache, and a screen that remembers what was said of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.score_cache = folder / "scores.sqlite"

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.fixture(scope="module")
def documents(small_corpus: Path) -> list[Document]:
    return [
        TextDocument(d.source, d.row, d.text[:120]) for d in read_source(str(small_corpus)).documents[:12]
    ]


def scored(
    place: Path, protocol: str, documents: list[Document], kept: Kept | None, **how: Any
) -> tuple[Scorer, CorpusScores]:
    """Base and an adapter that changes nothing: B = 0."""
    base = load_base(str(place))
    model = attach_adapter(base, Adapter(), seed=0)
    pair = ModelPair(base, base.with_model(model))
    session = quiet_session(kept.score_cache, kept) if kept else quiet_session()
    scorer = Scorer(pair, choose_protocol(base, protocol, **how), session)
    return scorer, score_both(scorer, Text("texts", "other", documents))


@pytest.mark.parametrize(
    ("family", "protocol"),
    [("gpt2", "document"), ("gpt2", "rolling"), ("gpt2", "concatenated"), ("openai-gpt", "document"),
     ("bert", "word-l2r"), ("bert", "covering")],
)  # fmt: skip
def test_an_adapter_that_changes_nothing_is_no_difference_after_a_file_was_added_or_moved(
    checkpoints: dict[str, Path], documents: list[Document], kept: Kept, family: str, protocol: str
) -> None:
    place = checkpoints[family]
    orders = {
        "first": documents[:10],
        "one more": [documents[10], *documents[:10]],
        "moved": [*documents[5:10], *documents[:5]],
    }
    for order, some in orders.items():
        scorer, found = scored(place, protocol, some, kept)
        difference = compare(TokenScores(scorer.subject("run"), [found])).corpora[0].difference
        assert (difference.nats_per_token, difference.low, difference.high) == (0.0, 0.0, 0.0), order
        assert found.base == scored(place, protocol, some, None)[1].base, order
    assert kept.said == []


def changed(place: Path, folder: Path, **config: Any) -> Path:
    """The same weights under another config.json."""
    shutil.copytree(place, folder)
    AutoConfig.from_pretrained(place, **config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "config"),
    [("openai-gpt", {"layer_norm_epsilon": 0.3}), ("gpt2", {"n_head": 4})],
)
def test_a_base_of_the_same_weights_and_another_config_shares_no_scores(
    checkpoints: dict[str, Path],
    documents: list[Document],
    kept: Kept,
    tmp_path: Path,
    family: str,
    config: Any,
) -> None:
    place = checkpoints[family]
    other = changed(place, tmp_path / "other", **config)
    first = scored(place, "document", documents, kept)[1].base
    second = scored(other, "document", documents, kept)[1].base
    assert second == scored(other, "document", documents, None)[1].base
    assert abs(sum(t.nll_nats for t in first) - sum(t.nll_nats for t in second)) > 1
    assert kept.said == []


def test_the_first_token_that_a_text_is_read_after_is_part_of_the_key(
    checkpoints: dict[str, Path], documents: list[Document], kept: Kept, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoints["gpt2"], other)
    written = (other / "tokenizer_config.json").read_text()
    (other / "tokenizer_config.json").write_text(written.replace('"<|endoftext|>"', '"!"'))
    scored(checkpoints["gpt2"], "document", documents, kept)
    scorer, found = scored(other, "document", documents, kept)
    base = scorer.pair.base
    assert base.special.begin == base.tokenizer.convert_tokens_to_ids("!")
    assert found.base == scored(other, "document", documents, None)[1].base
    assert kept.said == []


def test_a_sample_of_a_masked_model_is_really_compared_when_it_is_read_again(
    checkpoints: dict[str, Path], documents: list[Document], kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_toolkit.judging.protocols.EXACT_TOKENS", 150)  # of some 400: the rest is NaN
    place = checkpoints["bert"]
    before = scored(place, "word-l2r", documents, kept)[1]
    assert before.scored_fraction < 0.5
    again = scored(place, "word-l2r", documents, kept)[1]
    assert kept.said == []
    assert again.base == before.base
    spoil(Store(kept.score_cache))
    mended = scored(place, "word-l2r", documents, kept)[1]
    assert "stale" in kept.said[0]
    assert mended.base == before.base


def spoil(store: Store) -> None:
    """Half a nat more for every token, with a checksum that holds; the flags stand behind the nats."""
    import sqlite3
    from hashlib import sha256

    with sqlite3.connect(store.path) as database:
        for key, nll, _ in database.execute("SELECT key, nll, sha256 FROM scores").fetchall():
            tokens = len(nll) // 9
            data = (np.frombuffer(nll, count=tokens) + 0.5).tobytes() + nll[8 * tokens :]
            database.execute(
                "UPDATE scores SET nll = ?, sha256 = ? WHERE key = ?", (data, sha256(data).digest(), key)
            )
    database.close()


def test_a_checkpoint_saved_again_elsewhere_is_the_same_base(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    before = load_base(str(checkpoints["gpt2"]))
    AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"]).save_pretrained(tmp_path / "again")
    before.tokenizer.save_pretrained(tmp_path / "again")
    assert load_base(str(tmp_path / "again")).sha256s == before.sha256s
