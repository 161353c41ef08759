"""The whole journey, a stage a line: from a recipe's text to a trained adapter and an honest verdict."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ft_toolkit.compare import judge_run
from ft_toolkit.energy import metered
from ft_toolkit.errors import FtError, Terminated, told_when_stopped
from ft_toolkit.judging.integrity import check, fingerprints, observe, require
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.statistics import as_percent
from ft_toolkit.judging.totals import corpus_totals, document_totals
from ft_toolkit.judging.unseen import document_rows, hash_rows, keep_known_text, read_general
from ft_toolkit.models.adapters import attach_adapter, load_adapter, save_adapter
from ft_toolkit.models.checkpoints import Base, load_base
from ft_toolkit.models.losses import TokenLosses
from ft_toolkit.models.tokenizers import train_tokenizer, with_tokenizer
from ft_toolkit.preflight import check as check_before
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Recipe
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_torch, termination_as_exception, versions
from ft_toolkit.text.blocks import Row, encode, pack
from ft_toolkit.text.corpus import Document, Reading, read_corpus
from ft_toolkit.text.splitting import Parts, sample, split
from ft_toolkit.training.loop import Outcome, make_accelerator, train
from ft_toolkit.training.optimizers import make_optimizers

_EARLY = {
    "patience": "validation no longer improves (training.patience)",
    "budget": "the time is used up (training.budget)",
}
BLOCK_TOKENS = 256  # where the recipe says nothing and the model reads as much
VALIDATION_DOCUMENTS = 64  # more would cost as much as the training they steer


def finetune(
    recipe: Recipe,
    runs_folder: str | Path = "runs",
    *,
    device: str = "auto",
    trackers: Sequence[str] = (),
    judge: bool = True,
    gate: bool = True,
    energy: bool = False,
    screen: Screen | None = None,
) -> Run:
    """Carry a recipe from raw text to a saved, judged adapter; everything lands in the run's folder.

    judge    False: stop after training with the validation figure, so that configurations can be tried
             without a look at the test part; ft compare judges the run later
    gate     False: spare the fresh process that proves what was saved (some seconds); ft push refuses such
             a run
    energy   True: measure with codecarbon (extra `energy`)
    returns  the finished Run: run.adapter_folder, run.folder / "comparison.json"
    raises   FtError for a mistake the user can mend; KeyboardInterrupt after an interruption, with the
             adapter so far saved
    """
    started = time.monotonic()
    check_before(recipe, runs_folder, trackers, energy=energy)
    with termination_as_exception(), tempfile.TemporaryDirectory() as scratch:
        with told_when_stopped("before training; nothing was trained"):
            prepare_torch()
            accelerator = make_accelerator(device, trackers, str(runs_folder))
            is_main = accelerator.is_main_process  # under accelerate launch one process keeps the folder
            screen = screen or Screen(quiet=not is_main)
            material = _gathered(recipe, accelerator.device)
            run = Run.create(Path(runs_folder if is_main else scratch), material.recipe)
            _introduce(run, material, str(accelerator.device), screen)
            before = fingerprints(material.model)
        with metered(run.record) if energy else nullcontext():
            outcome = _trained(run, material, accelerator, screen)
            with told_when_stopped(f"before the verdict: trained; ft compare {run.folder} judges it"):
                run.record(training=outcome.as_dict(), wall_seconds=round(time.monotonic() - started, 1))
                _stop_if_asked(outcome, run)
                # judged or not, it may be published later
                model = _proven(run, material, before, screen, gate=gate and is_main)
                if not (judge and material.has_base_figure):
                    screen.result(_validation_words(outcome, recipe.name))
                elif is_main:
                    judge_run(run, material.base, model, material.parts, screen, reader=material.learner)
                    run.record(wall_seconds=round(time.monotonic() - started, 1))
    accelerator.end_training()
    return run


def finetune_seeds(
    recipe: Recipe,
    seeds: int,
    runs_folder: str | Path = "runs",
    *,
    judge: bool = True,
    screen: Screen | None = None,
    **how: Any,
) -> list[Run]:
    """Train and judge a recipe once for each of `seeds` seeds, from the recipe's own upwards.

    The spread of the gains stands beside the interval, which knows nothing of training luck. The other
    arguments are finetune's.

    judge   False: the test part stays unseen, and the gains are those on the validation part
    """
    screen = screen or Screen()
    runs = []
    for seed in range(recipe.training.seed, recipe.training.seed + seeds):
        training = recipe.training.model_copy(update={"seed": seed})
        name = recipe.name if seed == recipe.training.seed else f"{recipe.name}-seed{seed}"
        one = recipe.model_copy(update={"training": training, "name": name})
        runs.append(finetune(one, runs_folder, judge=judge, screen=screen, **how))
    are_judged = all((run.folder / "comparison.json").is_file() for run in runs)
    gains = [_gain_percent(run, is_judged=are_judged) for run in runs]
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    where = "" if are_judged else ", on the validation part; the test part was not scored"
    screen.result(
        f"{recipe.name} over {seeds} training seeds: {each} %; mean {statistics.mean(gains):+.1f} %, "
        f"standard deviation {spread:.1f}, worst {max(gains):+.1f} %{where}"
    )
    return runs


@dataclass(frozen=True)
class Material:
    """What training starts from, all of it read and checked."""

    recipe: Recipe
    reading: Reading
    parts: Parts
    base: Base
    learner: Base  # the base, or its architecture with a tokenizer of its own
    model: PeftModel | PreTrainedModel  # nothing learnt yet
    rows: list[Row]

    @property
    def has_base_figure(self) -> bool:
        """Masked models of two tokenizers hide different pieces."""
        return self.learner is self.base or self.base.family.objective == "causal"


def _gathered(recipe: Recipe, device: torch.device) -> Material:
    """Read, load and check; what cannot be judged later is told now, before hours of training."""
    general = read_general(recipe.judging)
    reading = read_corpus(recipe.corpus)
    parts = split(reading.documents, recipe.corpus.split, reading.copies)
    base = load_base(recipe.base, device)
    choose_protocol(base, recipe.judging.protocol, recipe.judging.window, recipe.judging.stride)
    if general and not encode(general, base.tokenizer):
        raise FtError("judging.general", f"text with a token of {base.name}", "none", "Choose more text.")
    learner = base
    if recipe.adapter.tokenizer == "train":
        texts = [document.text for document in parts.train]
        learner = with_tokenizer(base, train_tokenizer(base, texts))
    block_tokens = recipe.training.block_tokens or min(BLOCK_TOKENS, learner.positions)
    rows = _training_rows(learner, parts, block_tokens)
    training = recipe.training.model_copy(update={"block_tokens": block_tokens})
    recipe = recipe.model_copy(update={"training": training})  # the run folder keeps what was used
    model = attach_adapter(learner, recipe.adapter, recipe.training.seed)
    return Material(recipe, reading, parts, base, learner, model, rows)


def _introduce(run: Run, it: Material, device: str, screen: Screen) -> None:
    """Say and record what is about to be trained."""
    screen.log_to(run.folder / "run.log")
    screen.say(f"{it.recipe.name}: {it.recipe.base} on {it.recipe.corpus.source}, in {run.folder}")
    if it.base.family.note:
        screen.say(it.base.family.note)
    if it.reading.not_nfc_documents:
        words = f"{it.reading.not_nfc_documents} documents are not in Unicode's NFC form (letters in parts)"
        screen.say(f"{words}; they are read as they stand")
    _record_inputs(run, it.base, it.parts, it.reading, device, screen)


def _trained(run: Run, it: Material, accelerator: Accelerator, screen: Screen) -> Outcome:
    """Train the model in place; it is saved at each better validation, and at the end."""
    adapter, family = it.recipe.adapter, it.learner.family
    beside = it.learner.tokenizer if adapter.is_whole_model else None

    def keep() -> None:
        with run.writing(run.trained_folder):
            save_adapter(it.model, run.trained_folder, beside)
        run.record(files=run.trained_files())

    outcome = train(
        it.model,
        it.learner,
        it.rows,
        it.recipe.training,
        make_optimizers(it.model, family, adapter),
        _validation(it.learner, it.model, sample(it.parts.validation, VALIDATION_DOCUMENTS)),
        accelerator,
        screen,
        run.append_metrics,
        keep,
    )
    with told_when_stopped(f"while saving {run.trained_folder}"):
        keep()
    if outcome.stopped_by in _EARLY:
        place = f"stopped at step {outcome.steps} of {outcome.planned_steps}"
        screen.say(f"{place}: {_EARLY[outcome.stopped_by]}")
    return outcome


def _proven(run: Run, it: Material, before: dict[str, str], screen: Screen, *, gate: bool) -> nn.Module:
    """The model to judge; behind the gate, saved is trained.

    before   fingerprints of the model before training
    raises   IntegrityFailed
    """
    live = observe(it.model, it.learner, before, it.parts.validation) if gate else None
    loaded = None
    if it.recipe.adapter.method == "pissa":  # saved as plain LoRA, and judged as saved
        loaded = load_adapter(it.base, run.trained_folder)
    if live is not None:
        found = check(live, it.base, run.trained_folder, loaded)
        run.record(integrity=found.as_dict())
        screen.say(found.words())
        require(found, run.trained_folder)
    if not it.has_base_figure:
        screen.say("masked models of two tokenizers have no common figure: base and model stand alone")
    return it.model if loaded is None else loaded


def _training_rows(base: Base, parts: Parts, block_tokens: int) -> list[Row]:
    if block_tokens > base.positions:
        wanted = f"at most {base.positions} for {base.name}"
        raise FtError("training.block_tokens", wanted, block_tokens, "Lower it.")
    documents = encode(parts.train, base.tokenizer)
    tokens = sum(len(document.ids) for document in documents)
    if tokens < block_tokens:
        wanted = f"at least one row of {block_tokens} training tokens"
        raise FtError("corpus", wanted, f"{tokens} tokens", "Add text or lower training.block_tokens.")
    return pack(
        documents,
        base.family.objective,
        base.special.begin,
        base.special.end,
        block_tokens,
        packed=base.family.packs,
    )


def _validation(base: Base, model: nn.Module, documents: Sequence[Document]) -> Callable[[], float]:
    """Nats a token of validation documents, scored as the verdict will be, in float32."""
    encoded = encode(documents, base.tokenizer)
    losses = TokenLosses(model, base.family)
    protocol = choose_protocol(base, "auto" if base.family.objective == "causal" else "covering")

    def validate() -> float:
        scores = score(losses, encoded, base, protocol)
        return corpus_totals(
            document_totals(d, nll) for d, nll in zip(encoded, scores, strict=True)
        ).nats_per_token

    return validate


def _record_inputs(run: Run, base: Base, parts: Parts, reading: Reading, device: str, screen: Screen) -> None:
    rows = document_rows(parts, keep_text=run.recipe.judging.keep_text)
    run.write_table("documents.parquet", rows)
    keep_known_text(run, parts)
    hashes = {
        **base.sha256s,
        "corpus": hash_rows(rows, "sha256"),
        "split": hash_rows(rows, "sha256", "split"),
    }
    sizes = {part: len(documents) for part, documents in parts}
    left_out = {"empty": reading.empty_documents, "copies": reading.copies}
    run.record(versions=versions(), sha256=hashes, device=device, documents=sizes | left_out)
    words = ", ".join(f"{size} {part}" for part, size in sizes.items())
    dropped = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    by = "file" if any(document.file_sha256 for document in reading.documents) else "text"
    screen.say(f"documents: {words} (by a hash of each {by}){f'; {dropped} left out' if dropped else ''}")
    read = min(sizes["validation"], VALIDATION_DOCUMENTS)
    screen.say(f"validation: reads {read} of {sizes['validation']} documents, chosen by hash")


def _validation_words(outcome: Outcome, name: str) -> str:
    best = _best_validation_nats(outcome.base_validation_nats, outcome.best_validation_nats)
    change = as_percent(best - outcome.base_validation_nats)
    return (
        f"{name}: validation {outcome.base_validation_nats:.4f} → {best:.4f} nats a token, "
        f"perplexity {change:+.1f} %, step {outcome.best_step} of {outcome.planned_steps}; "
        "the test part was not scored"
    )


def _gain_percent(run: Run, *, is_judged: bool) -> float:
    """By how much perplexity moved: on the test part, or on the validation part alone."""
    if is_judged:
        return float(run.comparison["corpora"][0]["percent"])
    trained = run.facts["training"]
    base = trained["base_validation_nats"]
    return as_percent(_best_validation_nats(base, trained["best_validation_nats"]) - base)


def _best_validation_nats(base: float, best: float | None) -> float:
    return base if best is None else best


def _stop_if_asked(outcome: Outcome, run: Run) -> None:
    place = f"at step {outcome.steps} of {outcome.planned_steps}"
    saved = f"{place}; the adapter of step {outcome.best_step} is saved in"
    if outcome.stopped_by == "interrupted":
        raise KeyboardInterrupt(f"interrupted {saved} {run.trained_folder}")
    if outcome.stopped_by == "terminated":
        raise Terminated(f"terminated {saved} {run.trained_folder}")
