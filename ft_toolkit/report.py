"""Make a run's report again, from its files alone: ft report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_toolkit.errors import FtError, one_line_errors


@one_line_errors()
def main(
    runs: Annotated[list[Path], typer.Argument(help="A run, such as runs/quickstart.")],
    out: Annotated[
        Path | None, typer.Option(help="The page's file; by default report.html in the run's folder.")
    ] = None,
) -> None:
    """Write a run's report.html from its files; needs no model."""
    from ft_toolkit.reporting.report import write_report
    from ft_toolkit.run import Run

    if len(runs) > 1:
        raise FtError("ft report", "one run", f"{len(runs)} runs", "Name one.")
    if out is not None and out.is_dir():
        raise FtError(f"--out {out}", "a file, such as report.html", "a folder", f"Use {out}/report.html.")
    print(write_report(Run.open(runs[0]), out))
