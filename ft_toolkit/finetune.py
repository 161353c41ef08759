"""The fine-tuning pipeline, one stage a line: from a recipe to a trained adapter and its verdict."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ft_toolkit import auto
from ft_toolkit.energy import metered
from ft_toolkit.errors import FtError, Terminated, told_when_stopped
from ft_toolkit.forecast import forecast, is_worth_a_probe
from ft_toolkit.inputs import asked_for, comparison_inputs, dataset_inputs, weights_inputs
from ft_toolkit.judging.integrity import Live, fingerprints, observe, prove, require
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.judging.share import Share
from ft_toolkit.judging.unseen import keep_known_text, read_general
from ft_toolkit.material import (
    Material,
    gathered,
    untrained_score,
    validation_documents,
    validation_score,
)
from ft_toolkit.models.adapters import save_adapter
from ft_toolkit.models.kept_weights import kept_in, refuse_four_bits
from ft_toolkit.models.model_pair import ModelPair, load_pair
from ft_toolkit.next_steps import unfinished_noted
from ft_toolkit.preflight import check as check_before
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.report import write_report
from ft_toolkit.rescoring import judge_run
from ft_toolkit.reuse import show_again
from ft_toolkit.run import Run, now
from ft_toolkit.runtime import give_back_memory, prepare_torch, termination_as_exception, versions
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options, Session
from ft_toolkit.stages import Stages, artefact, latest_ended
from ft_toolkit.text.documents import hash_documents
from ft_toolkit.text.splitting import document_rows, hash_rows
from ft_toolkit.training.accelerator import lost_process_told, make_accelerator
from ft_toolkit.training.loop import Journal, TrainingJob, train
from ft_toolkit.training.mixture import shares
from ft_toolkit.training.optimizers import make_optimizers
from ft_toolkit.training.outcome import Outcome
from ft_toolkit.training.state import Checkpoints
from ft_toolkit.training.strength import settle_strength, strength_words

_EARLY = {
    "patience": "validation no longer improves (training.patience)",
    "budget": "the time is used up (training.budget)",
}
DEFAULT = Options()


def finetune(
    recipe: Recipe,
    runs_folder: str | Path = "runs",
    options: Options = DEFAULT,
    screen: Screen | None = None,
) -> Run:
    """Carry a recipe from raw text to a saved, judged adapter; everything is written to the run's folder.

    An unfinished run of the same recipe is resumed, and ends bitwise as if it had never stopped.

    returns  the finished Run: run.adapter_folder, run.folder / "comparison.json"
    raises   FtError for a mistake the user can fix; KeyboardInterrupt or Terminated after a signal, with a
             checkpoint and the adapter so far saved
    """
    started = time.monotonic()
    check_before(recipe, runs_folder, options.trackers, energy=options.energy)
    with termination_as_exception(), tempfile.TemporaryDirectory() as scratch:
        with told_when_stopped("before training; nothing was trained: the same command begins again"):
            prepare_torch()
            accelerator = make_accelerator(options.device, options.trackers, str(runs_folder))
            refuse_four_bits(recipe.adapter.base_precision, accelerator.device.type)
            session = Session(accelerator, screen or Screen(quiet=not accelerator.is_main_process))
            material = gathered(recipe, accelerator.device, session.screen.say)
            # under accelerate launch one process keeps the folder
            run = _opened(Path(runs_folder if session.is_main else scratch), material, options, session)
            stages = Stages(
                run,
                session.screen.say,
                latest_ended(run.folder.parent, recipe.name, but=run) if options.reuse else None,
                options.restart,
            )
        try:
            with unfinished_noted(run), lost_process_told():
                _introduce(run, material, session)
                _stage_dataset(stages, material, session)
                with metered(run.record) if options.energy else nullcontext():
                    pair = _stage_weights(stages, material, session, gate=options.gate)
                with told_when_stopped(f"before the verdict: trained; ft compare {run.folder} judges it"):
                    _stage_comparison(stages, material, pair, session, judge=options.judge)
                _ended(run, session, started)
        finally:
            run.unlock()
    accelerator.end_training()
    return run


def _opened(runs_folder: Path, it: Material, options: Options, session: Session) -> Run:
    """A new run folder, or that of an unfinished run of the same recipe."""
    asked = asked_for(it.asked, judge=options.judge)
    if options.folder is None or not session.is_main:
        return Run.create(runs_folder, it.recipe, asked)
    run = Run.open(options.folder)
    if not run.is_unfinished(asked):
        if not run.is_ended:
            where, fix = run.folder / "recipe.yaml", "Restore the file, or use ft finetune."
            raise FtError(where, "the recipe that this run began with", "another one", fix)
        raise FtError(run.folder, "an unfinished run", "one that came to its end", "Use ft finetune.")
    return run.begun(it.recipe, asked)


def _introduce(run: Run, it: Material, session: Session) -> None:
    """Say and record what is about to be trained."""
    screen = session.screen
    screen.log_to(run.folder / "run.log")
    screen.say(f"{it.recipe.name}: {it.recipe.base} on {it.recipe.text_source}, in {run.folder}")
    if it.pair.base.family.note:
        screen.say(it.pair.base.family.note)
    if it.replayed:
        screen.say(f"replay: {it.replayed} of {len(it.rows)} rows hold the base's own predictions")
    if mixed := shares(it.rows):
        said = (f"{each.label} {each.epoch_tokens:,.0f} ({each.passes:.2g} times)" for each in mixed)
        screen.say(f"mixture: tokens of an epoch, and how often each text is read: {', '.join(said)}")
    if it.reading.not_nfc_documents:
        words = f"{it.reading.not_nfc_documents} documents are not in Unicode's NFC form (decomposed letters)"
        screen.say(f"{words}; they are read as they are")
    if it.reading.redacted:
        words = ", ".join(f"{count} × {kind}" for kind, count in sorted(it.reading.redacted.items()))
        screen.say(f"personal data replaced: {words}; what has no pattern, such as names, is still there")
    for line in it.reading.unreadable:
        screen.say(f"left out: {line}")
    if words := auto.words(it.asked, it.measure):
        screen.say(words)
    run.record(versions=versions(), device=str(session.accelerator.device))
    if is_worth_a_probe(it) and session.accelerator.num_processes == 1:
        screen.say(forecast(it, session).words())


def _stage_dataset(stages: Stages, it: Material, session: Session) -> None:
    """documents.parquet: every document, its part and its hashes; and hashes that recognise training text."""
    run = stages.run
    placed = hash_rows(document_rows(it.parts), "sha256", "split")

    def make() -> None:
        rows = document_rows(it.parts, keep_text=run.recipe.judging.keep_text)
        run.write_table("documents.parquet", rows)
        keep_known_text(run, it.parts)

    stages.stage("dataset", dataset_inputs(it.asked, placed), make, lambda: None)
    give_back_memory()  # of a large text hundreds of megabytes that the training needs not
    sizes = {part: len(documents) for part, documents in it.parts}
    left_out = {"empty": it.reading.empty_documents, "copies": it.reading.copies}
    if it.reading.unreadable:
        left_out["unreadable"] = len(it.reading.unreadable)
    left_out["near_duplicates"] = it.parts.near_duplicates
    hashes = {**it.pair.base.sha256s, "corpus": hash_rows(document_rows(it.parts), "sha256"), "split": placed}
    overlap = {name: found.as_dict() for name, found in it.overlap.items()}
    run.record(sha256=hashes, documents=sizes | left_out, overlap=overlap)
    words = ", ".join(f"{size} {part}" for part, size in sizes.items())
    dropped = ", ".join(f"{count} {what.replace('_', '-')}" for what, count in left_out.items() if count)
    is_cut = any(document.whole_sha256 for document in it.reading.documents)
    groups = {corpus.split.group for corpus in it.recipe.corpora}
    by = next((group for group in groups if group), "file" if is_cut else "text")
    session.screen.say(
        f"documents: {words} (by a hash of each {by}){f'; {dropped} left out' if dropped else ''}"
    )
    if (test := overlap["test"])["with_8gram"]:
        shared = f"{test['with_8gram']} share an 8-gram, {test['with_13gram']} a 13-gram"
        said = f"of {test['documents']} test documents {shared}, {test['tainted']} mostly"
        session.screen.say(f"overlap with training text: {said}")
    read = len(validation_documents(it.parts))
    session.screen.say(f"validation: reads {read} of {sizes['validation']} documents, chosen by hash")
    if (judged := len(it.parts.clean_test)) == it.parts.most_judged:
        session.screen.say(f"verdict: reads {judged:,} test documents, chosen by hash")


def _stage_weights(stages: Stages, it: Material, session: Session, *, gate: bool) -> ModelPair:
    """Base and trained model; with the gate, proven to be what was saved.

    A run that stopped between training and the gate restores its last checkpoint: the gate compares the saved
    files with what training left in memory, never with themselves.

    raises   IntegrityFailed, exit code 4
    """
    run, accelerator = stages.run, session.accelerator
    machine = {"device": accelerator.device.type, "precision": accelerator.mixed_precision}
    made_from = weights_inputs(it.asked, machine, stages.made_of("dataset"))
    journal = _journal(run, made_from, session)
    before = fingerprints(it.pair.tuned.model)
    is_trained = stages.is_current("weights", made_from)
    is_proven = not gate or stages.is_current("integrity", stages.made_of("weights"))
    # the first process's: the others' folders hold nothing that an earlier life saved
    saved = str(run.trained_folder) if is_trained and is_proven else None
    if (folder := Share.of(accelerator).first(lambda: saved)) is not None:
        session.screen.say("already trained; its weights are loaded")
        return load_pair(it.pair.base, Path(folder))
    outcome = stages.stage("weights", made_from, lambda: _trained(run, it, journal, session), lambda: None)
    if outcome is None:  # trained before, not proven: from the last checkpoint, without a step
        outcome = _trained(run, it, journal, session)
    run.record(training=outcome.as_dict())
    _stop_if_asked(outcome, run)
    with told_when_stopped(f"before the verdict: trained; ft compare {run.folder} judges it"):
        # pissa is saved in another form than in memory: judge what was saved
        is_rewritten = it.recipe.adapter.method == "pissa"
        loaded = load_pair(it.pair.base, run.trained_folder) if is_rewritten else None
        if gate and session.is_main:  # also without a verdict: it may be published later
            live = observe(it.pair.tuned, before, it.parts.validation)
            inputs = stages.made_of("weights")
            stages.stage("integrity", inputs, lambda: _proven(run, it, live, loaded, session), lambda: None)
    return loaded or it.pair


def _journal(run: Run, made_from: Mapping[str, Any], session: Session) -> Journal:
    """Where a training writes: the run's folder; under accelerate launch the main process's."""
    folder = Path(Share.of(session.accelerator).first(lambda: str(run.folder))) / "checkpoints"
    checkpoints = Checkpoints(folder, made_from, session.screen.say, run.folder / "metrics.jsonl")
    return Journal(run.append_metrics, run.rewind_metrics, checkpoints)


def _trained(run: Run, it: Material, journal: Journal, session: Session) -> Outcome:
    """Train the model in place, and save what validated best."""
    adapter, tuned = it.recipe.adapter, it.pair.tuned
    share = Share.of(session.accelerator)
    validate = validation_score(tuned, validation_documents(it.parts), share)
    optimizers = make_optimizers(tuned.model, tuned.family, adapter)
    may_restart = it.asked.training.learning_rate == "auto"
    first = untrained_score(it, session)
    job = TrainingJob(tuned, it.rows, it.recipe.training, optimizers, validate, may_restart, first)
    with _base_kept(run, it, validate, session):
        outcome = train(job, session, journal)
        if not outcome.is_unfinished:
            with told_when_stopped("before its strength was chosen; the same command goes on"):
                outcome = settle_strength(tuned.model, adapter, outcome, validate)
    with told_when_stopped(f"while saving {run.trained_folder}"), run.writing(run.trained_folder):
        save_adapter(tuned.model, run.trained_folder, tuned.tokenizer if adapter.is_whole_model else None)
        run.record(files=run.trained_files(), training=outcome.as_dict())
    if outcome.stopped_by in _EARLY:
        place = f"stopped at step {outcome.steps} of {outcome.planned_steps}"
        session.screen.say(f"{place}: {_EARLY[outcome.stopped_by]}")
    if words := strength_words(adapter, outcome):
        session.screen.say(words)
    _stop_if_asked(outcome, run)
    return outcome


@contextmanager
def _base_kept(run: Run, it: Material, validate: Callable[[], float], session: Session) -> Iterator[None]:
    """Keep the frozen base as adapter.base_precision says within the block, and say what that changes."""
    precision = it.recipe.adapter.base_precision
    if precision == "float32":
        yield
        return
    with told_when_stopped("before the first step; nothing was trained"):
        before = validate()
    with kept_in(precision, it.pair.base):
        with told_when_stopped("before the first step; nothing was trained"):
            change = validate() - before
        words = f"base kept in {precision} while it trains: validation {before:.4f} nats a token"
        session.screen.say(f"{words}, {change:+.1e} by that; what is judged is the float32 base")
        run.record(base_kept={"precision": precision, "validation_change_nats": change})
        yield


def _proven(run: Run, it: Material, live: Live, loaded: ModelPair | None, session: Session) -> None:
    """integrity.json: saved is trained.

    raises   IntegrityFailed
    """
    found = prove(live, it.pair.base, run.trained_folder, loaded.tuned if loaded else None)
    run.record(integrity=found.as_dict())
    session.screen.say(found.words())
    require(found, run.trained_folder)
    run.write_json("integrity.json", found.as_dict())


def _stage_comparison(
    stages: Stages, it: Material, pair: ModelPair, session: Session, *, judge: bool
) -> None:
    """scores/ and comparison.json: the verdict; or the validation figure, where none is asked for.

    Several processes score together; the first one looks whether that is done already, writes and speaks.
    """
    run, screen = stages.run, session.screen
    if not it.pair.has_common_figure:
        screen.say("masked models with two tokenizers have no common figure: there is no comparison")
    if not (judge and it.pair.has_common_figure):
        screen.result(_validation_words(run))
        return

    def judged(judge: Callable[[None], None]) -> None:
        general = hash_documents(read_general(it.asked.judging))
        made_from = comparison_inputs(it.asked, general, stages.made_of("dataset", "weights"))
        stages.stage("comparison", made_from, lambda: judge(None), lambda: show_again(run, screen))

    Share.of(session.accelerator).led(judged, lambda _: judge_run(run, pair, it.parts, session))


def _ended(run: Run, session: Session, started: float) -> None:
    """Write the report, remove the checkpoints, and record the run's end."""
    run.record(wall_seconds=round(time.monotonic() - started, 1))  # the report shows it
    if session.is_main:  # before `ended_at`: a run that says it ended has a report, and no checkpoints
        session.screen.say(f"report: {write_report(run)}")
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    # both at once: a run that was killed between them would count as ended, and not go on
    judged = {"finished_at": now()} if artefact(run, "comparison") else {}
    run.record(**judged, ended_at=now())


def _validation_words(run: Run) -> str:
    trained = run.facts["training"]
    base = trained["base_validation_nats"]
    best = base if trained["best_validation_nats"] is None else trained["best_validation_nats"]
    return (
        f"{run.recipe.name}: validation {base:.4f} → {best:.4f} nats a token, "
        f"perplexity {as_percent(best - base):+.1f} %, step {trained['best_step']} of "
        f"{trained['planned_steps']}; the test part was not scored"
    )


def _stop_if_asked(outcome: Outcome, run: Run) -> None:
    """raises   KeyboardInterrupt or Terminated where a signal ended the training; a checkpoint is saved"""
    if not outcome.is_unfinished:
        return
    place = f"{outcome.stopped_by} at step {outcome.steps} of {outcome.planned_steps}"
    words = f"{place}; the same command resumes from there, or ft resume {run.folder}"
    raise KeyboardInterrupt(words) if outcome.stopped_by == "interrupted" else Terminated(words)
