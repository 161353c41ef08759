"""How bases, texts and runs are named: each kind of reference is parsed here and nowhere else.

base      starter/gpt2 · owner/name[@revision] · a folder · a file.gguf
text      package:italian-cooking · hf:owner/name[/config][@revision] · https://… · a file, folder or glob
run       a folder · hub:owner/name[@revision]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import exists, isdir, isfile  # False for a name too long for any file system; pathlib's raise
from pathlib import Path, PurePath
from typing import Literal

from ft_toolkit import shipped
from ft_toolkit.errors import FtError

_NEWEST = "main"  # the branch that the Hub shows without a revision
_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_DATASET = re.compile(rf"(?P<name>(?!buckets/){_ID}/{_ID})(?:/(?P<config>[^@]+))?(?:@(?P<revision>.+))?")
# stricter than what a recipe of one's own may say: no "..", no blanks, nothing that a path could hide in
_SAFE_BASE = re.compile(rf"(?!.*\.\.)(?!.*\.gguf(?:@|$)){_ID}(?:/{_ID})?(?:@[\w./-]+)?")
_SAFE_DATASET = re.compile(rf"{_ID}/{_ID}(?:/{_ID})?(?:@[\w./-]+)?")
_LONGEST_SAFE = 200  # characters; the Hub's own limit is 96 for owner/name


@dataclass(frozen=True)
class BaseReference:
    """Where a pretrained checkpoint is; `name` as the recipe writes it."""

    name: str
    kind: Literal["starter", "folder", "gguf", "hub"]
    place: str  # a folder, a file, or owner/name
    revision: str = _NEWEST  # of a Hub id

    @property
    def folder(self) -> Path | None:
        """The checkpoint's files on this machine; None for a Hub id and a .gguf file."""
        return Path(self.place) if self.kind in ("starter", "folder") else None

    @property
    def shown(self) -> str:
        """The name without this machine's folders."""
        return PurePath(self.place).name if self.kind in ("folder", "gguf") else self.name


@dataclass(frozen=True)
class TextReference:
    """Where documents are; `source` as the recipe writes it."""

    source: str
    kind: Literal["package", "hub", "web", "path"]
    name: str  # of the package, owner/name of a data set, the address, or the path
    config: str | None = None  # of a data set; None: its only one
    revision: str | None = None  # likewise; None: the newest

    @property
    def package(self) -> str | None:
        """The name of a text that ships with the toolkit; None for others."""
        return self.name if self.kind == "package" else None

    @property
    def dataset(self) -> str | None:
        """owner/name of a data set on the Hub; None for others."""
        return self.name if self.kind == "hub" else None

    @property
    def path(self) -> Path:
        """Where its files are on this machine; a data set of the Hub has none.

        raises   FtError for a package that does not ship
        """
        return shipped.corpus(self.name) if self.kind == "package" else Path(self.name)

    @property
    def shown(self) -> str:
        """The source without this machine's folders; what others can read stays as it is."""
        if self.kind == "web":  # the address may be of a private host, and hold a token behind its ?
            return PurePath(self.source.partition("?")[0]).name
        return PurePath(self.source).name if self.kind == "path" else self.source

    @property
    def label(self) -> str:
        """A short name for a table, likewise without folders."""
        return self.shown if self.kind in ("path", "web") else self.source.partition(":")[2]


@dataclass(frozen=True)
class RunReference:
    """Where a run is; `name` as the user writes it."""

    name: str
    kind: Literal["folder", "hub"]
    place: str  # a folder, or owner/name
    revision: str = _NEWEST  # on the Hub


def parse_base(name: str) -> BaseReference:
    """A base by its name in a recipe.

    raises   FtError for an unknown starter, and for a path with nothing there: the Hub is not asked for it
    """
    shelf, _, starter = name.partition("/")
    if shelf == "starter":
        return BaseReference(name, "starter", str(shipped.starter(starter)))
    if isdir(name):
        return BaseReference(name, "folder", name)
    is_gguf = name.endswith(".gguf")
    if isfile(name):
        if is_gguf:
            return BaseReference(name, "gguf", name)
        expected = "a checkpoint's folder, or a .gguf file"
        raise FtError(f"base {name}", expected, "another file", "Name the folder that holds it.")
    hub_id, _, revision = name.partition("@")
    if revision and isdir(hub_id):  # transformers would load that folder, whatever the revision
        found, fix = f"a folder {hub_id}, which has none", "Name the folder alone, or work in another folder."
        raise FtError(f"base {name}", "a revision of a Hub id", found, fix)
    if is_gguf or name.startswith((".", "/", "~", "\\")) or hub_id.count("/") > 1:  # no id looks like this
        expected = "a .gguf file" if is_gguf else "a checkpoint's folder"
        raise FtError(f"base {name}", expected, "nothing there", "Check the path.")
    return BaseReference(name, "hub", hub_id, revision or _NEWEST)


def parse_text(source: str) -> TextReference:
    """A source of documents by its name in a recipe or behind --on; its files are not looked for.

    raises   FtError for hf: without the name of a data set
    """
    kind, colon, name = source.partition(":")
    if colon and kind == "package":
        return TextReference(source, "package", name)
    if source.startswith("https://"):
        return TextReference(source, "web", source)
    if not (colon and kind == "hf"):
        return TextReference(source, "path", source)
    match = _DATASET.fullmatch(name)
    if not match:  # or hf:buckets/…, which is another kind of storage
        fix = "Write hf:owner/name, or a local folder without hf:."
        raise FtError(f"corpus {source}", "hf:owner/name of the Hub", name or "nothing", fix)
    return TextReference(source, "hub", match["name"], match["config"], match["revision"])


def parse_run(name: str) -> RunReference:
    """A run by its folder, or by its place on the Hub; neither is looked for."""
    if not name.startswith("hub:"):
        return RunReference(name, "folder", name)
    repo, _, revision = name.removeprefix("hub:").partition("@")
    return RunReference(name, "hub", repo, revision or _NEWEST)


def is_safe_base(name: str) -> bool:
    """Whether a stranger's recipe may name this base: a starter or a Hub id by its form, never a path."""
    return len(name) <= _LONGEST_SAFE and _SAFE_BASE.fullmatch(name) is not None


def is_also_here(name: str) -> bool:
    """Whether a file or folder of this machine bears the name of a Hub id, with or without its revision."""
    is_starter = name.startswith("starter/")  # which is looked for in this package alone
    return not is_starter and (exists(name) or exists(name.partition("@")[0]))


def is_safe_text(source: str) -> bool:
    """Whether a stranger's recipe may name this text: one of this package or of the Hub, never a path."""
    kind, colon, name = source.partition(":")
    is_safe = kind == "package" or (kind == "hf" and _SAFE_DATASET.fullmatch(name) is not None)
    return bool(colon) and is_safe
