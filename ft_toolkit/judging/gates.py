"""Gates: exit codes for scripts that must stop when an adapter is not good enough."""

from __future__ import annotations

from collections.abc import Sequence

from ft_toolkit.errors import FtError, GateNotMet
from ft_toolkit.judging.comparison import Comparison
from ft_toolkit.judging.percent import as_percent


def required_gain(text: str) -> float:
    """`5%` or `5` as per cent.

    raises   FtError for anything that is not between 0 and 100
    """
    try:
        percent = float(text.removesuffix("%").strip())
    except ValueError:
        percent = -1.0
    if not 0 < percent < 100:
        raise FtError("--require-gain", "a gain in per cent, such as 5%", text, "Write --require-gain 5%.")
    return percent


def enforce(comparisons: Sequence[Comparison], *, fail_if_worse: bool, gain_percent: float | None) -> None:
    """Pass, or name the first comparison that falls short.

    fail_if_worse   refuses a difference whose whole interval is above zero
    gain_percent    even the weaker bound of the interval must show this much lower perplexity
    raises          GateNotMet (exit code 3); a difference without an interval proves no gain
    """
    for comparison in comparisons:
        for subject in comparison.subjects:
            where, difference = f"{comparison.name} on {subject.corpus}", subject.difference
            if fail_if_worse and difference.low is not None and difference.low > 0:
                found = f"{difference.percent:+.1f} %, the interval from {as_percent(difference.low):+.1f} %"
                raise GateNotMet(where, "no worse than its base", found, "Required by --fail-if-worse.")
            if gain_percent is None:
                continue
            reached = None if difference.high is None else -as_percent(difference.high)
            if reached is None or reached < gain_percent:
                found = (
                    "no interval"
                    if reached is None
                    else f"{reached:.1f} % at the weaker bound of the interval"
                )
                wanted = f"at least {gain_percent:g} % lower {comparison.protocol.metric}"
                raise GateNotMet(where, wanted, found, "Required by --require-gain.")
