"""Lines that occur in two or more documents: a model memorises them, so they are reported apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ft_toolkit.text.corpus import Document


def repeated_lines(documents: Iterable[Document]) -> frozenset[str]:
    """Lines (without surrounding blanks) that occur in two or more documents of a corpus."""
    documents_with: Counter[str] = Counter()
    for document in documents:
        documents_with.update({line.strip() for line in document.text.split("\n")} - {""})
    return frozenset(line for line, count in documents_with.items() if count > 1)


def outside_repeated_lines(text: str, ends: NDArray[np.int64], repeated: frozenset[str]) -> NDArray[np.bool_]:
    """Whether each token's last character is outside the repeated lines.

    ends     (n,) index in `text` behind each token's last character
    returns  (n,) true for a token of a line that only this document has
    """
    lines = text.split("\n")
    is_fresh = np.array([line.strip() not in repeated for line in lines])
    line_ends = np.cumsum([len(line) + 1 for line in lines])  # a line feed counts as part of its line
    fresh: NDArray[np.bool_] = is_fresh[
        np.searchsorted(line_ends, np.maximum(ends - 1, 0), side="right").clip(max=len(lines) - 1)
    ]
    return fresh
