"""Scores that are already in a run folder. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256

from ft_toolkit.judging.protocols import How
from ft_toolkit.judging.token_scores import TOKENS, TokenScores
from ft_toolkit.run import Run


def scores_of(runs: Sequence[Run], say: Callable[[str], object]) -> list[TokenScores] | None:
    """The scores of every run, in order; None if any run has to be scored.

    say      told what has changed since a run was judged
    raises   IntegrityFailed for an adapter or model that is not the one that was trained; FtError for a
             damaged file
    """
    # one run's held-out text may be another's training text, which only the texts themselves show
    if len({run.split_sha256 for run in runs}) != 1:
        return None
    if not all(run.is_finished and (run.folder / TOKENS).is_file() for run in runs):
        return None
    found = []
    for run in runs:
        run.check_trained(say)
        run.read_table("documents.parquet", "id")  # not needed here, but a damaged one is reported either way
        found.append(read(run))
        if found[-1].made_from != made_from(run, How()):
            say(f"{run.folder}: its recipe changed, or it was judged by another protocol; scoring anew")
            return None
    return found


def read(run: Run) -> TokenScores:
    """The scores of a run, under the name that its folder has today; raises as TokenScores.read."""
    scores = TokenScores.read(run)
    return replace(scores, subject=replace(scores.subject, name=run.folder.name))


def made_from(run: Run, how: How) -> str:
    """A hash of all that a run's scores depend on: base, text and weights, and how they are judged."""
    recipe = run.recipe
    asked = asdict(how) | {"device": None}  # the device does not change what was scored
    values = {name: run.facts.get(name) for name in ("files", "sha256")}
    values |= {"base": recipe.base, "judging": recipe.judging.model_dump(exclude={"canaries"}), "how": asked}
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
