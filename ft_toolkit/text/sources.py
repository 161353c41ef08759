"""The files of a source, in a fixed order: one file, those of a folder or glob, the members of archives."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from os.path import getsize, isdir, isfile  # False for a name that no file system holds, where pathlib raises
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import file_sha256, value_sha256
from ft_toolkit.errors import FtError, Unreadable
from ft_toolkit.references import TextReference, parse_text
from ft_toolkit.sections import Corpus
from ft_toolkit.text.download import downloaded
from ft_toolkit.text.kept import FORMAT
from ft_toolkit.text.packed import File, is_archive, members, unpacked_file
from ft_toolkit.text.readers import ENDINGS, is_readable

CHECK = "Check corpus.source."
KEYED_FROM_BYTES = 2**21  # of all files; to know a smaller text again takes as long as to read it
_NOT_READ: Any = {  # keys that change no document
    **dict.fromkeys(("license", "language", "name", "weight", "near_duplicates", "keep_duplicates"), True),
    "split": {"validation", "test", "seed"},
}
_READERS = ("ft-toolkit", "pypdf", "docutils", "lxml")


def files_of(corpus: Corpus, reference: TextReference) -> Iterator[Callable[[], File]]:
    """Each file, read when it is called; the members of an archive are files of their own.

    raises   FtError for a source without a file that has a reader, or a link that leaves the corpus folder
    """
    root, paths = _paths(corpus, reference)
    for path in paths:
        name = path.relative_to(root).as_posix()
        if not is_archive(path):
            yield partial(unpacked_file, path, name)
            continue
        try:
            yield from members(path, name, is_readable)
        except Unreadable as fault:
            yield partial(_refuse, fault)


def sources_key(corpora: Sequence[Corpus]) -> str | None:
    """A hash of all that a reading of these sources depends on; None for a small text, or one on the Hub.

    raises   as files_of
    """
    files: list[Any] = []
    size = 0
    for corpus in corpora:
        reference = parse_text(corpus.source)
        if reference.kind == "hub":
            return None
        root, paths = _paths(corpus, reference)
        size += sum(getsize(path) for path in paths if isfile(path))
        files.append((corpus.model_dump(exclude=_NOT_READ), corpus.label, root, paths))
    if size < KEYED_FROM_BYTES:
        return None
    try:
        hashed = [
            (read, label, [(path.relative_to(root).as_posix(), file_sha256(path)) for path in paths])
            for read, label, root, paths in files
        ]
    except OSError:  # reading it will say what is wrong
        return None
    return value_sha256([FORMAT, [_version(name) for name in _READERS], hashed])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _paths(corpus: Corpus, reference: TextReference) -> tuple[Path, list[Path]]:
    """The corpus root, and the files below it."""
    if reference.kind == "web":
        path = downloaded(corpus.source, corpus.sha256)
        return path.parent, [path]
    return _files(reference.path, corpus.source)


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
