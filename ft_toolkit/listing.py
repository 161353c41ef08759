"""The runs of a folder, and the recipes that ship, a line each: ft runs, ft recipes."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path

from ft_toolkit.arguments import AsJson, Runs
from ft_toolkit.errors import one_line_errors

SCHEMA = 1  # of what --json prints


def list_recipes() -> None:
    """The recipes that ship: a line each, or a few where the terminal is narrow."""
    from ft_toolkit.recipe import about, gallery, read_recipe

    rows = [("recipe", "base", "corpus", "cost", "what it does")]
    for path in gallery():
        recipe, said = read_recipe(path).recipe, about(path)
        # a revision says nothing to a reader
        source = " + ".join(corpus.source.partition("@")[0] for corpus in recipe.corpora)
        rows.append((path.stem, recipe.base, source, said.cost, said.description))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
    columns = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or max(map(len, lines)) <= columns:
        print("\n".join(lines))
        return
    for name, base, source, cost, description in rows[1:]:
        words = (f"{description} Cost: {cost}.", f"{base} on {source}")
        print("\n".join([name, *(textwrap.indent(textwrap.fill(each, columns - 2), "  ") for each in words)]))


@one_line_errors()
def main(
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder: date, base, method, documents, gain with its interval, state."""
    from ft_toolkit.reporting.overview import summary
    from ft_toolkit.run import list_runs

    found = [summary(run) for run in list_runs(runs)]
    if as_json:
        print(json.dumps({"schema": SCHEMA, "runs": [one.as_dict() for one in found]}, indent=2))
        return
    if not found:
        print(f"no runs in {runs}", file=sys.stderr)
        return
    rows = [("run", "begun", "base", "method", "documents", "change (95 % CI)", "state")]
    for one in found:
        documents = "–" if one.documents is None else f"{one.documents:,}"
        known = (one.date or "–", one.base or "–", one.method or "–", documents, one.change)
        rows.append((one.run, *known, one.state))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*map(str.ljust, row, widths), row[-1]]))
