"""What several verbs take on the command line, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_toolkit import completion

RecipeName = Annotated[
    str, typer.Argument(help="A recipe file, or a name from ft recipes.", autocompletion=completion.recipes)
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="training.epochs=5")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the run folders.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
