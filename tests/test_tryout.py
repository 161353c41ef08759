"""ft try: what base and tuned model make of a text, side by side."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import FillMaskPipeline
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.finetune import finetune
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair, load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.passages import Piece
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.tryout import coloured, guesses, moved_most, scored

TEXT = "Asthma narrows the airways \x1b[31m and [bold]makes breathing hard."


@pytest.fixture(scope="module")
def run(checkpoints: dict[str, Path], small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    values = {
        "name": "tried",
        "base": str(checkpoints["gpt2"]),
        "corpus": {"source": str(small_corpus)},
        "training": {"steps": 3, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
        "judging": {"general": None},
    }
    folder = tmp_path_factory.mktemp("runs")
    options = Options(gate=False, judge=False)
    return finetune(Recipe.model_validate(values), folder, options, Screen(quiet=True))


@pytest.fixture(scope="module")
def pair(run: Run) -> ModelPair:
    return load_pair(load_base(run.recipe.base), run.adapter_folder)


def tried(*arguments: object, typed: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["try", *map(str, arguments)], input=typed)
    return done.exit_code, done.output


def test_the_perplexity_of_a_text_is_that_of_the_models_own_forward(pair: ModelPair) -> None:
    metric, figures, pieces = scored(pair, TEXT)
    begin = pair.base.special.begin
    ids = torch.tensor([[begin, *pair.base.tokenizer(TEXT)["input_ids"]]])
    with torch.no_grad(), pair.tuned.model.disable_adapter():
        base = pair.tuned.model(ids, labels=ids).loss.item()
    with torch.no_grad():
        tuned = pair.tuned.model(ids, labels=ids).loss.item()
    assert metric == "perplexity"
    for figure, nats in zip(figures, (base, tuned), strict=True):
        assert float(figure.replace(",", "")) == pytest.approx(math.exp(nats), rel=1e-3)
    assert figures[0] != figures[1]
    assert sum(piece.gain for piece in pieces) == pytest.approx((base - tuned) * (ids.shape[1] - 1), rel=1e-3)


def test_guesses_are_those_of_the_fill_mask_pipeline(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["bert"]))
    text = "the doctor gave [MASK] a medicine for [MASK]"
    oracle = FillMaskPipeline(model=base.model, tokenizer=base.tokenizer, top_k=5)(
        text.replace("[MASK]", str(base.tokenizer.mask_token))
    )
    found = guesses(base, text)
    assert len(found) == 2
    for ours, theirs in zip(found, oracle, strict=True):
        assert ours == [f"{100 * each['score']:5.1f} %  {each['token_str'].strip()}" for each in theirs]


def test_one_text_or_each_line_typed_goes_through_both_models(run: Run) -> None:
    code, once = tried(run.folder, TEXT, "--tokens", 5, "--seed", 1)
    assert code == 0 and "goes on" in once and "perplexity" in once and "tuned finds more likely" in once
    assert "\x1b" not in once and "␛[31m and [bold]makes" in once  # nothing that was typed is obeyed
    assert tried(run.folder, TEXT, "--tokens", 5, "--seed", 1)[1] == once
    code, several = tried(run.folder, "--tokens", 3, typed="one line\n\nanother line\n")
    assert code == 0 and several.count("goes on") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["  "], "expected a text, found an empty one"),
        (["some [MASK] words"], "is causal"),
        (["words", "--tokens", "0"], "tokens"),
        (["words", "--temperature", "-1"], "temperature"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: list[str], words: str) -> None:
    code, said = tried(run.folder, *arguments)
    assert code == 2 and words in said
    assert len(said.strip().splitlines()) == 1


def test_colour_is_left_out_where_it_is_not_wanted_and_words_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [Piece("a", "", 5.0, 1.0, 4), Piece("b", " ", 1.0, 2.0, -2), Piece("c", " ", 1.0, 1.0)]
    assert moved_most(pieces) == ["tuned finds more likely: 'a' 54.6×", "less likely: 'b' 2.72×"]
    console = on_a_terminal()
    console.print(coloured(pieces))
    assert "48;2;98;163;233" in console.file.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setenv("NO_COLOR", "1")
    console = on_a_terminal()
    console.print(coloured(pieces))
    assert "48;2;" not in console.file.getvalue()  # type: ignore[attr-defined]


def on_a_terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
