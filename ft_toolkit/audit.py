"""What a run learnt besides its gain, and whether it remembers its training text: ft audit."""

from __future__ import annotations

import json
import sys

from ft_toolkit.errors import FtError
from ft_toolkit.judging.audit import SCHEMA, Audit, audit_scores, shown
from ft_toolkit.judging.run_scores import scores_of
from ft_toolkit.judging.vocabulary import read_vocabulary
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run


def audit(run: Run, *, as_json: bool = False, screen: Screen | None = None) -> Audit:
    """Read a judged run's scores and tell what they say; imports no torch.

    raises   FtError for a run without scores of its own; IntegrityFailed for an adapter or model that is not
             the one that was trained
    """
    screen = screen or Screen(quiet=as_json)
    scores = scores_of([run], screen.say)
    if scores is None:
        cure = "ft compare judges it; a run of an older ft-toolkit keeps none: train again."
        raise FtError(run.folder, "a judged run with its token scores", "none that still hold", cure)
    found = audit_scores(scores[0], read_vocabulary(run, scores[0]))
    if as_json:
        json.dump({"schema": SCHEMA, "audit": found.as_dict()}, sys.stdout, indent=2)
        print()
    for each in shown(found):
        screen.result(each)
    return found
