"""What comes with the toolkit: starter checkpoints, small corpora, labelled sentences and the recipes."""

from __future__ import annotations

from pathlib import Path

from ft_toolkit.errors import FtError

_PACKAGE = Path(__file__).parent


def recipe_folder() -> Path:
    """The gallery: inside an installed wheel, beside the package in a checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def starter(name: str) -> Path:
    """The folder of the checkpoint reached as `starter/<name>`."""
    return _entry("starters", name, f"base starter/{name}")


def corpus(name: str) -> Path:
    """The folder of documents reached as `package:<name>`."""
    return _entry("corpora", name, f"corpus package:{name}") / "documents"


def labelled(name: str) -> Path:
    """The table of labelled sentences that ft probe reaches as `package:<name>`."""
    return _entry("labelled", name, f"--labels package:{name}") / "sentences.csv"


def _entry(shelf: str, name: str, where: str) -> Path:
    known = sorted(path.name for path in (_PACKAGE / shelf).iterdir() if path.is_dir())
    if name not in known:
        raise FtError(where, f"one of {', '.join(known)}", name, "Use a listed name, a folder or a Hub id.")
    return _PACKAGE / shelf / name
