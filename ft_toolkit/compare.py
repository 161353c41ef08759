"""Score a run's adapter against its base again: ft compare, or python -m ft_toolkit.compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.judging.protocols import How, protocol_of
from ft_toolkit.progress import Screen
from ft_toolkit.runtime import prepare_process

if TYPE_CHECKING:  # torch and pydantic come with these; --help must not wait
    from torch import nn

    from ft_toolkit.judging.comparison import Comparison
    from ft_toolkit.judging.scoring import Scorer
    from ft_toolkit.judging.token_scores import CorpusScores, TokenScores
    from ft_toolkit.models.checkpoints import Base
    from ft_toolkit.run import Run
    from ft_toolkit.text.corpus import Document
    from ft_toolkit.text.splitting import Parts

Keep = Callable[["Comparison", "TokenScores"], object]  # told each comparison and its scores
JSON_SCHEMA = 4  # of what --json prints: docs/comparison.schema.json


def main(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Run folders, or hub:owner/name[@revision].")
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="Other text to judge on (repeatable): file, folder, glob, hf:….")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="document, rolling, concatenated; word-l2r, pll, covering.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Tokens read at once; all positions by default.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens a window moves on; half of it by default.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Masked: score every token, no sample.")] = False,
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16: differences only, faster.")
    ] = "float32",
    fail_if_worse: Annotated[bool, typer.Option("--fail-if-worse", help="Exit 3 if surely worse.")] = False,
    require_gain: Annotated[str | None, typer.Option(help="Exit 3 unless surely so much better: 5%.")] = None,
    details: Annotated[bool, typer.Option("--details", help="Also print every number of each text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Save comparison.json and each document's scores in a new folder.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    base: Annotated[str | None, typer.Option(help="With --adapter: what it was made for.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter's folder, made elsewhere.")] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score anew where the run's own scores would do.")
    ] = False,
) -> None:
    """Compare each run's adapter with its base on text that neither has trained on."""
    with one_line_errors():
        from ft_toolkit.judging.gates import check, required_gain
        from ft_toolkit.judging.run_scores import scores_of
        from ft_toolkit.judging.saving import Judged, refuse_taken, save
        from ft_toolkit.judging.verdict import detail_lines
        from ft_toolkit.sharing.pulled import open_run

        if out is not None:
            refuse_taken(out)
        judged: list[Judged] = []

        def keep(comparison: Comparison, scores: TokenScores) -> None:
            judged.append((comparison, scores))

        gain = required_gain(require_gain) if require_gain is not None else None
        prepare_process()
        screen = Screen(quiet=as_json)
        how = How(protocol, window, stride, exact, precision, device)
        if adapter is not None or base is not None:
            if runs:
                wanted = "runs, or --base and --adapter"
                raise FtError("ft compare", wanted, "both", "Ask for one of them at a time.")
            found = [compare_adapter(base, adapter, on or [], how, screen=screen, keep=keep)]
        else:
            opened = [open_run(run, screen.say) for run in runs or []]
            kept = None if on or rescore or how != How() else scores_of(opened, screen.say)
            if kept is not None:
                found = _compared_again(opened, kept, screen, keep)
            else:
                found = compare_runs(opened, on or [], how, screen=screen, keep=keep)
        if out is not None:
            save(out, judged)
            screen.say(f"saved: {out}")
        if details:
            for comparison in found:
                screen.result("\n".join(["", f"{comparison.name} in detail", *detail_lines(comparison)]))
        if as_json:
            whole = {"schema": JSON_SCHEMA, "comparisons": [comparison.as_dict() for comparison in found]}
            json.dump(whole, sys.stdout, indent=2)
            print()
        check(found, fail_if_worse=fail_if_worse, gain_percent=gain)


def compare_from(run: Run) -> Comparison:
    """The comparison that a run's scores/ hold, bit by bit as it was judged; imports no torch.

    raises   FtError where they are missing or damaged
    """
    from ft_toolkit.judging.comparison import compare
    from ft_toolkit.judging.run_scores import read

    return compare(read(run))


def _compared_again(
    runs: Sequence[Run], kept: Sequence[TokenScores], screen: Screen, keep: Keep
) -> list[Comparison]:
    """Comparisons of scores that are there already."""
    found = []
    for run, scores in zip(runs, kept, strict=True):
        screen.say(f"{run.folder}: judged {run.facts['finished_at']}; --rescore scores it anew")
        found.append(_told(scores, run.trained_folder, screen))
        keep(found[-1], scores)
    _rank(found, screen, common_text=False)
    return found


