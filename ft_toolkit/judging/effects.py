"""Side effects: what was forgotten, and what was merely memorised."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ft_toolkit.text.corpus import Document


def train_sample(train: Sequence[Document], size: int) -> list[Document]:
    """A fixed sample of training documents, as many as are held out, chosen by a hash of their text."""
    ranked = sorted(train, key=lambda document: sha256(f"train sample:{document.sha256}".encode()).digest())
    return ranked[:size]
