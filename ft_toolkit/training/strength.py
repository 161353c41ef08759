"""The strength at which a trained adapter is saved: a weaker one forgets much less for little of the gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from peft import PeftModel
from torch import nn

from ft_toolkit.models.strength import at_strength, set_strength
from ft_toolkit.sections import Adapter
from ft_toolkit.training.outcome import Outcome

KEPT_GAIN = 0.95  # of the validation gain in nats; the frontier is in docs/log.md
STRENGTHS = tuple(tenths / 10 for tenths in range(9, 0, -1))
USUAL_VALIDATIONS = 3  # until a strength keeps too little; ft plan counts them


def settle_strength(
    model: nn.Module, adapter: Adapter, outcome: Outcome, validate: Callable[[], float]
) -> Outcome:
    """Weaken a trained adapter to the recipe's strength; auto: the weakest that keeps KEPT_GAIN.

    model     with the adapter that validated best; one that has no strength, or by auto gained nothing, stays
              as it is
    validate  nats a token of the validation part, as in training
    returns   the outcome with the strength, and with what the model validates at now
    """
    if outcome.best_validation_nats is None or not adapter.has_strength or not isinstance(model, PeftModel):
        return outcome
    strength, nats = 1.0, outcome.best_validation_nats
    gain = outcome.base_validation_nats - nats
    if adapter.strength == "auto":
        for weaker in STRENGTHS if gain > 0 else ():
            found = _at(model, weaker, validate)
            if not outcome.base_validation_nats - found >= KEPT_GAIN * gain:
                break
            strength, nats = weaker, found
    elif adapter.strength != 1:
        strength, nats = adapter.strength, _at(model, adapter.strength, validate)
    set_strength(model, strength)
    kept = (outcome.base_validation_nats - nats) / gain if gain > 0 else None
    return replace(outcome, best_validation_nats=nats, strength=strength, gain_kept=kept)


def _at(model: PeftModel, strength: float, validate: Callable[[], float]) -> float:
    with at_strength(model, strength):
        return validate()


def strength_words(adapter: Adapter, outcome: Outcome) -> str:
    """One line for an adapter that is not saved as it was trained; else ""."""
    if outcome.strength == 1:
        return ""
    why = ", since a weaker adapter forgets less" if adapter.strength == "auto" else ""
    share = outcome.gain_kept
    kept = "" if share is None else f": it keeps {100 * share:.0f} % of the gain on validation text"
    return f"saved at strength {outcome.strength:g}{why}{kept}"