def compare_run(
    run: Run, on: str | None = None, *, device: str = "auto", screen: Screen | None = None
) -> Comparison:
    """Score one run anew: on its own held-out text, or on every document of `on`; see compare_runs."""
    return compare_runs([run], [on] if on is not None else [], How(device=device), screen=screen)[0]


def compare_runs(
    runs: Sequence[Run],
    on: Sequence[str],
    how: How | None = None,
    *,
    screen: Screen | None = None,
    keep: Keep = lambda comparison, scores: None,
) -> list[Comparison]:
    """Score runs anew, each on its own held-out text or all on every source of `on`.

    Runs of one base share one set of weights, and the base's scores are kept for the next time.

    raises   FtError when a base or tokenizer changed since training, when text was trained on by any of the
             runs, or when the runs are judged by different protocols; IntegrityFailed for an adapter or
             model that is not the one that was trained
    """
    if not runs:
        raise FtError("ft compare", "a run, or --base and --adapter", "neither", "ft runs lists the runs.")
    from ft_toolkit.judging.token_scores import TokenScores
    from ft_toolkit.judging.unseen import read_other, recovered, refuse_trained_text
    from ft_toolkit.runtime import prepare_torch

    screen, how = screen or Screen(), how or How()
    prepare_torch()
    others = [(source, read_other(runs, source, screen)) for source in on]
    for run in runs:
        run.check_trained(screen.say)
        for source, documents in others:
            refuse_trained_text(run, documents, source, screen)
    found: list[Comparison] = []
    for run, scorer in _scorers(runs, how, screen):
        if others:
            corpora = _score_others(scorer, others, keeps_ids=run.recipe.judging.keep_text)
            scores = TokenScores(scorer.subject(run.folder.name), corpora)
            found.append(_told(scores, run.trained_folder, screen))
        else:
            parts = recovered(run, screen)
            for other in (other for other in runs if other.split_sha256 != run.split_sha256):
                refuse_trained_text(other, parts.test, f"held-out text of {run.folder}", screen)
            comparison, scores = _judged(run, scorer, parts, how)
            found.append(comparison)
        keep(found[-1], scores)
    _rank(found, screen, common_text=bool(on))
    return found


def _scorers(runs: Sequence[Run], how: How, screen: Screen) -> Iterator[tuple[Run, Scorer]]:
    """Each run with its model, those of one base together: they share one set of weights."""
    from ft_toolkit.judging.scoring import Scorer
    from ft_toolkit.judging.store import Store
    from ft_toolkit.models.adapters import load_adapter, load_whole
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.tokenizers import reader_of
    from ft_toolkit.training.accelerator import make_accelerator

    device = make_accelerator(how.device).device
    for name in dict.fromkeys(run.recipe.base for run in runs):
        base, adapted = load_base(name, device), None
        if base.family.note:
            screen.say(base.family.note)
        for run in (run for run in runs if run.recipe.base == name):
            run.check_base(base.name, base.sha256s)
            if run.recipe.adapter.is_whole_model:
                model: nn.Module = load_whole(base, run.trained_folder)
            else:
                model = adapted = load_adapter(base, run.trained_folder, onto=adapted)
            reader = reader_of(base, run.trained_folder)
            yield (
                run,
                Scorer(
                    model,
                    base,
                    protocol_of(base, run.recipe.judging, how),
                    screen,
                    Store(say=screen.say),
                    reader,
                ),
            )


def judge_run(
    run: Run, base: Base, model: nn.Module, parts: Parts, screen: Screen, reader: Base | None = None
) -> Comparison:
    """Score the parts of a run, say the verdict, and finish the run unless it is finished.

    reader   whose tokenizer reads for the model, where it is not the base's
    """
    from ft_toolkit.judging.scoring import Scorer
    from ft_toolkit.judging.store import Store

    how = How()
    protocol, store = protocol_of(base, run.recipe.judging, how), Store(say=screen.say)
    return _judged(run, Scorer(model, base, protocol, screen, store, reader), parts, how)[0]


