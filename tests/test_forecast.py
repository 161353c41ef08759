"""The forecast counts what a run reads, and its probe leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ft_toolkit import forecast as room
from ft_toolkit.cli import app
from ft_toolkit.forecast import Forecast, forecast, is_worth_a_probe
from ft_toolkit.judging.protocols import choose_protocol, prepare, score
from ft_toolkit.material import gathered
from ft_toolkit.models.adapters import trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.token_nll import NO_TARGET, SummedLoss, TokenScorer
from ft_toolkit.progress import Screen
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Session
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.training.accelerator import make_accelerator

Make = Callable[..., Recipe]
TEXTS = ["onions in the pan are fried until golden " * 4] * 3  # of one length: nothing is padded


@pytest.mark.parametrize(
    ("family", "protocol", "window"),
    [("gpt2", "document", None), ("gpt2", "document", 16), ("bert", "covering", None), ("bert", "pll", None)],
)
def test_the_tokens_that_a_forecast_counts_are_those_that_the_model_reads(
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    protocol: str,
    window: int | None,
) -> None:
    base, read = load_base(str(checkpoints[family])), [0]
    how = choose_protocol(base, protocol, window)
    documents = prepare([TextDocument("t", n, text) for n, text in enumerate(TEXTS)], base.tokenizer, how)
    exact = TokenScorer.nll_and_top1

    def counted(self: TokenScorer, ids: torch.Tensor, *more: Any) -> Any:
        read[0] += ids.numel()
        return exact(self, ids, *more)

    monkeypatch.setattr(TokenScorer, "nll_and_top1", counted)
    score(base, documents, how)
    # framing tokens are read too, and the last window may be short
    assert room._tokens_read(documents, how) == pytest.approx(read[0], rel=0.1)


def test_the_probe_leaves_weights_gradients_and_mode_as_they_were(tiny_recipe: Make) -> None:
    accelerator = make_accelerator("cpu")
    material = gathered(tiny_recipe(), accelerator.device)
    model = material.pair.tuned.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = forecast(material, Session(accelerator, Screen(quiet=True)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainable(model).values())
    assert not model.training
    assert min(found.training_seconds, found.validation_seconds, found.judging_seconds) > 0


def test_a_masked_probe_reads_targets_as_a_step_does(tiny_recipe: Make) -> None:
    training = {"block_tokens": 64, "batch_tokens": 2048, "mask_fraction": 0.3}
    rows = room._probe_rows(gathered(tiny_recipe("bert", training=training), torch.device("cpu")))
    targets = np.concatenate([row.targets for row in rows])
    assert len(targets) > 1000
    assert (targets != NO_TARGET).mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("protocol", ["covering", "word-l2r"])
def test_each_protocol_of_a_masked_model_is_timed_by_itself(tiny_recipe: Make, protocol: str) -> None:
    it = gathered(tiny_recipe("bert"), torch.device("cpu"))
    how = choose_protocol(it.pair.base, protocol)
    documents = prepare(it.parts.validation, it.pair.base.tokenizer, how)
    assert 1e-8 < room._token_seconds(it, documents, how) < 1e-2


def test_twice_the_steps_are_forecast_to_take_twice_the_time(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = make_accelerator("cpu")
    monkeypatch.setattr(room, "_micro_batch_seconds", lambda it, session: 2.0)
    found = []
    for steps in (4, 8):
        training = {"steps": steps, "batch_tokens": 128, "block_tokens": 32}
        material = gathered(tiny_recipe(training=training), accelerator.device)
        found.append(forecast(material, Session(accelerator, Screen(quiet=True))).training_seconds)
    assert found[1] == pytest.approx(2 * found[0])
    assert found[0] == pytest.approx(8.0, rel=0.3)  # a step is about one probe of 2 seconds


def test_the_validations_that_choose_a_strength_are_counted(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = make_accelerator("cpu")
    monkeypatch.setattr(room, "_token_seconds", lambda it, documents, protocol: 1e-3)
    auto, fixed = (
        forecast(
            gathered(tiny_recipe(adapter=adapter), accelerator.device),
            Session(accelerator, Screen(quiet=True)),
        ).validation_seconds
        for adapter in ({}, {"strength": 1})
    )
    # before the first step, after each of the five, and usually two for the strength
    assert auto / fixed == pytest.approx(8 / 6)


def test_only_a_long_training_is_told_its_time_first(tiny_recipe: Make) -> None:
    accelerator = make_accelerator("cpu")
    short = gathered(tiny_recipe(), accelerator.device)
    long = gathered(tiny_recipe(training={"steps": 100_000}), accelerator.device)
    assert not is_worth_a_probe(short)
    assert is_worth_a_probe(long)


def test_its_words_name_each_part() -> None:
    words = Forecast(120.0, 30.0, 60.0, 1_500_000_000, 5_000_000).words()
    assert words == (
        "about 4 min here: training 2 min, validation 30 s, judging 60 s; 1.5 GB of memory, 5 MB on disk"
    )
    assert Forecast(90_000.0, 0.0, 0.0, 0, 0).words().startswith("about 25.0 h here")


def test_ft_plan_tries_a_recipe_of_this_machine_unless_told_not_to(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe, path = tiny_recipe(), tmp_path / "tiny.yaml"
    path.write_text(
        f"base: {recipe.base}\ncorpus: {{source: {recipe.corpus.source}}}\ntraining: {{steps: 2}}\n"
    )
    told = CliRunner().invoke(app, ["plan", str(path)])
    assert told.exit_code == 0, told.output
    assert "this machine    about " in told.output
    silent = CliRunner().invoke(app, ["plan", str(path), "--no-probe"])
    assert "this machine" not in silent.output


def test_a_document_of_any_length_is_probed_by_its_beginning(
    checkpoints: dict[str, Path], tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, read = make_accelerator("cpu"), [0]
    material = gathered(tiny_recipe(), accelerator.device)
    how = choose_protocol(material.pair.base)
    long = prepare([TextDocument("long", 0, "salt and pepper " * 20_000)], material.pair.base.tokenizer, how)

    def counted(model: object, documents: Any, protocol: object) -> None:
        read[0] = max(read[0], *(len(document.ids) for document in documents))

    monkeypatch.setattr(room, "score", counted)
    room._token_seconds(material, long, how)
    assert len(long[0].ids) > 20 * room.PROBE_TOKENS
    assert read[0] == room.PROBE_TOKENS


def test_the_probe_trains_in_the_precision_of_training(
    tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, seen = make_accelerator("cpu"), []
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "bf16")
    monkeypatch.setattr(accelerator, "native_amp", True)
    material = gathered(tiny_recipe(), accelerator.device)
    exact = SummedLoss.forward

    def forward(self: SummedLoss, *given: torch.Tensor) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return exact(self, *given)

    monkeypatch.setattr(SummedLoss, "forward", forward)
    room._micro_batch_seconds(material, Session(accelerator, Screen(quiet=True)))
    assert seen == [True] * len(seen) and seen
