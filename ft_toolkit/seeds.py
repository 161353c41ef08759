"""One recipe, trained with several seeds: the spread of the gains stands beside the interval."""

from __future__ import annotations

import statistics
from pathlib import Path

from ft_toolkit.errors import FtError, Terminated
from ft_toolkit.finetune import DEFAULT, finetune
from ft_toolkit.judging.percent import as_percent
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options


def finetune_seeds(
    recipe: Recipe,
    seeds: int,
    runs_folder: str | Path = "runs",
    options: Options = DEFAULT,
    screen: Screen | None = None,
) -> list[Run]:
    """Train and judge a recipe once for each of `seeds` seeds, from the recipe's own upwards.

    The spread over seeds is shown beside the interval, which does not cover the training seed. Without
    options.judge the test part stays unseen, and the gains are those on the validation part.
    """
    screen = screen or Screen()
    runs = []
    for seed in range(recipe.training.seed, recipe.training.seed + seeds):
        training = recipe.training.model_copy(update={"seed": seed})
        name = recipe.name if seed == recipe.training.seed else f"{recipe.name}-seed{seed}"
        one = recipe.model_copy(update={"training": training, "name": name})
        try:
            runs.append(finetune(one, runs_folder, options, screen))
        except (FtError, KeyboardInterrupt, Terminated) as stop:
            if runs:
                stop.add_note(f"the same command with --reuse keeps the {len(runs)} of {seeds} seeds so far")
            raise
    are_judged = all((run.folder / "comparison.json").is_file() for run in runs)
    gains = [_gain_percent(run, is_judged=are_judged) for run in runs]
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    where = "" if are_judged else ", on the validation part; the test part was not scored"
    screen.result(
        f"{recipe.name} over {seeds} training seeds: {each} %; mean {statistics.mean(gains):+.1f} %, "
        f"standard deviation {spread:.1f}, worst {max(gains):+.1f} %{where}"
    )
    return runs


def _gain_percent(run: Run, *, is_judged: bool) -> float:
    """By how much perplexity moved: on the test part, or on the validation part alone."""
    if is_judged:
        return float(run.comparison["corpora"][0]["percent"])
    trained = run.facts["training"]
    base = trained["base_validation_nats"]
    return as_percent(_best_validation_nats(base, trained["best_validation_nats"]) - base)


def _best_validation_nats(base: float, best: float | None) -> float:
    return base if best is None else best
