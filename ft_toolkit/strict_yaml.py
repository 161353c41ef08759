"""YAML as recipes need it: YAML 1.2 scalars, no duplicate keys, no anchors, and the line of every key.

PyYAML speaks YAML 1.1, where `2e-4` is a text, `no` is false and the last of two equal keys wins in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from ft_toolkit.errors import FtError, RecipeError

_DIGITS = 100  # a longer number is no integer: Python refuses to print it, and no key takes it
# The core schema of YAML 1.2.2, section 10.3.2.
_SCALARS = (
    (re.compile(r"(?:null|Null|NULL|~|)"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE)"), lambda text: True),
    (re.compile(r"(?:false|False|FALSE)"), lambda text: False),
    (re.compile(rf"[-+]?[0-9]{{1,{_DIGITS}}}"), int),
    (re.compile(rf"0o[0-7]{{1,{_DIGITS}}}"), lambda text: int(text[2:], 8)),
    (re.compile(rf"0x[0-9a-fA-F]{{1,{_DIGITS}}}"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?(?:\.inf|\.Inf|\.INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"(?:\.nan|\.NaN|\.NAN)"), lambda text: float("nan")),
)

Path = tuple[str, ...]


@dataclass
class Parsed:
    """Plain values, and the line (counted from 1) on which each dotted key stands."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)


class _Plain(yaml.SafeLoader):
    """SafeLoader that resolves no plain scalar itself: scalar() below does, by YAML 1.2."""


_Plain.yaml_implicit_resolvers = {}


class _Written(yaml.SafeDumper):
    """SafeDumper, which quotes by YAML 1.1 what is no text, and here by YAML 1.2 too; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Written.add_representer(str, _text)


def scalar(text: str) -> Any:
    """The value of one plain scalar by YAML 1.2's core schema."""
    for pattern, convert in _SCALARS:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def parse(text: str, name: str) -> Parsed:
    """Read one YAML document; `name` is what faults call it.

    raises   FtError for text that is not YAML, RecipeError with every duplicate key, anchor or tag
    """
    try:
        root = _Plain(text).get_single_node()
        faults = _anchors_and_tags(text, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        found = getattr(error, "problem", None) or str(error)
        raise FtError(where, "YAML", found, "Mind indentation, colons and quotes.") from None
    except RecursionError:
        fix = "Recipes are three levels deep."
        raise FtError(name, "YAML", "brackets nested too deep", fix) from None
    parsed = Parsed(None)
    if root is not None and not faults:
        parsed.value = _build(root, (), parsed.lines, faults, name)
    if faults:
        raise RecipeError(faults)
    return parsed


def dump(values: Any) -> str:
    """Plain values as parse() reads them again: a text that YAML 1.2 takes for a number is quoted."""
    return yaml.dump(values, Dumper=_Written, sort_keys=False, allow_unicode=True)


def _anchors_and_tags(text: str, name: str) -> list[str]:
    faults: list[str] = []
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
    for event in events:
        where = f"{name}:{event.start_mark.line + 1}"
        if anchor := getattr(event, "anchor", None):
            faults.append(f"{where}: anchor or alias {anchor}; write the value out")
        if tag := getattr(event, "tag", None):
            faults.append(f"{where}: tag {tag}; recipes hold plain values only")
    return faults


def _build(node: yaml.Node, path: Path, lines: dict[Path, int], faults: list[str], name: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            key_line = key_node.start_mark.line + 1
            if key in mapping:
                first = lines[(*path, key)]
                faults.append(
                    f"{name}:{key_line}: {'.'.join((*path, key))}: duplicate key, first on line {first}"
                )
            lines.setdefault((*path, key), key_line)
            mapping[key] = _build(value_node, (*path, key), lines, faults, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, str(i)), lines, faults, name) for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)  # the third and last kind
    return scalar(node.value) if node.style is None else node.value
