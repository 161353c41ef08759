"""What `auto` stands for in a recipe: learning rate, rank and alpha, from model, method and text.

The rules are pure: the same base and text give the same numbers on every machine. docs/auto.md has the
sources, docs/log.md the sweep that checked them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ft_toolkit.sections import LEAST_RANK, Adapter, Recipe

Objective = Literal["causal", "masked"]
MOST_RANK = 64
HIGHEST_RATE, LOWEST_RATE = 0.02, 1e-6
SHORT_STEPS = 32  # shorter trainings want no higher rate (docs/log.md)
# times LoRA's rate; of methods without a rank, LoRA's at this one
NO_RANK = 16
METHOD_FACTORS = {
    "lora": 1.0,
    "dora": 1.0,
    "rslora": 1.0,  # and divided by the root of the rank, by which its update is larger than LoRA's
    "pissa": 0.25,
    "lora+": 0.125,
    "ia3": 10.0,
    "full": 0.1,
}
MASKED_FACTOR = 0.55  # a seventh of the tokens has a target: the gradient is noisier (docs/log.md)
CAUSAL_REPLAY = 0.2
SCRATCH_RATE, SCRATCH_WIDTH = 3e-3, 256  # the starters' own, docs/log.md


@dataclass(frozen=True)
class Measure:
    """What the rules go by, and how much is read."""

    width: int  # of the hidden states
    steps: int  # planned optimizer steps
    tokens: int  # to be read in training, all epochs
    objective: Objective


def learning_rate(adapter: Adapter, width: int, steps: int, objective: Objective) -> float:
    """The peak learning rate, to two digits.

    LoRA: 1 / sqrt(2 * width * rank), masked models 0.55 of it; beyond SHORT_STEPS it falls with the cube root
    of the steps.
    """
    if adapter.method == "scratch":
        rate = SCRATCH_RATE * math.sqrt(SCRATCH_WIDTH / width)
    else:
        own_rank = adapter.known_rank if adapter.has_rank else NO_RANK
        rate = METHOD_FACTORS[adapter.method] / math.sqrt(2 * width * own_rank)
        rate /= math.cbrt(max(1, steps / SHORT_STEPS))
        rate *= MASKED_FACTOR if objective == "masked" else 1.0
    if adapter.method == "rslora":
        rate /= math.sqrt(adapter.known_rank)
    return float(f"{min(max(rate, LOWEST_RATE), HIGHEST_RATE):.1e}")


def rank(width: int) -> int:
    """MOST_RANK: it gained more than lower ones at the best rate of each, also on little text (docs/log.md).

    At most a quarter of the width: beyond it the two factors come near to the matrix that they stand for.
    """
    return max(LEAST_RANK, min(MOST_RANK, width // 4))


def replay(adapter: Adapter, objective: Objective) -> float:
    """Share of the tokens: a causal base writes its own; fresh weights have nothing to forget.

    A masked base's rows are another model's text, which helped less and at a larger share did harm.
    """
    return CAUSAL_REPLAY if objective == "causal" and adapter.method != "scratch" else 0.0


def fill(recipe: Recipe, measure: Measure) -> Recipe:
    """The recipe with a number for every auto."""
    adapter, training = recipe.adapter, recipe.training
    if adapter.rank == "auto" and adapter.has_rank:
        adapter = adapter.model_copy(update={"rank": rank(measure.width)})
    adapter = adapter.model_copy(update={"rank": adapter.known_rank, "alpha": adapter.known_alpha})
    if training.learning_rate == "auto":
        rate = learning_rate(adapter, measure.width, measure.steps, measure.objective)
        training = training.model_copy(update={"learning_rate": rate})
    if training.replay == "auto":
        training = training.model_copy(update={"replay": replay(adapter, measure.objective)})
    return recipe.model_copy(update={"adapter": adapter, "training": training})


def words(recipe: Recipe, measure: Measure) -> str:
    """The numbers that stand for the autos of a recipe and where they come from; "" where there are none."""
    filled, said = fill(recipe, measure), []
    if recipe.training.learning_rate == "auto":
        reasons = f"{recipe.adapter.method}, width {measure.width}, {measure.steps} steps"
        said.append(f"learning rate {filled.training.peak:g} (auto: {reasons})")
    if recipe.adapter.rank == "auto" and recipe.adapter.has_rank:
        said.append(f"rank {filled.adapter.known_rank} (auto)")
    return ", ".join(said)
