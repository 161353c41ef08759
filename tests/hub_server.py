"""The Hub's reading protocol on a loopback port, served from folders: what the real clients ask, and no more.

A request that no rule here answers gets 501 and is remembered in `unanswered`, so that a test can fail on it
instead of passing by a client's fallback.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["models", "datasets"]
LFS_BYTES = 1_000_000  # above it a file is announced as a large one, whose etag is its sha256
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Snapshot:
    """One commit: a folder, named by a hash of its content as git would name it."""

    folder: Path

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    @property
    def commit(self) -> str:
        digest = sha1()
        for path in self.files:
            digest.update(f"{self.name(path)}\0{_git_oid(path.read_bytes())}\0".encode())
        return digest.hexdigest()

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


@dataclass
class Repository:
    """A model or data set: its branches, and every commit that one of them ever pointed to."""

    kind: Kind
    id: str
    branches: dict[str, Snapshot] = field(default_factory=dict)
    commits: dict[str, Snapshot] = field(default_factory=dict)

    def point(self, branch: str, folder: Path) -> str:
        """Let a branch show a folder's content; returns the commit."""
        snapshot = Snapshot(folder)
        commit = snapshot.commit
        self.branches[branch] = self.commits[commit] = snapshot
        return commit

    def snapshot(self, revision: str) -> Snapshot | None:
        return self.branches.get(revision) or self.commits.get(revision)


@dataclass(frozen=True)
class Answer:
    """What goes back: the body is left out for HEAD, its length is not."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class HubServer:
    """`with HubServer() as hub:` serves until the block ends; point HF_ENDPOINT at `hub.endpoint`."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.unanswered: list[str] = []
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, kind: Kind, repo_id: str, folder: Path, branch: str = "main") -> str:
        """Serve a folder as a branch of a repository; returns the commit."""
        repository = self.repositories.setdefault((kind, repo_id), Repository(kind, repo_id))
        return repository.point(branch, folder)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        """Stop answering: from here on a connection is refused, and those kept alive are cut."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        self.requests.append(f"{method} {target}")
        url = urlsplit(target)
        for methods, pattern, rule in _RULES:
            match = re.fullmatch(pattern, url.path)
            if match and method in methods:
                parts = {key: unquote(value or "") for key, value in match.groupdict().items()}
                return rule(self, parts, {key: value[0] for key, value in parse_qs(url.query).items()}, body)
        self.unanswered.append(f"{method} {target}")
        return Answer(501, b"this test server has no rule for that request")

    def find(self, kind: str, parts: dict[str, str]) -> tuple[Repository, Snapshot] | Answer:
        """The repository and revision that a path names, or the Hub's way of saying that there is none."""
        repository = self.repositories.get((kind, parts["id"]))
        if repository is None:  # to a stranger the Hub does not tell a missing repository from a private one
            return _refusal(401, "RepoNotFound", "Invalid username or password.")
        snapshot = repository.snapshot(parts.get("revision") or "main")
        if snapshot is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {parts['revision']}")
        return repository, snapshot


Rule = Callable[[HubServer, dict[str, str], dict[str, str], bytes], Answer]


def _info(hub: HubServer, parts: dict[str, str], query: dict[str, str], body: bytes) -> Answer:
    found = hub.find(parts["kind"], parts)
    if isinstance(found, Answer):
        return found
    repository, snapshot = found
    return _json(
        {
            "_id": "0",
            "id": repository.id,
            "sha": snapshot.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": DATE,
            "lastModified": DATE,
            "siblings": [{"rfilename": snapshot.name(path)} for path in snapshot.files],
        }
    )


def _tree(hub: HubServer, parts: dict[str, str], query: dict[str, str], body: bytes) -> Answer:
    found = hub.find(parts["kind"], parts)
    if isinstance(found, Answer):
        return found
    _, snapshot = found
    below = parts.get("path", "").strip("/")
    if below and not (snapshot.folder / below).is_dir():
        return _refusal(404, "EntryNotFound", f"{below} does not exist")
    entries = list(_entries(snapshot))
    if below:
        entries = [entry for entry in entries if entry["path"].startswith(f"{below}/")]
    if query.get("recursive", "false").lower() != "true":
        depth = below.count("/") + 1 if below else 0
        entries = [entry for entry in entries if entry["path"].count("/") == depth]
    return _json(entries)


def _paths_info(hub: HubServer, parts: dict[str, str], query: dict[str, str], body: bytes) -> Answer:
    found = hub.find(parts["kind"], parts)
    if isinstance(found, Answer):
        return found
    _, snapshot = found
    asked = json.loads(body)["paths"]
    wanted = {path.strip("/") for path in ([asked] if isinstance(asked, str) else asked)}
    return _json([entry for entry in _entries(snapshot) if entry["path"] in wanted])


def _file(hub: HubServer, parts: dict[str, str], query: dict[str, str], body: bytes) -> Answer:
    found = hub.find((parts.get("kind") or "models").rstrip("/"), parts)
    if isinstance(found, Answer):
        return found
    _, snapshot = found
    commit = {"X-Repo-Commit": snapshot.commit}
    path = snapshot.folder / parts["path"]
    if ".." in Path(parts["path"]).parts or not path.is_file():
        return _refusal(404, "EntryNotFound", "Entry not found", commit)
    data = path.read_bytes()
    linked = {"X-Linked-Etag": f'"{_etag(data)}"', "X-Linked-Size": str(len(data))}
    headers = {"ETag": f'"{_etag(data)}"', "Accept-Ranges": "bytes", **commit}
    return Answer(200, data, headers | (linked if len(data) > LFS_BYTES else {}))


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_RULES: tuple[tuple[tuple[str, ...], str, Rule], ...] = (
    (("GET",), rf"{_API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _tree),
    (("POST",), rf"{_API}/paths-info/(?P<revision>[^/]+)", _paths_info),
    (("GET",), rf"{_API}/revision/(?P<revision>[^/]+)", _info),
    (("GET",), _API, _info),
    (("HEAD", "GET"), rf"/(?P<kind>datasets/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _file),
)


def _entries(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Every folder and file of a commit, as the Hub's tree describes them."""
    folders = {parent for path in snapshot.files for parent in path.relative_to(snapshot.folder).parents}
    for folder in sorted(folders - {Path()}):
        yield {"type": "directory", "path": folder.as_posix(), "oid": _git_oid(folder.as_posix().encode())}
    for path in snapshot.files:
        data = path.read_bytes()
        entry = {"type": "file", "path": snapshot.name(path), "oid": _git_oid(data), "size": len(data)}
        if len(data) > LFS_BYTES:
            entry["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        yield entry


def _etag(data: bytes) -> str:
    return sha256(data).hexdigest() if len(data) > LFS_BYTES else _git_oid(data)


def _git_oid(data: bytes) -> str:
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"})


def _refusal(status: int, code: str, words: str, headers: dict[str, str] | None = None) -> Answer:
    marks = {"X-Error-Code": code, "X-Error-Message": words, "Content-Type": "application/json"}
    return Answer(status, json.dumps({"error": words}).encode(), marks | (headers or {}))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up, or that we cut off, is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.hub.answer(self.command, self.path, body)
        data, status = answer.body, answer.status
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        self.send_response(206 if wanted and status == 200 else status)
        if wanted and status == 200:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are kept in `HubServer.requests`; the screen stays quiet."""
