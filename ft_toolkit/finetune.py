"""The whole journey, a stage a line: from a recipe's text to a trained adapter and an honest verdict."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ft_toolkit.compare import judge_run
from ft_toolkit.energy import metered
from ft_toolkit.errors import FtError, Terminated
from ft_toolkit.judging.integrity import check, fingerprints, observe, require
from ft_toolkit.judging.protocols import choose_protocol, score
from ft_toolkit.judging.statistics import as_percent
from ft_toolkit.judging.totals import corpus_totals, document_totals
from ft_toolkit.judging.unseen import document_rows, hash_rows, keep_known_text
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
    prepare_torch()
    accelerator = make_accelerator(device, trackers, str(runs_folder))
    screen = screen or Screen(quiet=not accelerator.is_main_process)
    reading = read_corpus(recipe.corpus)
    parts = split(reading.documents, recipe.corpus.split, reading.copies)
    base = load_base(recipe.base, accelerator.device)
    learner = base
    if recipe.adapter.tokenizer == "train":
        texts = [document.text for document in parts.train]
        learner = with_tokenizer(base, train_tokenizer(base, texts))
    block_tokens = recipe.training.block_tokens or min(BLOCK_TOKENS, learner.positions)
    rows = _training_rows(learner, parts, block_tokens)
    training = recipe.training.model_copy(update={"block_tokens": block_tokens})
    recipe = recipe.model_copy(update={"training": training})  # the run folder keeps what was used
    with tempfile.TemporaryDirectory() as scratch:  # under accelerate launch one process keeps the folder
        run = Run.create(Path(runs_folder if accelerator.is_main_process else scratch), recipe)
        screen.log_to(run.folder / "run.log")
        screen.say(f"{recipe.name}: {recipe.base} on {recipe.corpus.source}, in {run.folder}")
        if base.family.note:
            screen.say(base.family.note)
        if reading.not_nfc_documents:
            words = f"{reading.not_nfc_documents} documents are not in Unicode's NFC form (letters in parts)"
            screen.say(f"{words}; they are read as they stand")
        _record_inputs(run, base, parts, reading, str(accelerator.device), screen)
        model = attach_adapter(learner, recipe.adapter, recipe.training.seed)
        validate = _validation(learner, model, sample(parts.validation, VALIDATION_DOCUMENTS))
        before = fingerprints(model)
        beside = learner.tokenizer if recipe.adapter.is_whole_model else None
        meter = metered(run.record) if energy else nullcontext()
        with termination_as_exception(), meter:

            def keep() -> None:
                with run.writing(run.trained_folder):
                    save_adapter(model, run.trained_folder, beside)
                run.record(files=run.trained_files())

            optimizers = make_optimizers(model, learner.family, recipe.adapter)
            outcome = train(
                model,
                learner,
                rows,
                recipe.training,
                optimizers,
                validate,
                accelerator,
                screen,
                run.append_metrics,
                keep,
            )
            keep()
            if outcome.stopped_by in _EARLY:
                place = f"stopped at step {outcome.steps} of {outcome.planned_steps}"
                screen.say(f"{place}: {_EARLY[outcome.stopped_by]}")
            run.record(training=outcome.as_dict(), wall_seconds=round(time.monotonic() - started, 1))
            _stop_if_asked(outcome, run)
            is_proven = gate and accelerator.is_main_process  # judged or not, it may be published later
            live = observe(model, learner, before, parts.validation) if is_proven else None
            loaded = None
            if recipe.adapter.method == "pissa":  # saved as plain LoRA, and judged as saved
                model = loaded = load_adapter(base, run.trained_folder)
            if live is not None:
                found = check(live, base, run.trained_folder, loaded)
                run.record(integrity=found.as_dict())
                screen.say(found.words())
                require(found, run.trained_folder)
            has_base_figure = learner is base or base.family.objective == "causal"
            if not has_base_figure:
                screen.say(
                    "masked models of two tokenizers have no common figure: base and model stand alone"
                )
            if not (judge and has_base_figure):
                screen.result(_validation_words(outcome, recipe.name))
            elif accelerator.is_main_process:
                try:
                    judge_run(run, base, model, parts, screen, reader=learner)
                except (KeyboardInterrupt, Terminated) as stop:
                    saved = f"stopped while judging; the adapter is saved: ft compare {run.folder} judges it"
                    raise type(stop)(saved) from None
                run.record(wall_seconds=round(time.monotonic() - started, 1))
    accelerator.end_training()
    return run


def finetune_seeds(
    recipe: Recipe, seeds: int, runs_folder: str | Path = "runs", *, screen: Screen | None = None, **how: Any
) -> list[Run]:
    """Train and judge a recipe once for each of `seeds` seeds, from the recipe's own upwards.

    The spread of the gains stands beside the interval, which knows nothing of training luck. The other
    arguments are finetune's.
    """
    screen = screen or Screen()
    runs = []
    for seed in range(recipe.training.seed, recipe.training.seed + seeds):
        training = recipe.training.model_copy(update={"seed": seed})
        name = recipe.name if seed == recipe.training.seed else f"{recipe.name}-seed{seed}"
        runs.append(
            finetune(
                recipe.model_copy(update={"training": training, "name": name}),
                runs_folder,
                screen=screen,
                **how,
            )
        )
    gains = [run.comparison["corpora"][0]["percent"] for run in runs]
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    screen.result(
        f"{recipe.name} over {seeds} training seeds: {each} %; mean {statistics.mean(gains):+.1f} %, "
        f"standard deviation {spread:.1f}, worst {max(gains):+.1f} %"
    )
    return runs


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
    best = (
        outcome.best_validation_nats
        if outcome.best_validation_nats is not None
        else outcome.base_validation_nats
    )
    change = as_percent(best - outcome.base_validation_nats)
    return (
        f"{name}: validation {outcome.base_validation_nats:.4f} → {best:.4f} nats a token, "
        f"perplexity {change:+.1f} %, step {outcome.best_step} of {outcome.planned_steps}; "
        "the test part was not scored"
    )


def _stop_if_asked(outcome: Outcome, run: Run) -> None:
    place = f"at step {outcome.steps} of {outcome.planned_steps}"
    saved = f"{place}; the adapter of step {outcome.best_step} is saved in"
    if outcome.stopped_by == "interrupted":
        raise KeyboardInterrupt(f"interrupted {saved} {run.trained_folder}")
    if outcome.stopped_by == "terminated":
        raise Terminated(f"terminated {saved} {run.trained_folder}")
