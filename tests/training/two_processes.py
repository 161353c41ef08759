"""A small training that test_loop.py runs in one process and, under torchrun, in two."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from ft_toolkit import shipped
from ft_toolkit.finetune import finetune
from ft_toolkit.models.adapters import attach_adapter, trainable
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Adapter, Recipe, Training
from ft_toolkit.session import Options, Session
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Row
from ft_toolkit.training import accelerator, loop
from ft_toolkit.training.loop import Journal, TrainingJob
from ft_toolkit.training.optimizers import make_optimizers
from ft_toolkit.training.outcome import Outcome
from ft_toolkit.training.state import Checkpoints

# three rows a step, ten rows: processes get two and one, and of the last step one and none
PLAN = Training(epochs=2, block_tokens=32, batch_tokens=96, learning_rate=0.01, patience=100)
SLOW_CLOCK_SECONDS = 1000.0


@dataclass
class Bench:
    """A base with a fresh adapter, and rows to train it on."""

    base: LanguageModel
    plan: Adapter
    model: PeftModel
    rows: Sequence[Row]

    def train(
        self,
        plan: Training,
        validate: Callable[[], float] | None = None,
        journal: Journal | None = None,
        record: Callable[[dict[str, object]], None] = lambda line: None,
        may_restart: bool = False,
    ) -> Outcome:
        session = Session(accelerator.make_accelerator(), Screen(quiet=True))
        validate = validate or partial(next, count(0, -1))  # ever better: the last adapter is the best
        optimizers = make_optimizers(self.model, self.base.family, self.plan)
        tuned = self.base.with_model(self.model)
        job = TrainingJob(tuned, self.rows, plan, optimizers, validate, may_restart)
        return loop.train(job, session, journal or Journal(record))

    @property
    def adapter(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in trainable(self.model).items()}


def texts_of_unequal_length() -> list[str]:
    paths = sorted(shipped.corpus("everyday-medicine").glob("*.md"))[:7]
    return [path.read_text()[: 40 + 130 * i] for i, path in enumerate(paths)]


def bench(
    checkpoint: Path,
    texts: Sequence[str],
    block_tokens: int = PLAN.block_tokens,
    adapter: Adapter | None = None,
) -> Bench:
    """Pack texts for a checkpoint, and attach an adapter to it."""
    base = load_base(str(checkpoint))
    documents = encode([TextDocument(f"{i}.txt", 0, text) for i, text in enumerate(texts)], base.tokenizer)
    special = base.special
    rows = pack(documents, base.family.objective, special.begin, special.end, block_tokens)
    adapter = adapter or Adapter()
    return Bench(base, adapter, attach_adapter(base, adapter, seed=0), rows)


def trained_on_ten_rows(checkpoint: Path) -> tuple[Bench, Outcome]:
    ready = bench(checkpoint, texts_of_unequal_length())
    ready.rows = ready.rows[-10:]
    return ready, ready.train(PLAN)


def stopped_by_one_clock(checkpoint: Path) -> tuple[Outcome, list[object]]:
    """The budget is used up on the second process's clock alone; and the rate of each step."""
    ready = bench(checkpoint, texts_of_unequal_length())
    if accelerator.make_accelerator().process_index == 1:
        exact = time.monotonic
        time.monotonic = lambda: exact() * SLOW_CLOCK_SECONDS
    rates: list[object] = []
    plan = PLAN.model_copy(update={"epochs": 100, "budget": 60.0})
    return ready.train(plan, record=lambda line: rates.append(line["learning_rate"])), rates


class Stopped(Exception):
    """Stands in for a kill in the middle of a training."""


def trained_through_a_stop(checkpoint: Path, folder: Path) -> tuple[Bench, Bench]:
    """The same training twice: undisturbed, and stopped at its fourth step and resumed."""

    def record(line: dict[str, object]) -> None:
        if line["step"] == 4:
            raise Stopped

    plan = PLAN.model_copy(update={"epochs": 3})
    whole, stopped, resumed = (
        bench(checkpoint, texts_of_unequal_length(), adapter=Adapter(dropout=0.2)) for _ in range(3)
    )
    whole.train(plan)
    kept = Checkpoints(folder / f"{checkpoint.name}-checkpoints", {"recipe": "1"}, print)
    with suppress(Stopped):
        stopped.train(plan, journal=Journal(record, checkpoints=kept))
    resumed.train(plan, journal=Journal(checkpoints=kept))
    return whole, resumed


def resumed_run(recipe: Recipe, runs: Path) -> None:
    """A whole fine-tuning that stops at its third step and is resumed, as by ft resume."""

    def append(run: Run, line: dict[str, object]) -> None:
        if line["step"] == 3:
            raise Stopped
        exact(run, line)

    exact = Run.append_metrics
    with patch.object(Run, "append_metrics", append), suppress(Stopped):
        finetune(recipe, runs, Options(gate=False))
    finetune(recipe, runs, Options(gate=False, folder=runs / recipe.name))


def main(folder: Path, corpus: str, checkpoints: Sequence[str]) -> None:
    """Leave FAMILY.safetensors for each checkpoint, the steps that a budget allowed, and a whole run."""
    accelerator.bfloat16_is_faster = lambda kind: (
        False
    )  # another order of sums may not hide in bfloat16's rounding
    Accelerator.end_training = lambda self: None  # type: ignore[method-assign]  # several trainings a process
    is_main = accelerator.make_accelerator().is_main_process
    for checkpoint in map(Path, checkpoints):
        ready, _ = trained_on_ten_rows(checkpoint)
        whole, resumed = trained_through_a_stop(checkpoint, folder)
        if is_main:
            save_file(ready.adapter, folder / f"{checkpoint.name}.safetensors")
            save_file(whole.adapter, folder / f"{checkpoint.name}-whole.safetensors")
            save_file(resumed.adapter, folder / f"{checkpoint.name}-resumed.safetensors")
    training = {"steps": 4, "block_tokens": 32, "batch_tokens": 96}
    values = {"base": checkpoints[0], "corpus": {"source": corpus}, "training": training}
    values["judging"] = {"general": None}
    outcome, rates = stopped_by_one_clock(Path(checkpoints[0]))
    (folder / f"{outcome.stopped_by}-{'main' if is_main else 'other'}").write_text(f"{outcome.steps} {rates}")
    finetune(Recipe.model_validate(values | {"name": "both"}), folder / "runs")
    resumed_run(Recipe.model_validate(values | {"name": "resumed"}), folder / "runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
