"""Where a base is: a starter, a folder, a .gguf file, or an id on the Hub."""

from __future__ import annotations

from os.path import isdir, isfile

from ft_toolkit import shipped
from ft_toolkit.errors import FtError


def place_of(name: str) -> tuple[str, str]:
    """Where to load a base from, and which revision of it.

    raises   FtError for an unknown starter, and for a path with nothing there: the Hub is not asked for it
    """
    shelf, _, starter = name.partition("/")
    if shelf == "starter":
        return str(shipped.starter(starter)), "main"
    is_gguf = name.endswith(".gguf")
    if isdir(name) or (is_gguf and isfile(name)):  # os.path's are false for a name too long, Path's raise
        return name, "main"
    if isfile(name):
        wanted = "a checkpoint's folder, or a .gguf file"
        raise FtError(f"base {name}", wanted, "another file", "Name the folder that holds it.")
    hub_id, _, revision = name.partition("@")
    if is_gguf or name.startswith((".", "/", "~", "\\")) or hub_id.count("/") > 1:  # no id looks like this
        wanted = "a .gguf file" if is_gguf else "a checkpoint's folder"
        raise FtError(f"base {name}", wanted, "nothing there", "Check the path.")
    return hub_id, revision or "main"