def _judged(run: Run, scorer: Scorer, parts: Parts, how: How) -> tuple[Comparison, TokenScores]:
    from ft_toolkit.judging.comparison import compare
    from ft_toolkit.judging.run_scores import made_from
    from ft_toolkit.judging.saving import write
    from ft_toolkit.judging.scoring import score_parts
    from ft_toolkit.judging.token_scores import TokenScores
    from ft_toolkit.run import now

    corpora = score_parts(scorer, run.recipe, parts)
    scores = TokenScores(scorer.subject(run.folder.name), corpora, made_from(run, how))
    comparison = compare(scores)
    if not run.is_finished:
        write(run, comparison, scores)
        run.record(finished_at=now())
    show(comparison, run.trained_folder, scorer.screen)
    return comparison, scores


def compare_adapter(
    base_name: str | None,
    folder: Path | None,
    on: Sequence[str],
    how: How | None = None,
    *,
    screen: Screen | None = None,
    keep: Keep = lambda comparison, scores: None,
) -> Comparison:
    """Score an adapter that was not made here against its base, on every source of `on`.

    What it was trained on is unknown, and the verdict says so.

    raises   FtError unless base, adapter and text are all given
    """
    given = {"--base": base_name, "--adapter": folder, "--on": on or None}
    missing = ", ".join(option for option, value in given.items() if value is None)
    if base_name is None or folder is None or missing:
        raise FtError("ft compare", "--base, --adapter and --on", f"no {missing}", "Give all three.")
    from ft_toolkit.judging.scoring import Scorer
    from ft_toolkit.judging.store import Store
    from ft_toolkit.judging.token_scores import TokenScores
    from ft_toolkit.models.checkpoints import load_base
    from ft_toolkit.models.foreign import load_foreign, other_name
    from ft_toolkit.recipe import Judging
    from ft_toolkit.runtime import prepare_torch
    from ft_toolkit.text.corpus import read_source
    from ft_toolkit.training.accelerator import make_accelerator

    screen, how = screen or Screen(), how or How()
    prepare_torch()
    base = load_base(base_name, make_accelerator(how.device).device)
    model = load_foreign(base, folder)
    named = other_name(base, model)
    if named is not None:
        screen.say(f"{folder}: made for {named}, scored on {base.name}; its shapes fit both: are they one?")
    protocol = protocol_of(base, Judging(), how)
    scorer = Scorer(model, base, protocol, screen, Store(say=screen.say))
    subject = scorer.subject(folder.resolve().name, knows_training_text=False)
    others = [(source, read_source(source).documents) for source in on]
    scores = TokenScores(subject, _score_others(scorer, others))
    comparison = _told(scores, folder, screen)
    keep(comparison, scores)
    return comparison


def _score_others(
    scorer: Scorer, others: Sequence[tuple[str, list[Document]]], *, keeps_ids: bool = True
) -> list[CorpusScores]:
    from ft_toolkit.judging.scoring import Text, score_both, source_label
    from ft_toolkit.text.screening import repeated_lines

    return [
        score_both(
            scorer, Text(source_label(source), "other", documents, repeated_lines(documents), keeps_ids)
        )
        for source, documents in others
    ]


def _told(scores: TokenScores, trained: Path, screen: Screen) -> Comparison:
    """Compare, and show what came out."""
    from ft_toolkit.judging.comparison import compare

    comparison = compare(scores)
    show(comparison, trained, screen)
    return comparison


def _rank(found: Sequence[Comparison], screen: Screen, *, common_text: bool) -> None:
    """Several comparisons side by side."""
    from ft_toolkit.judging.ranking import ranking

    if len(found) > 1:
        screen.result(ranking(found, common_text=common_text))


def show(comparison: Comparison, trained: Path, screen: Screen) -> None:
    """The last thing on the screen: a sentence, and the table that it rests on."""
    from ft_toolkit.judging.verdict import gap_line, judge, verdict_table

    verdict = judge(comparison)
    screen.say("")
    screen.result(verdict.headline, style="bold")
    screen.result(verdict_table(comparison, verdict))
    if comparison.gap is not None:
        screen.result(gap_line(comparison, verdict))
    for caveat in verdict.caveats:
        screen.result(caveat, style="dim")
    size = sum(weights.stat().st_size for weights in trained.glob("*.safetensors"))
    kind = "adapter" if (trained / "adapter_config.json").is_file() else "model"
    screen.say(f"{kind}: {trained} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    typer.run(main)
