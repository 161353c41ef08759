"""What else changed besides the perplexity, as lines of the card; what was not measured says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
NOT_MEASURED = "not measured"


def effect_lines(comparison: Json) -> Iterator[str]:
    """Forgotten, drifted, memorised, calibration: a line each, from the staged comparison.json."""
    verdict, gap = comparison["verdict"], comparison.get("gap")
    yield f"- **Forgotten** (general text): {verdict['forgotten']}."
    yield _drift(comparison)
    memorised = f"- **Memorised**: {verdict['memorised']}"
    if gap is not None:
        memorised += f" (gap {gap['adapter_nats']:+.3f} nats a token, the base's own {gap['base_nats']:+.3f}"
        if gap["low"] is not None:
            memorised += (
                f", excess {gap['excess_nats']:+.3f}, 95 % interval {gap['low']:+.3f} … {gap['high']:+.3f}"
            )
        memorised += ")"
    yield memorised.replace("-0", "−0") + "."
    yield from memorisation_lines(comparison, "- **{}**: {}.")
    calibration = comparison.get("calibration")
    yield f"- **Calibration**: {NOT_MEASURED if calibration is None else plain(calibration)}."


def _drift(comparison: Json) -> str:
    drift = comparison.get("drift")
    if drift is None:
        return f"- **Drift** from its base: {NOT_MEASURED}."
    kl_nats = drift["kl_nats"]
    figures = f"KL {kl_nats['value']:.4f} nats a token"
    if kl_nats["low"] is not None:
        figures += f", 95 % interval {kl_nats['low']:.4f} … {kl_nats['high']:.4f}"
    where = f"{drift['documents']} documents, {drift['tokens']} tokens: {drift['corpus']}"
    return f"- **Drift** from its base: {comparison['verdict']['drifted']} ({figures}; {where})."


def memorisation_lines(comparison: Json, form: str = "{}: {}") -> Iterator[str]:
    """What ft audit found, for the card and the plan of a push; nothing where the run has no token scores.

    form   with two places: the name of a finding, and its words
    """
    found = comparison.get("memorisation")
    if found is None:
        return
    yield form.format("Attacked by loss", found["words"])
    if found["told_apart"] is not None:
        yield form.format("Attacked with the base", found["told_apart"])
    if found["verbatim_words"] is not None:
        yield form.format("Verbatim", found["verbatim_words"])
    yield form.format("Privacy", found["limits"])


def plain(values: object) -> str:
    """Figures whose names say what they are, on one line."""
    if isinstance(values, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {plain(value)}" for key, value in values.items())
    return f"{values:.4g}" if isinstance(values, float) else str(values)
