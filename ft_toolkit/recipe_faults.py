"""Faults of a recipe, one line each, in terms of the YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

BRANCHES = ("one source", "a list of sources")  # of corpus, as pydantic names them in a fault's place


def faults(error: ValidationError, schema: type[BaseModel], path: Path, origins: dict[str, str]) -> list[str]:
    """A line a fault: where it stands, what was wanted, what was found.

    schema    the recipe's model, whose keys are offered for a misspelt one
    origins   dotted key → the file and line that gave it, or "override"
    """
    found_faults: dict[str, str] = {}
    expected: dict[str, list[str]] = {}
    for fault in error.errors():
        keys = [str(part) for part in fault["loc"] if part not in BRANCHES]
        section = _section(schema, keys[:-1])
        if section is None:  # inside a union such as targets: the branch's name is not a key
            keys = keys[:2]
        dotted = ".".join(keys)
        place = next((origins[k] for k in _prefixes(keys) if k in origins), str(path))
        where = f"{dotted} (given as an override)" if place == "override" else f"{place}: {dotted}"
        if fault["type"] == "extra_forbidden":
            fields = list(section.model_fields) if section else []
            near = get_close_matches(keys[-1], fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(fields)}"
            found_faults[dotted] = f"{where}: unknown key; {hint}"
        elif fault["type"] == "missing":
            found_faults[dotted] = f"{path}: {dotted}: expected a value, found none. Add this key."
        else:
            wanted = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            found = _shown(fault["input"])
            separator = ": " if dotted else " "
            # every branch of a union such as auto-or-a-number reports a fault of its own
            branches = expected.setdefault(dotted, [])
            branches.append(wanted)
            found_faults[dotted] = (
                f"{where}{separator}expected {' or '.join(branches)}, found {found}. "
                "Fix it; see `ft recipes show`."
            )
    return list(found_faults.values())


def _shown(value: object) -> str:
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return f"{len(value)} sections"
    return repr(value) if isinstance(value, str | int | float | list | None) else "one section"


def _prefixes(keys: list[str]) -> Iterator[str]:
    for length in range(len(keys), 0, -1):
        yield ".".join(keys[:length])


def _section(section: type[BaseModel], keys: Sequence[str]) -> type[BaseModel] | None:
    for key in keys:
        if key.isdigit():  # a place in a list of sections
            continue
        inner = _model(section.model_fields[key].annotation) if key in section.model_fields else None
        if inner is None:
            return None
        section = inner
    return section


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model(each))), None)
