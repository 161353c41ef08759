"""The models of a finished run, each checked to be the one of its training, and where they are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peft import PeftModel

from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import ModelPair, load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_torch
from ft_toolkit.session import Session
from ft_toolkit.training.accelerator import make_accelerator


def scoring_session(device: str, screen: Screen | None = None) -> Session:
    """A session that keeps the base's scores, on a device such as auto or cpu."""
    prepare_torch()
    return Session(make_accelerator(device), screen or Screen())


def trained_pair(run: Run, session: Session) -> ModelPair:
    """A run's base and tuned model.

    raises   FtError for a base that is not that of training; IntegrityFailed for an adapter or model that is
             not the one that was trained
    """
    run.check_trained(session.screen.say)
    base = load_base(run.recipe.base, session.accelerator.device)
    run.check_base(base.name, base.sha256s)
    return load_pair(base, run.trained_folder)


def trained_pairs(runs: Sequence[Run], session: Session) -> Iterator[tuple[Run, ModelPair]]:
    """Each run with its pair, those of one base together: they share one set of weights.

    The newest pair's adapter is the one that is switched on. Whether the weights are those that were trained
    is checked before, by run.check_trained.

    raises   FtError for a base that is not that of training
    """
    for name in dict.fromkeys(run.recipe.base for run in runs):
        base, adapted = load_base(name, session.accelerator.device), None
        if base.family.note:
            session.screen.say(base.family.note)
        for run in (run for run in runs if run.recipe.base == name):
            run.check_base(base.name, base.sha256s)
            pair = load_pair(base, run.trained_folder, adapted)
            if isinstance(pair.tuned.model, PeftModel):
                adapted = pair.tuned.model
            yield run, pair
