"""The lines of a docstring that read `name   meaning` stay lines of their own on the website."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROW = re.compile(r"\S.*? {2,}\S|\s{2,}\S")


class Tables(Extension):
    """An extension of Griffe, which reads the sources for mkdocstrings."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(as_block(part) for part in obj.docstring.value.split("\n\n"))


def as_block(paragraph: str) -> str:
    lines = paragraph.splitlines()
    is_table = lines and not lines[0].startswith(" ") and all(ROW.match(line) for line in lines)
    return "\n".join(f"    {line}" for line in lines) if is_table else paragraph
