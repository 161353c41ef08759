"""ft try: what base and tuned model make of a text, side by side."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from sessions import quiet_session
from transformers import FillMaskPipeline
from typer.testing import CliRunner

from ft_toolkit.cli import app
from ft_toolkit.errors import FtError
from ft_toolkit.finetune import finetune
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.guesses import guesses
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.passages import Piece, moved_most
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options
from ft_toolkit.tryout import coloured, guess_line, split_text
from ft_toolkit.tryout_answers import Draw, Tried, answers_of, continuation, load_tried

TEXT = "Asthma narrows the airways \x1b[31m and [bold]makes breathing hard."


@pytest.fixture(scope="module")
def runs(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """Two of one base that share its weights, and one of a masked base."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for name, family, steps in (("base", "gpt2", 3), ("other", "gpt2", 6), ("masked", "bert", 2)):
        values = {
            "name": name,
            "base": str(checkpoints[family]),
            "corpus": {"source": str(short_corpus)},
            "training": {"steps": steps, "block_tokens": 32, "batch_tokens": 256, "learning_rate": 0.01},
            "judging": {"general": None},
        }
        options = Options(gate=False, judge=False)
        found[name] = finetune(Recipe.model_validate(values), folder, options, Screen(quiet=True))
    return found


@pytest.fixture(scope="module")
def run(runs: dict[str, Run]) -> Run:
    return runs["base"]


@pytest.fixture(scope="module")
def all_tried(runs: dict[str, Run]) -> list[Tried]:
    return load_tried(list(runs.values()), quiet_session())


def tried(*arguments: object, typed: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["try", *map(str, arguments)], input=typed)
    return done.exit_code, done.output


def test_each_model_answers_for_itself_though_they_share_weights(
    all_tried: list[Tried], runs: dict[str, Run]
) -> None:
    causal = all_tried[0]
    found = answers_of(causal, TEXT, Draw(4, 0))
    assert [answer.name for answer in found.answers] == ["base", "base", "other"]  # a run may be called base
    base = load_base(runs["base"].recipe.base)
    ids = torch.tensor([[base.special.begin, *base.tokenizer(TEXT)["input_ids"]]])
    nats = {}
    for place, folder in enumerate([None, runs["base"].adapter_folder, runs["other"].adapter_folder]):
        own = load_base(base.name).model
        model = own if folder is None else PeftModel.from_pretrained(own, str(folder))
        with torch.no_grad():
            nats[place] = model(input_ids=ids, labels=ids).loss.item()
            drawn = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
            )
        answer = found.answers[place]
        assert float(answer.figures["perplexity"].replace(",", "")) == pytest.approx(
            math.exp(nats[place]), rel=1e-3
        )
        written = base.tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert answer.goes_on == written
    assert len(set(nats.values())) == 3
    for place, answer in enumerate(found.answers[1:], 1):
        assert answer.passage is not None
        gained = sum(piece.gain for piece in answer.passage.pieces)
        assert gained == pytest.approx((nats[0] - nats[place]) * (ids.shape[1] - 1), rel=1e-3)
    assert found.answers[0].passage is None


def test_a_continuation_ends_before_its_stop_and_is_told_as_it_grows(all_tried: list[Tried]) -> None:
    base = load_base(all_tried[0].base.name)
    told: list[str] = []
    whole = continuation(base, TEXT, Draw(20, 1.0, 3), told.append)
    assert told[-1] == whole and all(whole.startswith(part) for part in told) and len(told) == 20
    stop = whole[5:7]
    assert continuation(base, TEXT, Draw(20, 1.0, 3, (stop, "zzz"))) == whole[: whole.index(stop)].strip()


def test_guesses_are_those_of_the_fill_mask_pipeline(checkpoints: dict[str, Path]) -> None:
    base = load_base(str(checkpoints["bert"]))
    text = "the doctor gave [MASK] a medicine for [MASK]"
    oracle = FillMaskPipeline(model=base.model, tokenizer=base.tokenizer, top_k=5)(
        text.replace("[MASK]", str(base.tokenizer.mask_token))
    )
    found = guesses(base, text)
    assert len(found) == 2
    for ours, theirs in zip(found, oracle, strict=True):
        assert list(map(guess_line, ours)) == [
            f"{100 * each['score']:5.1f} %  {each['token_str'].strip()}" for each in theirs
        ]


def test_one_text_or_each_line_typed_goes_through_both_models(run: Run) -> None:
    code, once = tried(run.folder, TEXT, "--tokens", 5, "--seed", 1)
    assert code == 0 and "goes on" in once and "perplexity" in once and "tuned finds more likely" in once
    assert "\x1b" not in once and "␛[31m and [bold]makes" in once  # nothing that was typed is obeyed
    assert tried(run.folder, TEXT, "--tokens", 5, "--seed", 1)[1] == once
    code, several = tried(run.folder, "--tokens", 3, typed="one line\n\nanother line\n")
    assert code == 0 and several.count("goes on") == 2


def test_several_runs_stand_side_by_side_those_of_another_base_in_a_table_of_their_own(
    runs: dict[str, Run],
) -> None:
    folders = [one.folder for one in runs.values()]
    code, said = tried(*folders, "Asthma narrows the airways.", "--tokens", 4, "--stop", r"\n")
    assert code == 0
    heads = [line.split() for line in said.splitlines() if line.strip().startswith("base  ")]
    assert heads == [["base", "base", "other"], ["base", "masked"]]
    assert said.count("goes on") == 1 and said.count("perplexity") == 2  # the masked one's is pseudo-
    assert said.count("against its base") == 2 and "other against its base" in said


def test_the_last_place_is_the_text_unless_it_is_a_run(tmp_path: Path) -> None:
    run = str(tmp_path)
    assert split_text([run, "some words"], None) == ([run], "some words")
    assert split_text([run, "word"], None) == ([run], "word")
    assert split_text([run, "and/or"], None) == ([run], "and/or")
    assert split_text([run, run], None) == ([run, run], None)
    assert split_text([run, "hub:me/x"], None) == ([run, "hub:me/x"], None)
    assert split_text([run], None) == ([run], None)
    assert split_text([run, run], run) == ([run, run], run)
    with pytest.raises(FtError, match=r"expected a run folder or a text, .* Write --text "):
        split_text([run, f"{tmp_path}/mistyped"], None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["  "], "expected a text, found an empty one"),
        (["some [MASK] words"], "is causal"),
        (["words", "--tokens", "0"], "tokens"),
        (["words", "--temperature", "-1"], "temperature"),
        (["words", "--stop", ""], "--stop"),
        (["words", "--port", "8000"], "--web beside it"),
        (["\u200b\udcff"], "UTF-8"),
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
