"""A corpus of which one held-out document also stands in the training text."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_toolkit.sections import Corpus
from ft_toolkit.text.documents import Document
from ft_toolkit.text.splitting import Parts, read_parts


def with_tainted(corpus: Path, folder: Path) -> tuple[Parts, Document]:
    """Copy a corpus and join one of its test documents to training ones, in a further file.

    returns   the parts before, and the document
    """
    shutil.copytree(corpus, folder)
    asked = Corpus(source=str(folder))
    _, plain = read_parts(asked)
    seen = plain.test[0]
    for beside in plain.train:  # the first joint text that lands in training and moves nobody
        (folder / "joined.md").write_text(f"{seen.text}\n{beside.text}\n{plain.train[-1].text}")
        _, parts = read_parts(asked)
        if [d.id for d in parts.test] == [d.id for d in plain.test] and len(parts.train) > len(plain.train):
            break
    return plain, seen
