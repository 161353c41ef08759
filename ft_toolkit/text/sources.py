"""The files of a source, in a fixed order: one file, those of a folder or glob, the members of archives."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from os.path import isdir, isfile  # False for a name that no file system holds, where pathlib raises
from pathlib import Path

from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.references import TextReference
from ft_toolkit.sections import Corpus
from ft_toolkit.text.download import downloaded
from ft_toolkit.text.packed import File, is_archive, members, unpacked_file
from ft_toolkit.text.readers import ENDINGS, is_readable

CHECK = "Check corpus.source."


def files_of(corpus: Corpus, reference: TextReference) -> Iterator[Callable[[], File]]:
    """Each file, read when it is called; the members of an archive are files of their own.

    raises   FtError for a source without a file that has a reader, or a link that leaves the corpus folder
    """
    if reference.kind == "web":
        path = downloaded(corpus.source, corpus.sha256)
        root, paths = path.parent, [path]
    else:
        root, paths = _files(reference.path, corpus.source)
    for path in paths:
        name = path.relative_to(root).as_posix()
        if not is_archive(path):
            yield partial(unpacked_file, path, name)
            continue
        try:
            yield from members(path, name, is_readable)
        except Unreadable as fault:
            yield partial(_refuse, fault)


def _refuse(fault: Unreadable) -> File:
    raise fault


def _files(path: Path, source: str) -> tuple[Path, list[Path]]:
    """The corpus root, and the files below it in a fixed order; no folder below it is entered by a link."""
    if isfile(path):
        if not is_readable(path):
            raise FtError(
                path, f"a file ending in {' '.join(ENDINGS)}", path.suffix or "none", "Convert or rename it."
            )
        return path.parent, [path]
    if isdir(path):
        root, found = path, sorted(path.rglob("*"))
    elif glob.has_magic(source):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = sorted(Path(match) for match in glob.glob(source, recursive=True))
    else:
        raise FtError(f"corpus {source}", "a file, folder or glob", "nothing there", CHECK)
    files = [f for f in found if f.is_file() and is_readable(f) and not _hidden(f, root)]
    if not files:
        raise FtError(f"corpus {source}", "files such as .txt, .md, .pdf, .docx, .jsonl, .csv", "none", CHECK)
    inside = root.resolve()
    for file in files:
        # a link in someone else's folder could point to any file of this machine
        if not file.resolve().is_relative_to(inside):
            target = f"a link to {file.resolve()}"
            raise FtError(
                file, "a file inside the corpus folder", target, "Copy the file there, or unlink it."
            )
    return root, files


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
