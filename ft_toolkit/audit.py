"""What a run learnt besides its gain, and whether it remembers its training text: ft audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit import completion
from ft_toolkit.arguments import AsJson, Device
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen

if TYPE_CHECKING:  # scipy comes with them, and torch with measuring; --help must not wait
    from ft_toolkit.judging.audit import Audit
    from ft_toolkit.measuring import Asked, Measured
    from ft_toolkit.run import Run


@one_line_errors()
def main(
    run: Annotated[
        Path, typer.Argument(help="A judged run, such as runs/quickstart.", autocompletion=completion.runs)
    ],
    as_json: AsJson = False,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Load the models: is it as often right as it is sure?")
    ] = False,
    tokens: Annotated[int, typer.Option(min=1, help="That --calibration reads at most.")] = 8192,
    null: Annotated[
        int, typer.Option(min=0, help="Load the models: what do so many random adapters of its size do?")
    ] = 0,
    canaries: Annotated[
        bool, typer.Option("--canaries", help="Load the models: does it know what judging.canaries planted?")
    ] = False,
    bias: Annotated[
        Path | None, typer.Option(help="Load the models: do they prefer a stereotype? A CrowS-Pairs CSV.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Tell whether a run remembers its training text, and on which tokens it gained; needs no model."""
    from ft_toolkit.run import Run

    asked = None
    if calibration or null or canaries or bias:
        pairs = []
        if bias is not None:  # before torch: a fault in the file is told at once
            from ft_toolkit.text.pairs import read_pairs

            pairs = read_pairs(bias)
        from ft_toolkit.measuring import Asked

        asked = Asked(calibration, tokens, null, canaries, pairs, device)
    audit(Run.open(run), asked, as_json=as_json)


def audit(
    run: Run, asked: Asked | None = None, *, as_json: bool = False, screen: Screen | None = None
) -> tuple[Audit, Measured | None]:
    """Read a judged run's scores and tell what they say; imports no torch unless a model is asked.

    asked    what is to be measured with the models loaded; None: nothing
    raises   FtError for a run without scores of its own, and as measuring.measure; IntegrityFailed for an
             adapter or model that is not the one that was trained
    """
    from ft_toolkit.judging.audit import SCHEMA, audit_scores, shown
    from ft_toolkit.judging.run_scores import scores_of
    from ft_toolkit.judging.vocabulary import read_vocabulary

    screen = screen or Screen(quiet=as_json)
    scores = scores_of([run], screen.say)
    if scores is None:
        cure = "ft compare judges it; a run of an older ft-toolkit keeps none: train again."
        raise FtError(run.folder, "a judged run with its token scores", "none that still hold", cure)
    found, measured = audit_scores(scores[0], read_vocabulary(run, scores[0])), None
    if asked is not None:
        from ft_toolkit.measuring import measure

        measured = measure(run, asked, screen)
    if as_json:
        more = {} if measured is None else measured.as_dict()
        json.dump({"schema": SCHEMA, "audit": found.as_dict() | more}, sys.stdout, indent=2)
        print()
    for each in [*shown(found), *(measured.shown() if measured is not None else [])]:
        screen.result(each)
    return found, measured
