"""Token scores on disk: small, whole, read back bit by bit, and summed to every figure."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from sessions import quiet_session

from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import compare
from ft_toolkit.judging.protocols import choose_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.token_scores import DOCUMENTS, TOKENS, Side, TokenScores
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.models.tokenizers import train_tokenizer, with_fresh_weights
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.screening import repeated_lines

QUIET = Screen(quiet=True)
TORCH_FREE = (
    "comparison details gates predictions protocols ranking run_scores saving statistics token_scores "
    "totals verdict"
)


@pytest.fixture(scope="module")
def documents(small_corpus: Path) -> list[Document]:
    texts = [d.text[:200] for d in read_source(str(small_corpus)).documents[:9]]
    return [TextDocument("t.md", row, f"What to know\n{text}") for row, text in enumerate(texts)]


def scorer_of(place: str, protocol: str = "auto") -> Scorer:
    """A base with an adapter that does something."""
    base = load_base(place)
    model = attach_adapter(base, Adapter(), seed=0)
    for name, parameter in trainable(model).items():
        if "lora_B" in name:
            parameter.data.fill_(0.02)
    return Scorer(ModelPair(base, base.with_model(model)), choose_protocol(base, protocol), quiet_session())


Scores = Callable[[str, str], TokenScores]


@pytest.fixture(scope="module")
def scores(checkpoints: dict[str, Path], documents: list[Document]) -> Scores:
    def make(family: str, protocol: str) -> TokenScores:
        scorer = scorer_of(str(checkpoints[family]), protocol)
        repeated = repeated_lines(documents)
        texts = [
            Text("medicine", "held-out", documents[:8], repeated),
            Text("medicine", "train", documents[8:], repeated, keeps_ids=False),
        ]
        corpora = [score_both(scorer, text) for text in texts]
        return TokenScores(scorer.subject("run"), corpora, "made from this")

    return make


def assert_same(one: Side, other: Side) -> None:
    assert np.array_equal(one.nats, other.nats, equal_nan=True)
    assert np.array_equal(one.is_top1, other.is_top1) and np.array_equal(one.is_fresh, other.is_fresh)
    assert (one.ids is None) == (other.ids is None)
    assert one.ids is None or np.array_equal(one.ids, other.ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "protocol"),
    [("gpt2", "document"), ("openai-gpt", "document"), ("gpt2", "concatenated"), ("bert", "covering"),
     ("bert", "word-l2r")],
)  # fmt: skip
def test_what_is_written_is_read_back_bit_by_bit(
    scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, protocol: str
) -> None:
    monkeypatch.setattr("ft_toolkit.judging.protocols.EXACT_TOKENS", 150)  # word-l2r draws a sample
    before = scores(family, protocol)
    before.write(Run(tmp_path))
    after = TokenScores.read(Run(tmp_path))
    assert (after.subject, after.made_from) == (before.subject, "made from this")
    for one, other in zip(before.corpora, after.corpora, strict=True):
        for name in ("corpus", "kind", "scored_fraction", "unknown_fraction"):
            assert getattr(one, name) == getattr(other, name)
        for first, second in zip(one.documents, other.documents, strict=True):
            assert (first.id, first.group, first.bytes) == (second.id, second.group, second.bytes)
            assert_same(first.base, second.base)
            assert_same(first.adapter, second.adapter)
    assert compare(after) == compare(before)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "documents.parquet",
        "tokens.parquet",
    ]


def test_a_document_is_the_sum_of_its_token_rows(scores: Scores, tmp_path: Path) -> None:
    scores("gpt2", "document").write(Run(tmp_path))
    rows, tokens = Run(tmp_path).read_table(DOCUMENTS), Run(tmp_path).read_table(TOKENS)
    assert len(rows) == 2 * 9
    assert {row["side"] for row in tokens} == {"both"}
    for split in ("held-out", "train"):
        for side in ("base", "adapter"):
            some = [row for row in rows if (row["split"], row["side"]) == (split, side)]
            for number, row in enumerate(some):
                own = [token for token in tokens if (token["split"], token["document"]) == (split, number)]
                assert [token["position"] for token in own] == list(range(row["tokens"]))
                assert math.fsum(token[f"{side}_nats"] for token in own) == row["nll_nats"]
    are_known = {(row["split"], row["id"] is not None) for row in tokens}
    assert are_known == {("held-out", True), ("train", False)}
    assert not any(row["is_fresh"] for row in tokens if row["position"] == 0)  # of the common heading


def test_each_side_has_its_own_rows_where_the_model_has_its_own_tokenizer(
    checkpoints: dict[str, Path], documents: list[Document], tmp_path: Path
) -> None:
    base = load_base(str(checkpoints["gpt2"]))
    own = with_fresh_weights(base, train_tokenizer(base, [document.text for document in documents]))
    scorer = Scorer(ModelPair(base, own), choose_protocol(base), quiet_session())
    before = TokenScores(scorer.subject("run"), [score_both(scorer, Text("t", "other", documents))])
    before.write(Run(tmp_path))
    rows = Run(tmp_path).read_table(TOKENS)
    assert {row["side"] for row in rows} == {"base", "adapter"}
    for side, other in (("base", "adapter"), ("adapter", "base")):
        assert {row[f"{other}_nats"] for row in rows if row["side"] == side} == {None}
    after = TokenScores.read(Run(tmp_path))
    for one, two in zip(before.corpora[0].documents, after.corpora[0].documents, strict=True):
        assert_same(one.base, two.base)
        assert_same(one.adapter, two.adapter)
        assert len(one.base.nats) != len(one.adapter.nats)
    assert compare(after) == compare(before)
    assert compare(after).own_tokenizer_sha256 == own.tokenizer_sha256


def test_two_texts_of_one_name_are_kept_apart(scores: Scores, tmp_path: Path) -> None:
    before = scores("gpt2", "document")
    corpus = before.corpora[0]
    halves = [replace(corpus, documents=some) for some in (corpus.documents[:1], corpus.documents[1:])]
    replace(before, corpora=halves).write(Run(tmp_path))
    after = TokenScores.read(Run(tmp_path))
    assert [len(each.documents) for each in after.corpora] == [1, 7]
    assert compare(after) == compare(replace(before, corpora=halves))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_token_takes_at_most_twenty_bytes_a_side(tmp_path: Path, name: str) -> None:
    scorer = scorer_of(f"starter/{name}", "auto" if name == "gpt2" else "covering")
    some = read_source("package:everyday-medicine").documents[:6]
    found = score_both(scorer, Text("medicine", "held-out", some, repeated_lines(some)))
    TokenScores(scorer.subject("run"), [found]).write(Run(tmp_path))
    tokens = sum(totals.tokens for totals in found.base)
    assert tokens > 1500
    assert (tmp_path / TOKENS).stat().st_size < 20 * 2 * tokens / 2  # half of what is allowed


def damage(folder: Path, name: str, how: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "of another run":
        rows = Run(folder).read_table(DOCUMENTS)
        rows[0]["nll_nats"] += 1e-9
        Run(folder).write_table(DOCUMENTS, rows)
    elif how == "without a column":
        table = parquet.read_table(path).drop_columns(["base_nats" if name == TOKENS else "group"])
        parquet.write_table(table, path)
    elif how == "another table":
        parquet.write_table(pyarrow.table({"x": [1]}), path)
    elif how == "bit-flipped":
        place = len(data) // 3
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    else:
        path.write_bytes({"emptied": b"", "truncated": data[: len(data) // 2]}[how])


@pytest.mark.parametrize("name", [TOKENS, DOCUMENTS])
@pytest.mark.parametrize(
    "how",
    ["removed", "emptied", "truncated", "bit-flipped", "of another run", "without a column", "another table"],
)
def test_damaged_scores_are_one_line_that_says_how_to_get_them_again(
    scores: Scores, tmp_path: Path, name: str, how: str
) -> None:
    scores("gpt2", "document").write(Run(tmp_path))
    damage(tmp_path, name, how)
    with pytest.raises(FtError, match="ft compare --rescore") as fault:
        TokenScores.read(Run(tmp_path))
    assert str(tmp_path / "scores") in str(fault.value.where)
    assert "\n" not in str(fault.value)


def test_scores_of_a_newer_release_are_refused(
    scores: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr("ft_toolkit.judging.token_scores.SCHEMA", 2)
        scores("gpt2", "document").write(Run(tmp_path))
    with pytest.raises(FtError, match="Upgrade ft-toolkit"):
        TokenScores.read(Run(tmp_path))


@pytest.mark.parametrize("room", TORCH_FREE.split())
def test_what_needs_no_model_imports_no_torch(room: str) -> None:
    heavy = "{'torch', 'transformers', 'peft'} & set(sys.modules)"
    script = f"import sys, ft_toolkit.judging.{room}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
