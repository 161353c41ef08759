"""Whether a tuned masked model's features are of more use than its base's: ft probe."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ft_toolkit.arguments import AsJson, Device
from ft_toolkit.errors import FtError, one_line_errors
from ft_toolkit.progress import Screen

if TYPE_CHECKING:  # torch comes with them; --help must not wait
    from ft_toolkit.judging.probe import Probe
    from ft_toolkit.run import Run
    from ft_toolkit.text.labels import Labelled

SCHEMA = 1
FOLDS = 5


@one_line_errors()
def main(
    run: Annotated[str, typer.Argument(help="A run of a masked model, or hub:owner/name[@revision].")],
    labels: Annotated[
        str, typer.Option(help="A .csv with the columns text and label; or package:italian-cooking.")
    ],
    folds: Annotated[int, typer.Option(min=3, help="Of the cross-validation.")] = FOLDS,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other folds.")] = 0,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Compare base and tuned model as features for a linear classifier; masked models only."""
    from ft_toolkit.judging.probe import check_labels
    from ft_toolkit.sharing.pulled import open_run
    from ft_toolkit.text.labels import read_labelled

    labelled = read_labelled(labels)
    check_labels(labelled.labels, folds)  # before a model is loaded: a fault in the file is told at once
    screen = Screen(quiet=as_json)
    found = probe(open_run(run, screen.say), labelled, folds, seed, device=device, screen=screen)
    if as_json:
        json.dump({"schema": SCHEMA, "probe": found.as_dict()}, sys.stdout, indent=2)
        print()
    for each in found.shown():
        screen.result(each)


def probe(
    run: Run,
    labelled: Labelled,
    folds: int = FOLDS,
    seed: int = 0,
    *,
    device: str = "auto",
    screen: Screen | None = None,
) -> Probe:
    """Read the texts with base and tuned model, and fit the same classifiers on both.

    raises   FtError for a causal model, and as judging.probe.probe and run_models.trained_pair do
    """
    from ft_toolkit.judging.features import mean_pooled
    from ft_toolkit.judging.probe import probe as fitted
    from ft_toolkit.run_models import scoring_session, trained_pair

    screen = screen or Screen()
    pair = trained_pair(run, scoring_session(device, screen))
    if pair.base.family.objective != "masked":
        wanted, found = "a run of a masked model, such as BERT", f"{pair.base.name}, a causal one"
        raise FtError(run.folder, wanted, found, "ft compare and ft try read causal models.")
    if labelled.copies:
        screen.say(
            f"left out: {labelled.copies:,} rows that repeat a text, so that no fold tests on its own text"
        )
    with pair.base_side() as base:
        before = mean_pooled(base, labelled.texts, "--labels")
    return fitted(before, mean_pooled(pair.tuned, labelled.texts, "--labels"), labelled.labels, folds, seed)
