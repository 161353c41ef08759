"""What a comparison looks like on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ft_toolkit.inputs import weights_bytes
from ft_toolkit.judging.comparison import Comparison
from ft_toolkit.judging.ranking import ranking
from ft_toolkit.judging.verdict import gap_line, judge
from ft_toolkit.judging.verdict_table import verdict_table
from ft_toolkit.progress import Screen


def show(comparison: Comparison, trained: Path, screen: Screen) -> None:
    """The last thing on the screen: a sentence, and the table that it rests on.

    trained   folder of the adapter or model; its size is shown
    """
    verdict = judge(comparison)
    screen.say("")
    screen.result(verdict.headline, style="bold")
    screen.result(verdict_table(comparison, verdict))
    if comparison.gap is not None:
        screen.result(gap_line(comparison, verdict))
    for caveat in verdict.caveats:
        screen.result(caveat, style="dim")
    kind = "adapter" if (trained / "adapter_config.json").is_file() else "model"
    screen.say(f"{kind}: {trained} ({weights_bytes(trained) / 1e6:.1f} MB)")


def show_ranking(found: Sequence[Comparison], screen: Screen, *, common_text: bool) -> None:
    """Several comparisons side by side; a single one has no ranking.

    common_text   whether all were scored on the same text
    """
    if len(found) > 1:
        screen.result(ranking(found, common_text=common_text))
