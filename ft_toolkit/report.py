"""Make a run's report again, or one page about several, from their files alone: ft report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_toolkit import completion
from ft_toolkit.errors import FtError, one_line_errors


@one_line_errors()
def main(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run, such as runs/quickstart; or several.", autocompletion=completion.runs),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page's file; by default a run's own report.html.")
    ] = None,
) -> None:
    """Write a run's report.html from its files, or one page about several runs; needs no model."""
    from ft_toolkit.reporting.overview import write_overview
    from ft_toolkit.reporting.report import write_report
    from ft_toolkit.run import Run

    if len(runs) > 1 and out is None:
        raise FtError("ft report", "--out FILE for several runs", "none", "Say --out index.html.")
    if out is not None and out.is_dir():
        raise FtError(f"--out {out}", "a file, such as report.html", "a folder", f"Use {out}/report.html.")
    opened = [Run.open(run) for run in runs]
    if len(opened) > 1 and out is not None:
        print(write_overview(opened, out))
    else:
        print(write_report(opened[0], out))
