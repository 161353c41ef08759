"""Base against adapter on real tiny models: paired, counted right, and free of anyone's text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILY_NAMES
from peft import PeftModel
from sessions import quiet_session

from ft_toolkit.errors import FtError
from ft_toolkit.judging.comparison import Comparison, compare
from ft_toolkit.judging.protocols import Protocol, choose_protocol, score
from ft_toolkit.judging.scoring import Scorer, Text, score_both, score_parts, source_label
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.judging.totals import document_totals
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.progress import Screen
from ft_toolkit.sections import Adapter, Recipe
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.screening import repeated_lines
from ft_toolkit.text.splitting import Parts

QUIET = Screen(quiet=True)
HEADING = "Ingredients for four people\n"


@dataclass(frozen=True)
class Pair:
    """A base with an adapter that does something, and the same base by itself."""

    base: LanguageModel
    model: PeftModel
    bare: LanguageModel

    def both(
        self, documents: list[Document], kind: str = "held-out", repeated: frozenset[str] = frozenset()
    ) -> CorpusScores:
        return score_both(self.scorer(), Text("texts", kind, documents, repeated))  # type: ignore[arg-type]

    def scorer(self, protocol: Protocol | None = None, screen: Screen = QUIET) -> Scorer:
        pair = ModelPair(self.base, self.base.with_model(self.model))
        return Scorer(pair, protocol or choose_protocol(self.base), quiet_session(screen=screen))

    def compared(self, *scored: CorpusScores) -> Comparison:
        return compare(TokenScores(self.scorer().subject("run"), scored))


@pytest.fixture(scope="module")
def pair_of(checkpoints: dict[str, Path]) -> Callable[[str], Pair]:
    def make(name: str) -> Pair:
        base = load_base(str(checkpoints[name]))
        model = attach_adapter(base, Adapter(), seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, parameter in trainable(model).items():
                if "lora_B" in key:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return Pair(base, model, load_base(str(checkpoints[name])))

    return make


@pytest.fixture(scope="module")
def documents(small_corpus: Path) -> list[Document]:
    return [
        TextDocument(d.source, d.row, d.text[:400]) for d in read_source(str(small_corpus)).documents
    ]  # forty beginnings are enough


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_base_side_is_bitwise_the_bare_base(
    pair_of: Callable[[str], Pair], documents: list[Document], name: str
) -> None:
    pair = pair_of(name)
    encoded = encode(documents[:6], pair.base.tokenizer)
    bare = pair.bare
    alone = score(bare, encoded, choose_protocol(bare))
    found = pair.both(documents[:6])
    assert found.base == [document_totals(d, nll) for d, nll in zip(encoded, alone, strict=True)]
    assert all(a.nll_nats != b.nll_nats for a, b in zip(found.adapter, found.base, strict=True))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_an_untrained_adapter_differs_by_exactly_nothing(
    checkpoints: dict[str, Path], documents: list[Document], name: str
) -> None:
    base = load_base(str(checkpoints[name]))
    pair = Pair(base, attach_adapter(base, Adapter(), seed=0), base)
    found = pair.compared(pair.both(documents[:8])).corpora[0].difference
    assert (found.nats_per_token, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_scoring_leaves_every_weight_as_it_was_which_a_merge_taken_back_would_not(
    pair_of: Callable[[str], Pair], documents: list[Document], name: str
) -> None:
    pair = pair_of(name)
    pair.both(documents[:2])
    assert hash_weights(pair.base.model) == pair.base.weights_sha256
    pair.model.merge_adapter()
    pair.model.unmerge_adapter()
    assert hash_weights(pair.base.model) != pair.base.weights_sha256  # so the line above would have told


def test_both_sides_are_rows_of_the_same_documents(
    pair_of: Callable[[str], Pair], documents: list[Document]
) -> None:
    pair = pair_of("gpt2")
    scored = pair.both(documents[:3])
    rows = scored.rows()
    assert [row["side"] for row in rows] == ["base"] * 3 + ["adapter"] * 3
    assert [row["document"] for row in rows] == [d.id for d in documents[:3]] * 2
    for base_row, adapter_row in zip(rows[:3], rows[3:], strict=True):
        for key in ("corpus", "split", "tokens", "bytes", "words"):
            assert base_row[key] == adapter_row[key]
    assert rows[0]["bytes"] == len(documents[0].text.encode())
    assert rows[0]["words"] == len(documents[0].text.split())


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_outside_repeated_lines_counts_only_tokens_of_lines_that_one_document_has(
    pair_of: Callable[[str], Pair], name: str
) -> None:
    pair = pair_of(name)
    own = [f"Chop {n} onions and fry them for {n + 3} minutes." for n in range(10)]
    texts = [TextDocument("t.md", n, HEADING + line) for n, line in enumerate(own)]
    encoded = encode(texts, pair.base.tokenizer, repeated_lines(texts))
    # the heading stands first, so its tokens are those of the heading alone
    heading = len(pair.base.tokenizer.encode(HEADING, add_special_tokens=False))
    assert heading > 3
    protocol = choose_protocol(pair.base)
    adapter = score(pair.base.with_model(pair.model), encoded, protocol)
    with pair.model.disable_adapter():
        base = score(pair.base, encoded, protocol)
    change = [a[heading:].sum() - b[heading:].sum() for a, b in zip(adapter, base, strict=True)]
    tokens = [len(a) - heading for a in adapter]

    found = pair.compared(pair.both(texts, repeated=repeated_lines(texts))).corpora[0]
    assert found.repeated_token_fraction == pytest.approx(heading * 10 / (heading * 10 + sum(tokens)))
    assert found.outside_repeated_lines is not None
    assert found.outside_repeated_lines.nats_per_token == pytest.approx(sum(change) / sum(tokens), rel=1e-12)
    assert found.outside_repeated_lines.nats_per_token != found.difference.nats_per_token
    assert found.outside_repeated_lines.documents == 10


def test_a_document_of_repeated_lines_alone_has_no_say_outside_them(
    pair_of: Callable[[str], Pair],
) -> None:
    pair = pair_of("gpt2")
    texts = [TextDocument("t.md", n, f"{HEADING}Line {n} alone.") for n in range(9)]
    texts.append(TextDocument("t.md", 9, HEADING.strip()))
    found = pair.compared(pair.both(texts, repeated=repeated_lines(texts))).corpora[0]
    assert found.outside_repeated_lines is not None
    assert (found.difference.documents, found.outside_repeated_lines.documents) == (10, 9)


def test_without_repeated_lines_there_is_no_second_figure(
    pair_of: Callable[[str], Pair],
) -> None:
    pair = pair_of("gpt2")
    texts = [TextDocument("t.md", n, f"Line {n} alone.") for n in range(9)]
    found = pair.compared(pair.both(texts, repeated=repeated_lines(texts))).corpora[0]
    assert (found.outside_repeated_lines, found.repeated_token_fraction) == (None, 0.0)


@pytest.fixture(scope="module")
def parts(
    pair_of: Callable[[str], Pair], documents: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[CorpusScores], Comparison]:
    """Nine held-out documents, thirty training ones, and a general text: scored and compared."""
    general = tmp_path_factory.mktemp("general") / "probe.jsonl"
    rows = [{"text": f"The train to platform {n} leaves at {n + 7} o'clock."} for n in range(12)]
    general.write_text("\n".join(json.dumps(row) for row in rows))
    pair = pair_of("gpt2")
    recipe = Recipe.model_validate(
        {"name": "x", "base": "x", "corpus": {"source": "/home/someone/private/medicine"}}
        | {"judging": {"general": str(general)}}
    )
    scored = score_parts(pair.scorer(), recipe, Parts(documents[9:39], [], documents[:9]))
    return scored, pair.compared(*scored)


def test_a_run_is_judged_on_held_out_general_and_as_much_training_text(
    parts: tuple[list[CorpusScores], Comparison], documents: list[Document]
) -> None:
    scored, _ = parts
    assert [(part.corpus, part.kind, len(part.documents)) for part in scored] == [
        ("medicine", "held-out", 9),
        ("probe.jsonl", "general", 12),
        ("medicine", "train", 9),
    ]
    assert {d.id for d in scored[2].documents} <= {document.id for document in documents[9:39]}
    assert [part.documents[0].base.ids is not None for part in scored] == [True, True, False]


def test_without_general_text_or_training_text_only_held_out_text_is_scored(
    pair_of: Callable[[str], Pair], documents: list[Document]
) -> None:
    pair = pair_of("gpt2")
    values = {
        "name": "x",
        "base": "x",
        "corpus": {"source": "medicine"},
        "judging": {"general": None, "keep_text": False},
    }
    scored = score_parts(pair.scorer(), Recipe.model_validate(values), Parts([], [], documents[:2]))
    assert [part.kind for part in scored] == ["held-out"]
    assert [one.base.ids for one in scored[0].documents] == [None, None]  # ids would tell the text
    assert pair.compared(*scored).gap is None


def test_the_gap_is_held_out_minus_train_of_each_side(
    parts: tuple[list[CorpusScores], Comparison],
) -> None:
    _, comparison = parts
    held_out, train = comparison.of_kind("held-out")[0], comparison.of_kind("train")[0]
    assert comparison.gap is not None
    assert comparison.gap.base_nats == pytest.approx(
        held_out.base.nats_per_token - train.base.nats_per_token, abs=1e-12
    )
    assert comparison.gap.adapter_nats == pytest.approx(
        held_out.adapter.nats_per_token - train.adapter.nats_per_token, abs=1e-12
    )


def test_the_difference_is_that_of_the_two_totals(parts: tuple[list[CorpusScores], Comparison]) -> None:
    for part in parts[1].corpora:
        change = np.log(part.adapter.perplexity / part.base.perplexity)
        assert part.difference.nats_per_token == pytest.approx(change, abs=1e-9)


def test_comparison_json_holds_numbers_and_no_text(
    parts: tuple[list[CorpusScores], Comparison], documents: list[Document]
) -> None:
    _, comparison = parts
    written = json.dumps(comparison.as_dict(), allow_nan=False)
    read = json.loads(written)
    assert read["schema"] == 7
    assert read["protocol"] == {
        "metric": "perplexity", "name": "document", "window_tokens": 64, "stride_tokens": 32,
        "precision": "float32",
    }  # fmt: skip
    assert [part["kind"] for part in read["corpora"]] == ["held-out", "general", "train"]
    held_out = read["corpora"][0]
    assert held_out["base_perplexity"] == pytest.approx(
        np.exp(held_out["base"]["nll_nats"] / held_out["base"]["tokens"])
    )
    assert held_out["percent"] == pytest.approx(
        100 * (held_out["adapter_perplexity"] / held_out["base_perplexity"] - 1)
    )
    assert read["gap"]["excess_nats"] == pytest.approx(read["gap"]["adapter_nats"] - read["gap"]["base_nats"])
    words = {word for document in documents[:39] for word in document.text.split()}
    assert not [word for word in words if len(word) > 9 and word in written]
    assert not [document for document in documents[:39] if document.source in written]
    assert "/home/someone" not in written


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("package:italian-cooking", "italian-cooking"),
        ("hf:owner/data@abc", "owner/data@abc"),
        ("/home/someone/notes.txt", "notes.txt"),
        ("../folder/notes", "notes"),
        ("notes:old.txt", "notes:old.txt"),
    ],
)
def test_a_source_is_named_without_the_folders_of_a_machine(source: str, label: str) -> None:
    assert source_label(source) == label


def test_exact_scoring_of_much_text_is_announced_with_a_forecast_and_scores_every_token(
    pair_of: Callable[[str], Pair],
    documents: list[Document],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ft_toolkit.judging.scoring.EXACT_TOKENS", 50)
    pair, some = pair_of("bert"), documents[:3]
    protocol = choose_protocol(pair.base, "pll", exact=True)
    scored = score_both(pair.scorer(protocol, Screen()), Text("texts", "other", some))
    tokens = sum(len(d.ids) for d in encode(some, pair.base.tokenizer))
    assert sum(totals.tokens for totals in scored.adapter) == tokens
    first_words, *_ = capsys.readouterr().err.splitlines()
    words = f"other: {tokens} tokens, {2 * tokens} forward rows for both models: about "
    assert first_words.startswith(words)
    assert 0 <= int(first_words.removeprefix(words).removesuffix(" seconds")) < 60


def test_a_sample_or_a_short_text_needs_no_forecast(
    pair_of: Callable[[str], Pair], documents: list[Document], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = pair_of("bert")
    for exact in (True, False):
        protocol = choose_protocol(pair.base, "pll", exact=exact)
        score_both(pair.scorer(protocol, Screen()), Text("t", "other", documents[:1]))
    said = capsys.readouterr().err
    assert "other" in said  # the stage
    assert "forward rows" not in said


def test_comparison_json_is_read_back_as_it_was(
    parts: tuple[list[CorpusScores], Comparison], pair_of: Callable[[str], Pair], documents: list[Document]
) -> None:
    alone = pair_of("bert")
    texts = [TextDocument("t.md", n, f"{HEADING}Line {n} alone.") for n in range(9)]
    for comparison in (
        parts[1],
        alone.compared(alone.both(documents[:3], kind="other")),
        alone.compared(alone.both(texts, repeated=repeated_lines(texts))),
    ):
        assert Comparison.from_dict(json.loads(json.dumps(comparison.as_dict()))) == comparison


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"schema": 3}, "schema 3"),
        ({"corpora": None}, "a damaged one"),
        ({"protocol": {"x": 1}}, "a damaged one"),
        ({"gap": {"adapter_nats": 1.0}}, "a damaged one"),
    ],
)
def test_another_comparison_json_is_refused(
    parts: tuple[list[CorpusScores], Comparison], changes: dict[str, object], found: str
) -> None:
    with pytest.raises(FtError) as fault:
        Comparison.from_dict(parts[1].as_dict() | changes)
    assert str(fault.value.found).startswith(found)
