"""What a shell may complete: recipes and run folders. It reads names alone, so that Tab answers at once."""

from __future__ import annotations

from glob import escape, glob
from pathlib import Path

from ft_toolkit import shipped


def recipes(incomplete: str) -> list[str]:
    """Recipes that ship, and recipe files."""
    names = sorted(path.stem for path in shipped.recipe_folder().glob("*.yaml"))
    files = sorted(glob(f"{escape(incomplete)}*.yaml"))
    return [*(name for name in names if name.startswith(incomplete)), *files]


def runs(incomplete: str) -> list[str]:
    """Run folders: those that begin so, and those in folders that begin so."""
    found = []
    for place in sorted(glob(f"{escape(incomplete)}*/")):
        folder = Path(place)
        inside = sorted(each.parent for each in folder.glob("*/run.json"))
        found += [folder] if (folder / "run.json").is_file() else inside
    return [str(folder) for folder in found]
