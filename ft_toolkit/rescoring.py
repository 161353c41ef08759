"""Score base and tuned model: of a run just trained, of earlier runs again, of an adapter from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ft_toolkit.errors import FtError
from ft_toolkit.inputs import comparison_inputs, recipe_asked_for
from ft_toolkit.judging.comparison import Comparison, compare
from ft_toolkit.judging.drift import score_divergence, score_drift
from ft_toolkit.judging.protocols import How, protocol_of
from ft_toolkit.judging.run_scores import made_from
from ft_toolkit.judging.saving import write
from ft_toolkit.judging.scoring import Scorer, Text, score_both, score_parts, source_label
from ft_toolkit.judging.showing import show, show_ranking
from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
from ft_toolkit.judging.unseen import read_general, read_other, recovered, refuse_trained_text
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.foreign import load_foreign, other_name
from ft_toolkit.models.model_pair import ModelPair
from ft_toolkit.progress import Screen
from ft_toolkit.reporting.report import write_report
from ft_toolkit.run import Run, now
from ft_toolkit.run_models import scoring_session, trained_pairs
from ft_toolkit.sections import NEAR_DUPLICATES, Judging
from ft_toolkit.session import Session
from ft_toolkit.stages import Stages, list_artefact
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, hash_documents
from ft_toolkit.text.screening import repeated_lines
from ft_toolkit.text.screening import screen as screened
from ft_toolkit.text.splitting import Parts

Keep = Callable[[Comparison, TokenScores], object]  # told each comparison and its scores
Source = tuple[str, list[Document]]  # as the user named it, and what it holds


def _forget(comparison: Comparison, scores: TokenScores) -> None:
    """Keep nothing."""


def compare_run(
    run: Run, on: str | None = None, *, device: str = "auto", screen: Screen | None = None
) -> Comparison:
    """Score one run again: on its own held-out text, or on every document of `on`; see compare_runs."""
    return compare_runs([run], [on] if on is not None else [], How(device=device), screen=screen)[0]


def compare_runs(
    runs: Sequence[Run],
    on: Sequence[str],
    how: How | None = None,
    *,
    screen: Screen | None = None,
    keep: Keep = _forget,
) -> list[Comparison]:
    """Score runs again, each on its own held-out text or all on every source of `on`.

    Runs of one base share one set of weights, and the base's scores are kept for the next time. Several
    processes score together; all but the first one return nothing.

    raises   FtError when a base or tokenizer changed since training, when text was trained on by any of the
             runs, or when the runs are judged by different protocols; IntegrityFailed for an adapter or
             model that is not the one that was trained
    """
    if not runs:
        raise FtError("ft compare", "a run, or --base and --adapter", "neither", "ft runs lists the runs.")
    how = how or How()
    session = scoring_session(how.device, screen)
    others = [(source, read_other(runs, source, session.screen)) for source in on]
    for run in runs:
        run.check_trained(session.screen.say)
        for source, documents in others:
            refuse_trained_text(run, documents, source, session.screen)
    found: list[Comparison] = []
    for run, pair in trained_pairs(runs, session):
        scorer = Scorer(pair, protocol_of(pair.base, run.recipe.judging, how), session)
        if others:
            corpora = _score_others(scorer, others, run.recipe.judging)
            scores = TokenScores(scorer.subject(run.folder.name), corpora)
        else:
            scores = score_run(run, scorer, _held_out(run, runs, session.screen), how)
        if not session.is_main:
            continue
        is_first = not others and not run.is_finished
        found.append(_compared(run, scores, session.screen, keeps=is_first))
        if is_first:
            _finished(run, how)
            session.screen.say(f"report: {write_report(run)}")
        keep(found[-1], scores)
    show_ranking(found, session.screen, common_text=bool(on))
    return found


def judge_run(run: Run, pair: ModelPair, parts: Parts, session: Session) -> None:
    """Score the parts of a run's corpus, keep scores and comparison in its folder, and say the verdict.

    Several processes score together, and the first one does the rest.
    """
    how = How()
    scorer = Scorer(pair, protocol_of(pair.base, run.recipe.judging, how), session)
    scores = score_run(run, scorer, parts, how)
    if session.is_main:
        _compared(run, scores, session.screen, keeps=True)


def compare_adapter(
    base_name: str | None,
    folder: Path | None,
    on: Sequence[str],
    how: How | None = None,
    *,
    screen: Screen | None = None,
    keep: Keep = _forget,
) -> Comparison:
    """Score an adapter that was not made here against its base, on every source of `on`.

    What it was trained on is unknown, and the verdict says so.

    raises   FtError unless base, adapter and text are all given
    """
    given = {"--base": base_name, "--adapter": folder, "--on": on or None}
    missing = ", ".join(option for option, value in given.items() if value is None)
    if base_name is None or folder is None or missing:
        raise FtError("ft compare", "--base, --adapter and --on", f"no {missing}", "Give all three.")
    how = how or How()
    session = scoring_session(how.device, screen)
    base = load_base(base_name, session.accelerator.device)
    model = load_foreign(base, folder)
    named = other_name(base, model)
    if named is not None:
        words = f"made for {named}, scored on {base.name}; its shapes fit both: are they one?"
        session.screen.say(f"{folder}: {words}")
    pair = ModelPair(base, base.with_model(model))
    scorer = Scorer(pair, protocol_of(base, Judging(), how), session)
    subject = scorer.subject(folder.resolve().name, knows_training_text=False)
    others = [(source, screened(read_source(source).documents, NEAR_DUPLICATES).documents) for source in on]
    scores = TokenScores(subject, _score_others(scorer, others, Judging()))
    comparison = shown(scores, folder, session.screen)
    keep(comparison, scores)
    return comparison


def shown(scores: TokenScores, trained: Path, screen: Screen) -> Comparison:
    """Compare, and show what came out."""
    comparison = compare(scores)
    show(comparison, trained, screen)
    return comparison


def _held_out(run: Run, runs: Sequence[Run], screen: Screen) -> Parts:
    """A run's own parts, its held-out one unseen by every other run.

    raises   FtError where another of `runs` was trained on it
    """
    parts = recovered(run, screen)
    for other in (other for other in runs if other.split_sha256 != run.split_sha256):
        refuse_trained_text(other, parts.test, f"held-out text of {run.folder}", screen)
    return parts


def score_run(run: Run, scorer: Scorer, parts: Parts, how: How) -> TokenScores:
    judging, label = run.recipe.judging, run.recipe.text_label
    corpora = [
        *score_parts(scorer, run.recipe, parts),
        *score_drift(scorer, judging, read_general(judging)),
        *score_divergence(scorer, label, parts.clean_test, keeps_ids=judging.keep_text),
    ]
    return TokenScores(scorer.subject(run.folder.name), corpora, made_from(run, how))


def _compared(run: Run, scores: TokenScores, screen: Screen, *, keeps: bool) -> Comparison:
    comparison = compare(scores)
    if keeps:
        write(run, comparison, scores)
    show(comparison, run.trained_folder, screen)
    return comparison


def _finished(run: Run, how: How) -> None:
    """A run that was not judged when it was trained now is: its comparison is listed and counts."""
    recipe = recipe_asked_for(run.recipe, run.facts.get("asked") or {"filled": []})
    general = hash_documents(read_general(recipe.judging))
    made_from = comparison_inputs(recipe, general, Stages(run).made_of("dataset", "weights"))
    if how != How():  # by another protocol than the recipe's: not to be taken over
        made_from |= {"how": asdict(how)}
    list_artefact(run, "comparison", made_from)
    run.record(finished_at=now())


def _score_others(scorer: Scorer, others: Sequence[Source], plan: Judging) -> list[CorpusScores]:
    """Every source, and how far the tuned model is from its base there and elsewhere.

    plan   keep_text, and the general text
    """
    found: list[CorpusScores] = []
    for source, documents in others:
        text = Text(
            source_label(source), "other", documents, repeated_lines(documents), keeps_ids=plan.keep_text
        )
        found.append(score_both(scorer, text))
        found += score_divergence(scorer, text.corpus, documents, keeps_ids=plan.keep_text)
    return [*found, *score_drift(scorer, plan, read_general(plan))]
