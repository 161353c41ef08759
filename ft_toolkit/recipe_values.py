"""How single values of a recipe are written: times, shares, names, encodings."""

from __future__ import annotations

import codecs
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_LETTERS = 100  # a file system takes 255, and a number may stand behind it


def duration_seconds(value: object) -> object:
    """`20m` becomes 1200.0; a bare number is refused, since its unit would be unclear."""
    if value is None or isinstance(value, float):
        return value
    match = _DURATION.fullmatch(str(value))
    if not match:
        raise ValueError("a time with its unit, such as 90s, 20m or 1.5h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def share(value: object) -> object:
    """`5%` becomes 0.05."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


def folder_name(value: str) -> str:
    if len(value) > NAME_LETTERS:
        raise ValueError(f"a name of at most {NAME_LETTERS} letters")
    if not _NAME.fullmatch(value):
        raise ValueError("a name of letters, digits, '.', '_' and '-'")
    return value


def codec_name(value: str | None) -> str | None:
    """An encoding by its name in Python, so that euc-kr and EUC_KR are one.

    raises   ValueError for a name that Python does not have, or not for text
    """
    if value is None:
        return None
    try:
        found = codecs.lookup(value)
        "a".encode(found.name)  # a codec from bytes to bytes, such as zip, is no encoding
    except (LookupError, ValueError):
        raise ValueError("an encoding such as cp949, shift_jis or cp1252") from None
    return found.name
