"""The strength at which a trained adapter is saved: a weaker one forgets much less for little of the gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from peft import PeftModel
from torch import nn

from ft_toolkit.models.strength import at_strength, set_strength
from ft_toolkit.sections import Adapter
from ft_toolkit.training.outcome import Outcome

KEPT_GAIN = 0.95  # of the validation gain in nats; the frontier is in docs/log.md
USUAL = 0.8  # the strength that is tried first: most texts keep it, or one of its neighbours
USUAL_VALIDATIONS = 2  # until it is chosen; ft plan counts them


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
    base_nats, trained_nats = outcome.base_validation_nats, outcome.best_validation_nats
    gain = base_nats - trained_nats

    @cache
    def nats(strength: float) -> float:
        if strength == 1:
            return trained_nats
        with at_strength(model, strength):
            return validate()

    def keeps(strength: float) -> bool:
        return base_nats - nats(strength) >= KEPT_GAIN * gain

    strength = adapter.strength
    if strength == "auto":
        strength = _weakest(keeps) if gain > 0 else 1.0
    found = nats(strength)
    if strength != 1:  # an alpha that is not changed stays the whole number that it was
        set_strength(model, strength)
    kept = (base_nats - found) / gain if gain > 0 else None
    return replace(outcome, best_validation_nats=found, strength=strength, gain_kept=kept)


def _weakest(keeps: Callable[[float], bool]) -> float:
    """In steps of a tenth, taking the gain to fall with the strength."""
    if not keeps(USUAL):
        return 0.9 if keeps(0.9) else 1.0
    strength = USUAL
    while (weaker := round(strength - 0.1, 1)) > 0 and keeps(weaker):
        strength = weaker
    return strength


def strength_words(adapter: Adapter, outcome: Outcome) -> str:
    """One line for an adapter that is not saved as it was trained; else ""."""
    if outcome.strength == 1:
        return ""
    why = ", since a weaker adapter forgets less" if adapter.strength == "auto" else ""
    share = outcome.gain_kept
    kept = "" if share is None else f": it keeps {100 * share:.0f} % of the gain on validation text"
    return f"saved at strength {outcome.strength:g}{why}{kept}"
