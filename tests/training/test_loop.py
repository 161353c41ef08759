"""The training loop: what moves, by how much, when it stops, and that nothing but the recipe decides."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor
from two_processes import Bench, bench, texts_of_unequal_length, trained_on_ten_rows

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.finetune import finetune
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel, hash_weights
from ft_toolkit.models.token_nll import SummedLoss
from ft_toolkit.sections import Adapter, Recipe, Training
from ft_toolkit.session import Options
from ft_toolkit.text.blocks import encode, mask
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Row
from ft_toolkit.training import accelerator, accumulation, loop, state
from ft_toolkit.training.loop import Journal
from ft_toolkit.training.optimizers import set_learning_rate
from ft_toolkit.training.schedule import learning_rate

Checkpoints = dict[str, Path]
OBJECTIVES = ("gpt2", "bert")  # a causal family and a masked one


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in float32 also where bfloat16 is faster: its rounding would hide what these tests look for."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(accelerator, "bfloat16_is_faster", lambda kind: False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def plan() -> Training:
    return Training(steps=6, block_tokens=32, batch_tokens=128, learning_rate=0.01, patience=100)


class Scripted:
    """Validation figures known in advance; remembers the adapter that each was given for."""

    def __init__(self, ready: Bench, *figures: float | BaseException) -> None:
        self.ready = ready
        self.figures = list(figures)
        self.adapters: list[dict[str, Tensor]] = []

    def __call__(self) -> float:
        self.adapters.append(self.ready.adapter)
        figure = self.figures[len(self.adapters) - 1]
        if isinstance(figure, BaseException):
            raise figure
        return figure


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, others[name]) for name, weight in some.items())


def farthest(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return max(float((weight - others[name]).abs().max()) for name, weight in some.items())


def adapter_bytes(recipe: Recipe, runs: Path) -> bytes:
    run = finetune(recipe, runs, options=Options(judge=False, gate=False))
    return (run.adapter_folder / "adapter_model.safetensors").read_bytes()


def test_the_learning_rate_warms_up_in_a_line_and_falls_as_a_cosine() -> None:
    plan = Training(learning_rate=0.9, warmup_fraction=0.2)
    by_hand = [0.3, 0.6, 0.9, *(0.45 * (1 + math.cos(math.pi * eighth / 8)) for eighth in range(1, 8))]
    assert [learning_rate(step, 10, plan) for step in range(10)] == pytest.approx(by_hand)
    assert learning_rate(6, 10, plan) == pytest.approx(0.45)  # half way down


def test_without_warm_up_the_first_step_has_the_peak_and_a_long_run_ends_at_nothing() -> None:
    plan = Training(learning_rate=0.5, warmup_fraction=0)
    assert learning_rate(0, 1000, plan) == 0.5
    assert learning_rate(999, 1000, plan) < 0.5e-5
    assert learning_rate(0, 1, plan) == 0.5


def test_of_a_budget_the_rate_follows_the_time_where_that_is_further_than_the_steps() -> None:
    plan = Training(learning_rate=0.9, warmup_fraction=0.2, budget="10s")
    assert learning_rate(1, 1000, plan, spent=0.1) == pytest.approx(0.9 * 101 / 201)  # half of the warm-up
    assert learning_rate(1, 1000, plan, spent=0.2) == 0.9
    assert learning_rate(1, 1000, plan, spent=0.6) == pytest.approx(0.45)  # half way down
    assert learning_rate(600, 1000, plan, spent=0.1) == pytest.approx(0.45)  # the steps are further
    assert learning_rate(1, 1000, plan, spent=7.0) == 0.0


def test_a_run_that_its_budget_cuts_ends_at_a_rate_near_zero(
    checkpoints: Checkpoints, plan: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 100.0  # a clock on which every step takes one second, and the first validation five

    def step_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
        nonlocal seconds
        seconds += 1
        set_learning_rate(optimizers, rate)

    def validate() -> float:
        nonlocal seconds
        seconds += 5
        return 1.0

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: seconds))
    monkeypatch.setattr(loop, "set_learning_rate", step_rate)
    lines: list[dict[str, Any]] = []
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    asked = {"steps": 2000, "budget": 25.0, "warmup_fraction": 0.05, "patience": 10**6}
    outcome = ready.train(plan.model_copy(update=asked), validate, record=lines.append)
    assert (outcome.stopped_by, outcome.steps) == ("budget", 20)
    cosine = [0.005 * (1 + math.cos(math.pi * nineteenth / 19)) for nineteenth in range(19)]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01 / 101, *cosine])
    assert lines[-1]["learning_rate"] < 0.01 * 0.01


@pytest.mark.parametrize("family", OBJECTIVES)
def test_training_moves_every_part_of_the_adapter_and_nothing_else(
    checkpoints: Checkpoints, plan: Training, family: str
) -> None:
    ready = bench(checkpoints[family], texts_of_unequal_length())
    untrained = ready.adapter
    ready.train(plan)
    moved = {name for name, weight in ready.adapter.items() if not torch.equal(weight, untrained[name])}
    assert moved == set(untrained)
    zeros = [name for name, weight in ready.adapter.items() if "lora_B" in name and not weight.any()]
    assert not zeros
    assert hash_weights(ready.model.unload()) == ready.base.weights_sha256


@pytest.mark.parametrize(("family", "dropout"), [("gpt2", 0.0), ("gpt2", 0.1), ("bert", 0.1)])
def test_the_same_recipe_gives_the_same_bytes(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, family: str, dropout: float
) -> None:
    recipe = tiny_recipe(family, adapter={"dropout": dropout}, training={"steps": 2})
    first = adapter_bytes(recipe, tmp_path)
    torch.manual_seed(99)  # whoever calls us may have drawn numbers of their own
    np.random.seed(99)
    assert adapter_bytes(recipe, tmp_path) == first


def test_another_seed_gives_another_adapter(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipes = [tiny_recipe(training={"seed": seed, "steps": 2}) for seed in (0, 1)]
    assert adapter_bytes(recipes[0], tmp_path) != adapter_bytes(recipes[1], tmp_path)


def test_the_seed_decides_the_order_of_the_rows(checkpoints: Checkpoints, plan: Training) -> None:
    first_losses = []
    for seed in (0, 1):
        ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length()), []  # one adapter for both
        ready.train(plan.model_copy(update={"seed": seed, "steps": 1}), record=lines.append)
        first_losses.append(lines[0]["loss_nats"])
    assert first_losses[0] != first_losses[1]


def test_the_seed_decides_the_masks(checkpoints: Checkpoints, plan: Training) -> None:
    hidden = []
    for seed in (0, 1):
        ready, lines = bench(checkpoints["bert"], texts_of_unequal_length()), []
        all_rows = {"batch_tokens": 10**6, "seed": seed, "steps": 1}  # no order is left that could matter
        ready.train(plan.model_copy(update=all_rows), record=lines.append)
        hidden.append((lines[0]["targets"], lines[0]["loss_nats"]))
    assert hidden[0] != hidden[1]


def test_masks_differ_from_epoch_to_epoch_and_plain_rows_do_not(
    checkpoints: Checkpoints, plan: Training, float32: None
) -> None:
    whole_epochs = {"batch_tokens": 10**6, "epochs": 3, "steps": None, "learning_rate": 1e-9}
    asked, losses = {}, {}
    for family in OBJECTIVES:
        ready, lines = bench(checkpoints[family], texts_of_unequal_length()), []
        ready.train(plan.model_copy(update=whole_epochs), record=lines.append)
        assert [line["epoch"] for line in lines] == [0, 1, 2]
        asked[family] = {line["targets"] for line in lines}
        losses[family] = [line["loss_nats"] for line in lines]
    assert losses["gpt2"] == pytest.approx([losses["gpt2"][0]] * 3, abs=1e-5)
    assert len(asked["gpt2"]) == 1
    assert len(asked["bert"]) > 1


@pytest.mark.parametrize("family", OBJECTIVES)
def test_the_first_loss_is_the_sum_over_all_targets_divided_by_their_number(
    checkpoints: Checkpoints, plan: Training, family: str, float32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulation, "MICRO_TOKENS", 64)  # the step's rows are read in many unequal portions
    ready, lines = bench(checkpoints[family], texts_of_unequal_length()), []
    ready.train(plan.model_copy(update={"batch_tokens": 10**6, "steps": 1}), record=lines.append)
    base = load_base(str(checkpoints[family]))
    parts = [_nll_of_each_document_alone(base, row, plan.seed) for row in ready.rows]
    nats, targets = sum(nats for nats, _ in parts), sum(count for _, count in parts)
    assert lines[0]["targets"] == targets
    assert lines[0]["loss_nats"] == pytest.approx(nats / targets, abs=1e-5)
    mean_of_means = float(np.mean([nats / count for nats, count in parts if count]))
    assert mean_of_means != pytest.approx(nats / targets, abs=1e-4)  # else this test could not tell


def _nll_of_each_document_alone(base: LanguageModel, row: Row, seed: int) -> tuple[float, int]:
    """Summed NLL and number of targets of a row, by transformers' own forward, a document at a time."""
    if base.family.objective == "masked":
        plain = np.setdiff1d(np.arange(base.model.config.vocab_size), base.tokenizer.all_special_ids)
        row = mask(row, seed, 0, base.tokenizer.mask_token_id, plain.astype(np.int32), fraction=0.15)
    nats = 0.0
    for segment in np.unique(row.segments):
        inside = row.segments == segment
        ids, targets = (torch.from_numpy(a[inside]).long() for a in (row.input_ids, row.targets))
        with torch.no_grad():
            logits = base.model(input_ids=ids[None]).logits[0]
        nats += float(F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum"))
    return nats, int((row.targets != -100).sum())


@pytest.mark.parametrize("family", OBJECTIVES)
def test_how_many_tokens_are_read_at_once_does_not_matter(
    checkpoints: Checkpoints, plan: Training, family: str, float32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = []
    for micro_tokens in (64, 10**6):
        monkeypatch.setattr(accumulation, "MICRO_TOKENS", micro_tokens)
        ready = bench(checkpoints[family], texts_of_unequal_length())
        # in float32 AdamW blows the rounding of gradients near zero up to 1e-5, and hides smaller faults
        ready.model.double()
        ready.train(plan.model_copy(update={"batch_tokens": 288, "steps": 4}))
        adapters.append(ready.adapter)
    assert farthest(*adapters) < 1e-9


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most_tokens: int, error: Exception) -> None:
    """A forward pass of more tokens than this fails as it does where memory is too short."""
    exact = SummedLoss.forward

    def forward(self: SummedLoss, input_ids: torch.Tensor, *more: torch.Tensor) -> object:
        if input_ids.numel() > most_tokens:
            raise error
        return exact(self, input_ids, *more)

    monkeypatch.setattr(SummedLoss, "forward", forward)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_where_memory_is_short_the_same_steps_are_taken_in_smaller_portions(
    checkpoints: Checkpoints, plan: Training, float32: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    adapters, steps = [], plan.model_copy(update={"batch_tokens": 288, "steps": 4})
    for is_short in (False, True):
        ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length()), []
        ready.model.double()
        if is_short:
            short_of_memory(monkeypatch, 130, error)
        ready.train(steps, record=lines.append)
        adapters.append(ready.adapter)
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert farthest(*adapters) < 1e-9


def test_memory_too_short_for_one_row_is_told_with_a_cure(
    checkpoints: Checkpoints, plan: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    short_of_memory(monkeypatch, 1, MemoryError())
    with pytest.raises(FtError, match=r"memory: expected room for one row .* Lower training\.block_tokens"):
        ready.train(plan)


def test_any_other_error_of_a_step_is_no_shortage_of_memory(
    checkpoints: Checkpoints, plan: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    short_of_memory(monkeypatch, 1, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        ready.train(plan)


def tokens_of_steps(lines: list[dict[str, Any]], epoch: int) -> list[int]:
    ends = [0, *(line["tokens"] for line in lines)]
    return [b - a for (a, b), line in zip(pairwise(ends), lines, strict=True) if line["epoch"] == epoch]


@pytest.mark.parametrize(("family", "batch_tokens"), [("openai-gpt", 128), ("modernbert", 512)])
def test_steps_of_a_family_that_is_not_packed_hold_the_tokens_that_were_asked_for_within_a_row(
    checkpoints: Checkpoints, plan: Training, family: str, batch_tokens: int
) -> None:
    ready = bench(checkpoints[family], texts_of_unequal_length())
    texts = [text[:length] for text in texts_of_unequal_length() for length in (9, 30, 60, 100, 400)]
    documents = encode([TextDocument(f"{i}", 0, text) for i, text in enumerate(texts)], ready.base.tokenizer)
    special, objective = ready.base.special, ready.base.family.objective
    ready.rows = pack(documents, objective, special.begin, special.end, 32, packed=False)
    lengths = [len(row.input_ids) for row in ready.rows]
    assert min(lengths) < 10 and max(lengths) == 32
    lines: list[dict[str, Any]] = []
    asked = {"steps": None, "epochs": 2, "batch_tokens": batch_tokens}
    ready.train(plan.model_copy(update=asked), record=lines.append)
    for epoch in (0, 1):
        tokens = tokens_of_steps(lines, epoch)
        assert len(tokens) == math.ceil(sum(lengths) / batch_tokens) > 1
        assert sum(tokens) == sum(lengths)  # every row, once
        assert all(abs(some - sum(lengths) / len(tokens)) <= 32 for some in tokens)
    orders = [[line["targets"] for line in lines if line["epoch"] == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_the_rest_of_an_epoch_is_spread_over_its_steps(checkpoints: Checkpoints, plan: Training) -> None:
    ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length()), []
    ready.rows = [row for row in ready.rows if len(row.input_ids) == 32][:10]
    ready.train(plan.model_copy(update={"steps": 8, "batch_tokens": 96}), record=lines.append)
    assert [tokens_of_steps(lines, epoch) for epoch in (0, 1)] == [[96, 96, 64, 64]] * 2


@pytest.fixture(scope="module")
def by_two_processes(
    checkpoints: Checkpoints, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What two_processes.py leaves when torchrun starts it twice, over gloo."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    families = [str(checkpoints[family]) for family in OBJECTIVES]
    command = [*torchrun, str(script), str(folder), str(small_corpus), *families]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("family", OBJECTIVES)
def test_two_processes_give_the_adapter_of_one(
    by_two_processes: Path, checkpoints: Checkpoints, family: str, float32: None
) -> None:
    ready, outcome = trained_on_ten_rows(checkpoints[family])
    assert (len(ready.rows), outcome.steps) == (10, 8)  # three rows a step and one left, twice
    assert len({len(row.input_ids) for row in ready.rows}) > 1
    assert farthest(load_file(by_two_processes / f"tiny-{family}.safetensors"), ready.adapter) < 1e-5


@pytest.mark.parametrize("family", OBJECTIVES)
def test_two_processes_that_were_stopped_resume_to_the_bit(by_two_processes: Path, family: str) -> None:
    whole, resumed = (
        (by_two_processes / f"tiny-{family}-{end}.safetensors").read_bytes() for end in ("whole", "resumed")
    )
    assert list((by_two_processes / f"tiny-{family}-checkpoints").iterdir())  # it was resumed, not repeated
    assert whole == resumed


def test_two_processes_slow_down_and_stop_together_when_the_budget_of_one_is_used_up(
    by_two_processes: Path,
) -> None:
    assert (by_two_processes / "budget-main").read_text() == (by_two_processes / "budget-other").read_text()


def test_two_processes_leave_one_run_folder_with_its_verdict(by_two_processes: Path) -> None:
    assert sorted(path.name for path in (by_two_processes / "runs").iterdir()) == ["both", "resumed"]
    assert (by_two_processes / "runs" / "both" / "comparison.json").is_file()


def test_a_run_of_two_processes_that_was_stopped_and_resumed_has_the_same_bytes(
    by_two_processes: Path,
) -> None:
    whole, resumed = (by_two_processes / "runs" / name for name in ("both", "resumed"))
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_a_used_up_budget_stops_cleanly_with_a_validated_adapter(
    checkpoints: Checkpoints, plan: Training
) -> None:
    ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length()), []
    validate = Scripted(ready, 5.0, 4.0)
    outcome = ready.train(
        plan.model_copy(update={"budget": 1e-6, "steps": 500}), validate, record=lines.append
    )
    assert (outcome.stopped_by, outcome.steps, outcome.planned_steps) == ("budget", 1, 500)
    assert (outcome.best_step, outcome.best_validation_nats) == (1, 4.0)
    assert lines[-1]["validation_nats"] == 4.0
    assert equal(ready.adapter, validate.adapters[1])


def test_patience_stops_early_and_the_best_adapter_is_kept(checkpoints: Checkpoints, plan: Training) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    validate = Scripted(ready, 5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 0.0, 0.0, 0.0)
    outcome = ready.train(plan.model_copy(update={"steps": 8, "patience": 3}), validate)
    assert (outcome.stopped_by, outcome.steps, outcome.best_step) == ("patience", 5, 2)
    assert (outcome.base_validation_nats, outcome.best_validation_nats) == (5.0, 3.0)
    assert equal(ready.adapter, validate.adapters[2])
    assert not equal(ready.adapter, validate.adapters[5])


def test_each_better_adapter_is_kept_at_once(
    checkpoints: Checkpoints, plan: Training, tmp_path: Path
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    validate = Scripted(ready, 5.0, 4.0, 4.5, 3.0, math.nan)
    journal = Journal(checkpoints=state.Checkpoints(tmp_path, {}))
    ready.train(plan.model_copy(update={"steps": 4}), validate, journal)
    for step in (3, 4):  # the newest two are there
        assert equal(load_file(tmp_path / f"step-0000000{step}" / "best.safetensors"), validate.adapters[3])


def test_an_improvement_renews_the_patience(checkpoints: Checkpoints, plan: Training) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    validate = Scripted(ready, 5.0, 4.0, 4.5, 3.0, 3.5, 2.0, 2.5, 1.0, 1.5)
    outcome = ready.train(plan.model_copy(update={"steps": 8, "patience": 2}), validate)
    assert (outcome.stopped_by, outcome.steps, outcome.best_step) == ("done", 8, 7)


def test_a_run_is_validated_before_it_and_eight_times_in_it_with_dropout_off(
    checkpoints: Checkpoints, plan: Training
) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length(), adapter=Adapter(dropout=0.5))
    seen: list[bool] = []

    def validate() -> float:
        seen.append(any(module.training for module in ready.model.modules()))
        return 1.0

    ready.train(plan.model_copy(update={"steps": 16}), validate)
    assert seen == [False] * 9


@pytest.mark.parametrize(
    ("signum", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_an_interruption_ends_training_with_the_best_adapter_so_far(
    checkpoints: Checkpoints, plan: Training, signum: int, reason: str
) -> None:
    ready, steps = bench(checkpoints["gpt2"], texts_of_unequal_length()), []
    validate = Scripted(ready, 5.0, 4.0, 4.1)

    def record(line: dict[str, object]) -> None:
        steps.append(line["step"])
        if line["step"] == 2:
            os.kill(os.getpid(), signum)

    outcome = ready.train(plan, validate, record=record)
    assert (outcome.stopped_by, outcome.steps, outcome.best_step) == (reason, 2, 1)
    assert equal(ready.adapter, validate.adapters[1])
    assert steps == [1, 2]


def test_a_row_that_no_number_comes_from_is_skipped_and_moves_nothing(
    checkpoints: Checkpoints, plan: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SKIPPED_IN_A_ROW", 99)
    ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length(), block_tokens=64), []
    with torch.no_grad():  # only a row that one document fills alone reads the last position
        ready.base.model.get_submodule("transformer.wpe").weight[63] = math.inf
    one_row = plan.model_copy(update={"block_tokens": 64, "batch_tokens": 64, "steps": None, "seed": 2})
    outcome = ready.train(one_row.model_copy(update={"epochs": 1}), record=lines.append)
    skipped = [line for line in lines if line.get("skipped")]
    assert outcome.skipped_steps == len(skipped) > 0
    assert {line["loss_nats"] for line in skipped} == {None}
    assert all(torch.isfinite(weight).all() for weight in ready.adapter.values())


def test_numbers_that_stay_wrong_name_steps_and_documents_and_have_their_own_exit_code(
    checkpoints: Checkpoints, plan: Training
) -> None:
    ready, lines = bench(checkpoints["gpt2"], texts_of_unequal_length()), []
    with torch.no_grad():
        ready.base.model.get_submodule("transformer.wpe").weight[0] = math.inf
    with pytest.raises(NumbersGoneWrong) as fault:
        ready.train(plan, record=lines.append)
    assert fault.value.exit_code == 5
    assert str(fault.value).startswith(
        "training steps 1 to 3: expected finite losses and gradients, found none"
    )
    assert ".txt#0" in str(fault.value)


def test_a_line_is_recorded_for_each_step(checkpoints: Checkpoints, plan: Training) -> None:
    ready = bench(checkpoints["gpt2"], texts_of_unequal_length())
    lines: list[dict[str, Any]] = []
    outcome = ready.train(plan, record=lines.append)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(line["loss_nats"]) and math.isfinite(line["gradient_norm"]) for line in lines)
    assert [line["learning_rate"] for line in lines] == [learning_rate(step, 6, plan) for step in range(6)]
    assert lines[-1]["tokens"] == outcome.tokens
    assert all(line["tokens"] <= 128 * line["step"] for line in lines)


@pytest.mark.parametrize("family", OBJECTIVES)
def test_the_loss_falls_on_a_text_that_is_read_again_and_again(
    checkpoints: Checkpoints, plan: Training, family: str
) -> None:
    ready = bench(checkpoints[family], texts_of_unequal_length(), adapter=Adapter(rank=16, alpha=64))
    lines: list[dict[str, Any]] = []
    again = {"steps": 30, "batch_tokens": 512, "learning_rate": 0.03}
    ready.train(plan.model_copy(update=again), record=lines.append)
    first, last = (np.mean([line["loss_nats"] for line in some]) for some in (lines[:5], lines[-5:]))
    assert last < first - 0.2


def test_a_tracker_that_is_not_installed_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(FtError, match="--track"):
        accelerator.make_accelerator("cpu", ["comet_ml"], str(tmp_path))
