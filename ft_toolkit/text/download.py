"""A file of the web, known by its hash: downloaded once, kept in the cache, refused where it changed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ft_toolkit.errors import FtError
from ft_toolkit.network import SLOWEST_BYTES_A_SECOND, within
from ft_toolkit.session import cache_folder
from ft_toolkit.text.readers import ENDINGS, is_readable

if TYPE_CHECKING:
    import httpx2

LARGEST_BYTES = 2**32
SILENCE_SECONDS = 30.0


def downloaded(address: str, sha256: str | None, client: httpx2.Client | None = None) -> Path:
    """The file at an https:// address, from the cache if its hash is there.

    raises   FtError without a sha256, for a file of another hash, and where the server does not give it
    """
    shown = address.partition("?")[0]
    where = f"corpus {shown}"
    name = _file_name(address, where)
    if sha256 is None:
        fix = f"Set it to what this prints: curl -sL {shown} | sha256sum"
        raise FtError(where, "its corpus.sha256", "none", fix)
    folder = cache_folder() / "downloads" / sha256
    path = folder / name
    if path.is_file() and _hash(path) == sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder)
    os.close(handle)
    part = Path(temporary)
    try:
        within(LARGEST_BYTES / SLOWEST_BYTES_A_SECOND, lambda: _fetch(address, where, part, client))
        found = _hash(part)
        if found != sha256:
            fix = "The file has changed; look at it before you set the new hash."
            raise FtError(where, f"sha256 {sha256[:12]}…", f"{found[:12]}…", fix)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _file_name(address: str, where: str) -> str:
    try:
        parts = urlsplit(address)
        name = PurePosixPath(unquote(parts.path)).name
    except ValueError as error:
        raise FtError(where, "an https:// address", error, "Check corpus.source.") from None
    if parts.username or parts.password:
        raise FtError(
            f"corpus https://{parts.hostname}", "an address without a password", "one", "Remove it."
        )
    if not is_readable(name) or not name.isprintable() or len(name) > 200:
        wanted = f"the address of a file ending in {' '.join(ENDINGS)}"
        raise FtError(where, wanted, name or "no file", "Download it, and name the file.")
    return name


def _fetch(address: str, where: str, part: Path, client: httpx2.Client | None) -> None:
    import httpx2

    opened = client or httpx2.Client(timeout=SILENCE_SECONDS)
    try:
        for _ in range(5):
            if not address.startswith("https://"):
                raise FtError(where, "an answer by https", "one that leads to another kind", "Download it.")
            with opened.stream("GET", address, follow_redirects=False) as answer:
                if answer.next_request is not None:
                    address = str(answer.next_request.url)
                    continue
                if answer.status_code != 200:
                    found = f"status {answer.status_code}"
                    raise FtError(where, "the file", found, "Check the address.")
                size = 0
                with part.open("wb") as file:
                    for piece in answer.iter_bytes():
                        size += len(piece)
                        if size > LARGEST_BYTES:
                            raise FtError(where, "at most 4 GiB", "more", "Download it, and name the file.")
                        file.write(piece)
                return
        raise FtError(where, "the file", "five redirections", "Check the address.")
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise FtError(where, "an answer, or the file in the cache", reason, "Check the network.") from None
    finally:
        if client is None:
            opened.close()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
