"""Score a run's adapter against its base again: ft compare, or python -m ft_toolkit.compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit import completion
from ft_toolkit.arguments import AsJson, Device
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.judging.protocols import How
from ft_toolkit.progress import Screen
from ft_toolkit.runtime import is_first_process, is_launched, prepare_process

if TYPE_CHECKING:
    from ft_toolkit.judging.comparison import Comparison
    from ft_toolkit.judging.token_scores import TokenScores
    from ft_toolkit.run import Run

STRONGEST = 2  # times an adapter as it was trained
JSON_SCHEMA = 7  # of what --json prints: docs/comparison.schema.json


def main(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, or hub:owner/name[@revision].", autocompletion=completion.runs),
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
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit 3 if the whole interval is worse.")
    ] = False,
    require_gain: Annotated[
        str | None, typer.Option(help="Exit 3 unless the whole interval is at least this much better: 5%.")
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Also print every number of each text.")] = False,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option(help="Save comparison.json and each document's scores in a new folder.")
    ] = None,
    device: Device = "auto",
    base: Annotated[str | None, typer.Option(help="With --adapter: what it was made for.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter's folder, made elsewhere.")] = None,
    strength: Annotated[
        str | None, typer.Option(help="One run: its adapter at these strengths, such as 0,0.25,0.5,0.75,1.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score again, even where the run's own scores would do.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Score in so many processes on this machine.")] = 1,
) -> None:
    """Compare each run's adapter with its base on text that neither has trained on."""
    with one_line_errors():
        from ft_toolkit.judging.audit import influence_details
        from ft_toolkit.judging.details import detail_lines
        from ft_toolkit.judging.gates import enforce, required_gain
        from ft_toolkit.judging.run_scores import scores_of
        from ft_toolkit.judging.saving import Judged, refuse_taken, save
        from ft_toolkit.sharing.pulled import open_run

        prepare_process()
        is_main = is_first_process()
        screen = Screen(quiet=as_json or not is_main)
        how = How(protocol, window, stride, exact, precision, device)
        if out is not None:
            refuse_taken(out)
        judged: list[Judged] = []
        opened: list[Run] = []

        def keep(comparison: Comparison, scores: TokenScores) -> None:
            judged.append((comparison, scores))

        if strength is not None:
            apart = {"--on": on, "--out": out, "--details": details, "--base": base, "--adapter": adapter}
            apart |= {"--fail-if-worse": fail_if_worse, "--require-gain": require_gain}
            apart |= {"--processes": processes > 1}
            asked = _strengths(strength, runs or [], [name for name, value in apart.items() if value])
            from ft_toolkit.strength import frontier  # torch comes with it

            points = frontier(open_run(asked[0], screen.say), asked[1], how, screen=screen, rescore=rescore)
            if as_json:
                json.dump(points.as_dict(), sys.stdout, indent=2)
                print()
            points.show(screen)
            return
        gain = required_gain(require_gain) if require_gain is not None else None
        if processes > 1 and not is_launched():  # each of them runs this command again
            from ft_toolkit.launch import launch

            verb = ["compare"] if Path(sys.argv[0]).stem == "compare" else []  # python -m ft_toolkit.compare
            raise typer.Exit(launch(processes, [*verb, *sys.argv[1:]]))
        if adapter is not None or base is not None:
            if runs:
                wanted = "runs, or --base and --adapter"
                raise FtError("ft compare", wanted, "both", "Choose one of them.")
            from ft_toolkit.rescoring import compare_adapter

            found = [compare_adapter(base, adapter, on or [], how, screen=screen, keep=keep)]
        else:
            opened = [open_run(run, screen.say) for run in runs or []]
            kept = None if on or rescore or how != How() else scores_of(opened, screen.say)
            if kept is not None:
                found = _compared_again(opened, kept, screen)
                judged = list(zip(found, kept, strict=True))
            else:
                from ft_toolkit.rescoring import compare_runs  # torch comes with it

                found = compare_runs(opened, on or [], how, screen=screen, keep=keep)
        if not is_main:
            return
        if out is not None:
            save(out, judged)
            screen.say(f"saved: {out}")
        if details:
            by_name = {run.folder.name: run for run in opened}
            for comparison, scores in judged:
                lines = [*detail_lines(comparison), *influence_details(scores, by_name.get(comparison.name))]
                screen.result("\n".join(["", f"{comparison.name} in detail", *lines]))
        if as_json:
            whole = {"schema": JSON_SCHEMA, "comparisons": [comparison.as_dict() for comparison in found]}
            json.dump(whole, sys.stdout, indent=2)
            print()
        enforce(found, fail_if_worse=fail_if_worse, gain_percent=gain)


def _strengths(text: str, runs: Sequence[str], others: Sequence[str]) -> tuple[str, list[float]]:
    """The one run, and the strengths in rising order, each once.

    text     `0,0.5,1`
    others   options that were given, too, and that say nothing of a strength
    raises   FtError for another number of runs, such options, or anything but numbers of 0 to STRONGEST
    """
    if len(runs) != 1 or others:
        found = ", ".join([f"{len(runs)} runs", *others])
        raise FtError("--strength", "one run and none of the other options", found, "Leave them out.")
    try:
        strengths = sorted({float(each) for each in text.split(",")})
    except ValueError:
        strengths = []
    if not strengths or not all(0 <= each <= STRONGEST for each in strengths):  # NaN is not either
        wanted = f"numbers of 0 to {STRONGEST}, such as 0,0.25,0.5,0.75,1"
        raise FtError("--strength", wanted, text, "Separate them by commas.")
    return runs[0], strengths


def compare_from(run: Run) -> Comparison:
    """The comparison that a run's scores/ hold, bit by bit as it was judged; imports no torch.

    raises   FtError where they are missing or damaged
    """
    from ft_toolkit.judging.comparison import compare
    from ft_toolkit.judging.run_scores import read

    return compare(read(run))


def _compared_again(runs: Sequence[Run], kept: Sequence[TokenScores], screen: Screen) -> list[Comparison]:
    """Compare scores that the runs already have."""
    from ft_toolkit.judging.comparison import compare
    from ft_toolkit.judging.showing import show, show_ranking

    found = []
    for run, scores in zip(runs, kept, strict=True):
        screen.say(f"{run.folder}: judged {run.facts['finished_at']}; --rescore scores it again")
        found.append(compare(scores))
        show(found[-1], run.trained_folder, screen)
    show_ranking(found, screen, common_text=False)
    return found


if __name__ == "__main__":
    typer.run(main)
