"""Print pyproject's lower bounds as a constraints file: python tests/lowest.py > lowest.txt (make lowest)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
EXTRAS = ("dev", "gguf")  # what the tests need


def lowest(requirements: Iterable[str]) -> list[str]:
    """Each requirement at its lower bound, `numpy>=2,<3` as `numpy==2`.

    raises   ValueError for a requirement that has no lower bound
    """
    pins = set()
    for requirement in requirements:
        bound = re.fullmatch(r"([\w-]+)(?:>=|==)([\d.]+)(?:,.*)?", requirement)
        if bound is None:
            raise ValueError(f"{requirement}: expected a lower bound, as in numpy>=2")
        pins.add(f"{bound[1]}=={bound[2]}")
    return sorted(pins, key=str.lower)


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = (project["optional-dependencies"][extra] for extra in EXTRAS)
    print("\n".join(lowest([*project["dependencies"], *(each for extra in extras for each in extra)])))


if __name__ == "__main__":
    main()
