"""A recipe: YAML read into its sections, and the origin of each value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ft_toolkit import shipped, strict_yaml
from ft_toolkit.errors import FtError, RecipeError
from ft_toolkit.recipe_faults import faults
from ft_toolkit.sections import Recipe

MOST_BYTES = 100_000  # of a recipe's file; YAML of this size is read in three seconds
MOST_RECIPES = 20  # in a chain of extends


@dataclass(frozen=True)
class Resolved:
    """A recipe, and for each dotted key that was given the place it came from."""

    recipe: Recipe
    origins: dict[str, str]

    def explained(self) -> Iterator[tuple[str, object, str, str]]:
        """(dotted key, value, where it came from, meaning) for every key of the schema."""
        yield from _explain(self.recipe, "", self.origins)


def read_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe by file or gallery name, with what it extends below it and overrides above it.

    overrides  `training.epochs=5`; each value is read as a YAML scalar
    raises     FtError for a missing or unreadable file, RecipeError with all faults of its content
    """
    path = find_recipe(name)
    values, origins = _read_chain(path, ())
    return _resolved(values, origins, path, overrides)


def source_recipe(source: str, base: str, overrides: Sequence[str] = ()) -> Resolved:
    """A recipe of a corpus alone, everything else by default."""
    values = {"name": "corpus", "base": base, "corpus": {"source": source}}
    return _resolved(values, {}, Path("ft corpus"), overrides)


def _resolved(
    values: dict[str, Any], origins: dict[str, str], path: Path, overrides: Sequence[str]
) -> Resolved:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise FtError(
                f"override {override!r}", "section.key=value", override, 'Write SET="training.epochs=5".'
            )
        _put(values, key.split("."), _override_value(text), f"override {key}")
        origins[key] = "override"
    if "name" not in values:
        values["name"], origins["name"] = path.stem, "the file's name"
    try:
        return Resolved(Recipe.model_validate(values), origins)
    except ValidationError as error:
        raise RecipeError(faults(error, Recipe, path, origins)) from None


def gallery() -> list[Path]:
    """The recipes that ship, by name."""
    return sorted(shipped.recipe_folder().glob("*.yaml"))


@dataclass(frozen=True)
class About:
    """What a recipe of the gallery says of itself in the comment that it opens with.

    cost   (estimate) behind it where nobody has measured it
    """

    description: str
    cost: str


def about(path: Path) -> About:
    """raises   FtError for a recipe without such a comment"""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in lines)
    found = re.match(r"(.+?\.) .*?Costs (.+?)[.,] (?:[^.]*\. )??(This is an estimate)?", text)
    if found is None:
        raise FtError(path, "a comment of what it does and what it costs", "none", "Write: # Costs ….")
    description, cost, is_estimate = found.groups()
    return About(description, f"{cost} (estimate)" if is_estimate else cost)


def find_recipe(name: str | Path) -> Path:
    """A recipe file by its path, or by its name in the gallery."""
    path = Path(name)
    if path.is_file():
        return path
    stem = path.name.removesuffix(".yaml")
    names = {recipe.stem: recipe for recipe in gallery()}
    looks_like_a_path = path.parent != Path() and path.parent != Path("recipes")
    if not looks_like_a_path and stem in names:
        return names[stem]
    near = get_close_matches(stem, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "ft recipes lists them."
    raise FtError(f"recipe {name}", "a recipe file or a gallery name", "none of that name", hint)


def _read_chain(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    text = _file_text(path, above)
    if path.resolve() in above:
        raise FtError(f"{path}: extends", "a chain that ends", "a circle", "Remove one extends.")
    if len(above) == MOST_RECIPES:
        wanted = f"a chain of at most {MOST_RECIPES} recipes"
        raise FtError(f"{path}: extends", wanted, "more", "Write some of them as one.")
    parsed = strict_yaml.parse(text, str(path))
    if not isinstance(parsed.value, dict):
        raise FtError(
            f"{path}", "keys such as base: and corpus:", type(parsed.value).__name__, "See ft recipes."
        )
    values: dict[str, Any] = parsed.value
    origins = {".".join(keys): f"{path}:{line}" for keys, line in parsed.lines.items() if keys}
    parent = values.pop("extends", None)
    origins.pop("extends", None)
    if parent is None:
        return values, origins
    below, below_origins = _read_chain(_parent(str(parent), path), (*above, path.resolve()))
    below.pop("name", None)  # a child is named by its own file, not by its parent
    below_origins.pop("name", None)
    return _merge(below, values), below_origins | origins


def _file_text(path: Path, above: tuple[Path, ...]) -> str:
    if not path.exists():
        near = get_close_matches(path.name, [recipe.stem for recipe in gallery()], n=1)
        hint = f"Did you mean extends: {near[0]}?" if near else f"It is named by extends in {above[-1]}."
        raise FtError(f"{path}", "a recipe file", "nothing there", hint)
    if not path.is_file():  # a device may never end
        raise FtError(f"{path}", "a recipe file", "a folder or device", "Check the path.")
    if (size := path.stat().st_size) > MOST_BYTES:
        wanted = f"a recipe of at most {MOST_BYTES / 1e3:.0f} kB"
        raise FtError(f"{path}", wanted, f"{size / 1e3:,.0f} kB", "Is this a recipe?")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FtError(f"{path}", "a readable UTF-8 file", error, "Check the file.") from None


def _parent(name: str, child: Path) -> Path:
    """What a child extends: a file, from where the child stands; else a bare name is the gallery's."""
    beside = child.parent / name
    return beside if beside.is_file() else {path.stem: path for path in gallery()}.get(name, beside)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override_value(text: str) -> Any:
    return (
        strict_yaml.parse(text, "override").value
        if text.startswith(("[", '"', "'"))
        else strict_yaml.scalar(text)
    )


def _put(values: dict[str, Any], keys: Sequence[str], value: object, where: str) -> None:
    for place, key in enumerate(keys[:-1]):
        inner = values.setdefault(key, {})
        if isinstance(inner, list) and any(isinstance(each, dict) for each in inner):
            _put_in_list(inner, keys[: place + 1], keys[place + 1 :], value, where)
            return
        if not isinstance(inner, dict):
            raise FtError(where, "a section", inner, f"{key} is a value, not a section; see ft recipes show.")
        values = inner
    values[keys[-1]] = value


def _put_in_list(
    sections: list[Any], above: Sequence[str], keys: Sequence[str], value: object, where: str
) -> None:
    """Of several sources one is meant by its place, counted from 0."""
    name = ".".join(above)
    if len(keys) < 2 or keys[0] not in map(str, range(len(sections))):
        wanted = f"{name}.0.KEY to {name}.{len(sections) - 1}.KEY, since {name} is a list"
        raise FtError(where, wanted, ".".join([name, *keys]), "Say which one, or write a recipe.")
    _put(sections[int(keys[0])], keys[1:], value, where)


def _explain(
    section: BaseModel, prefix: str, origins: dict[str, str]
) -> Iterator[tuple[str, object, str, str]]:
    for key, info in type(section).model_fields.items():
        value, dotted = getattr(section, key), f"{prefix}{key}"
        if isinstance(value, BaseModel):
            yield from _explain(value, f"{dotted}.", origins)
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for number, each in enumerate(value):
                yield from _explain(each, f"{dotted}.{number}.", origins)
        else:
            yield dotted, value, origins.get(dotted, "default"), info.description or ""
