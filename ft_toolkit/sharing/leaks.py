"""Finds what must not be published: secrets, home folders, names of machine and user, absolute paths.

staging.py decides by an allow-list which files are sent; this room reads their content and refuses a leak.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_toolkit.errors import FtError

# Each reads a line in time linear in its length: no two starts scan the same characters without a bound.
_SECRETS = {
    "a Hugging Face token": re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{16,}"),
    "an npm token": re.compile(r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}"),
    "a PyPI token": re.compile(r"\bpypi-AgE[A-Za-z0-9_-]{20,}"),
    "a Google key": re.compile(
        r"(?<![A-Za-z0-9])(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})"
    ),
    "a Replicate token": re.compile(r"(?<![A-Za-z0-9])r8_[A-Za-z0-9]{37}"),
    # the older keys look like any sha1, such as a commit: only near the service's name do they count
    "a W&B key": re.compile(
        r"wandb_v1_[a-z0-9_]{20,}"
        r"|(?:wandb|W&B)[^0-9a-f][\s\S]{0,60}?(?<![0-9a-z])[0-9a-f]{40}(?![0-9a-z])",
        re.IGNORECASE,
    ),
    "a JSON Web Token": re.compile(
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"://[^\s/:@\"']*:[^\s/@\"']+@"),
}
_HOME = re.compile(
    r"(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2})[^\s/\\\"'<>]+|(?<![\w/:.])/root/\S+|~/\S+"
)
_ABSOLUTE = re.compile(
    r"(?<![\w/:.<~+=*)\]-])(?:/[\w.@+-]+){2,}"
    r"|(?<![\w/.~])/(?:data|mnt|media|scratch|srv|Volumes)/[^\s/\"'<>]+"  # also after : and =
    r"|(?<!\w)[A-Za-z]:\\{1,2}\w"
    r"|(?<![\w\\])\\\\[A-Za-z0-9][\w.-]+\\[A-Za-z0-9][\w.$-]+"  # \\server\share
    r"|\bfile://\S+"
)
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|(.))")
_BLANKS = "abefnrtv"  # \n and its like: blanks, so that lines keep their numbers
# In these a slash belongs to a vocabulary: secrets and homes are looked for, other paths are not.
_WITHOUT_PATHS = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
_EVERYBODY = {
    "root",
    "user",
    "users",
    "admin",
    "home",
    "localhost",
    "runner",
    "ubuntu",
    "default",
    "test",
    "python",
}
SHORTEST_NAME = 3
HEADER_BYTES = 100_000_000  # the most that safetensors allows
SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Needle:
    """An exact string of this machine that must not be found."""

    what: str
    text: str
    is_word: bool  # a name counts only as a whole word


def needles(published: Iterable[str] = ()) -> list[Needle]:
    """Strings that identify this machine: secrets in its environment, its home, user and host.

    published   names that the user chose to show, such as the repository's: a user name in one is no leak
    """
    shown = " ".join(published).lower()
    found = [
        Needle(f"the value of ${name}", value, is_word=False)
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not value.isdigit()
    ]
    with suppress(Exception):  # no home and no user: nothing to give away
        home = str(Path.home())
        if home.count(os.sep) >= 2:  # /root would be found in every other word; the patterns know it
            found.append(Needle("the home folder", home, is_word=False))
    with suppress(Exception):
        from huggingface_hub import get_token

        if token := get_token():
            found.append(Needle("the Hub token", token, is_word=False))
    names = {"the user name": _user(), "the host name": socket.gethostname()}
    for what, name in names.items():
        for part in {name, name.split(".")[0]}:
            is_telling = len(part) >= SHORTEST_NAME and part.lower() not in _EVERYBODY
            if is_telling and part.lower() not in shown:
                found.append(Needle(what, part, is_word=True))
    return found


def refuse_leaks(files: dict[str, Path], published: Iterable[str] = ()) -> None:
    """Read every file that would be sent, and refuse the first leak.

    files    path in the repository → the local file
    raises   FtError with the place (never the secret itself) and the cure
    """
    wanted = needles(published)
    for name, path in files.items():
        for place, text in _texts(name, path):
            for start, what in _leaks(text, wanted, has_paths=not name.endswith(_WITHOUT_PATHS)):
                where = place or f"line {text.count(chr(10), 0, start) + 1}"
                raise FtError(f"{name}, {where}", "nothing of this machine", what, _cure(name))
        data = path.read_bytes()
        for needle in wanted:
            if not needle.is_word and needle.text.encode() in data:
                raise FtError(name, "nothing of this machine", needle.what, _cure(name))


def _leaks(text: str, wanted: list[Needle], *, has_paths: bool) -> Iterator[tuple[int, str]]:
    """(start, description) of every leak in a text."""
    text = _DATA_URI.sub("", text)
    for needle in wanted:
        pattern = rf"(?<!\w){re.escape(needle.text)}(?!\w)" if needle.is_word else re.escape(needle.text)
        if match := re.search(pattern, text, re.IGNORECASE if needle.is_word else 0):
            yield match.start(), needle.what
    for what, expression in _SECRETS.items():
        if match := expression.search(text):
            yield match.start(), what
    if match := _HOME.search(text):
        yield match.start(), f"a home folder, {match[0]}"
    elif has_paths and (match := _ABSOLUTE.search(text)):
        yield match.start(), f"an absolute path, {match[0]}"


def _texts(name: str, path: Path) -> Iterator[tuple[str | None, str]]:
    """(place, text) of everything readable in a file: a table's texts, a checkpoint's header, else all of it.

    The place is None for a whole file, in which lines can be counted.
    """
    if name.endswith(".parquet"):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        yield "its metadata", str(table.schema.metadata)
        for column in table.column_names:
            for value in set(table[column].to_pylist()):
                if isinstance(value, str):
                    yield f"column {column}", value
    elif name.endswith(".safetensors"):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), HEADER_BYTES)))
            metadata = header.get("__metadata__", {})
        except (ValueError, AttributeError, RecursionError):
            raise FtError(name, "whole weights", "a damaged header", "Train again, then push.") from None
        yield "its metadata", json.dumps(metadata, ensure_ascii=False)
    else:  # whatever its ending: a template's is .jinja, and the next format's is not known yet
        text = path.read_bytes().replace(b"\0", b"").decode("utf-8", errors="replace")  # also UTF-16
        plain = _unescaped(text)
        if not name.endswith(".json"):  # of JSON the escapes are no text: \\n\\n would be a server's name
            yield None, text
        if plain != text or name.endswith(".json"):
            yield None, plain


def _unescaped(text: str) -> str:
    """Text without JSON's escapes, each line where it was; what is no escape loses its backslash alone."""

    def character(match: re.Match[str]) -> str:
        code, short, letter = match.groups()
        if letter is None:
            return chr(int(code or short, 16)).replace("\n", " ")
        return " " if letter in _BLANKS else letter

    plain = _ESCAPE.sub(character, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", errors="replace")  # joins their halves


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _cure(name: str) -> str:
    if name in ("README.md", "recipe.yaml"):
        return "Take it out of the run's recipe.yaml (name, source, tags) and push again."
    return "Take it out of the run folder's file and push again."
