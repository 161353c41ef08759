"""The Hub's protocol on a loopback port, served from folders: what the real clients ask, and no more.

A request that no rule here answers gets 501 and is remembered in `unanswered`, so that a test can fail on it
instead of passing by a client's fallback. Writing needs `TOKEN`; `faults` breaks requests.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hf_xet

Kind = Literal["models", "datasets"]
LFS_BYTES = 1_000_000  # above it a file is announced as a large one, whose etag is its sha256
DATE = "2026-01-01T00:00:00.000Z"
TOKEN, READ_TOKEN = "hf_" + "W" * 34, "hf_" + "R" * 34
STALL_SECONDS = 1.0  # of a slow answer, in the middle of its body
DRIP_SECONDS = 0.05  # between two bytes of a dripping one, its headers too


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
    tags: dict[str, str] = field(default_factory=dict)
    is_private: bool = False

    def point(self, branch: str, folder: Path) -> str:
        """Let a branch show a folder's content; returns the commit."""
        snapshot = Snapshot(folder)
        commit = snapshot.commit
        self.branches[branch] = self.commits[commit] = snapshot
        return commit

    def snapshot(self, revision: str) -> Snapshot | None:
        return self.branches.get(revision) or self.commits.get(self.tags.get(revision, revision))


@dataclass(frozen=True)
class Answer:
    """What goes back: the body is left out for HEAD, its length is not."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None


@dataclass
class Fault:
    """What goes wrong, at which kind of request (a rule's name without its underscore), and how often."""

    kind: str  # reset (not done), lost (done, not told), slow, drip, cut (half an answer), or a status: 503
    request: str
    times: int = 1


class HubServer:
    """`with HubServer() as hub:` serves until the block ends; point HF_ENDPOINT at `hub.endpoint`."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.unanswered: list[str] = []
        self.bodies: list[bytes] = []
        self.transport: Literal["lfs", "xet"] = "lfs"
        self.large_bytes: float = LFS_BYTES
        self.faults: list[Fault] = []
        self.hits: Counter[tuple[str, str]] = Counter()
        self.cards: dict[str, dict[str, str]] = {}  # the metadata of repositories' cards
        self.stored: dict[str, bytes] = {}  # large files by their sha256
        self.xet_hashes: dict[str, str] = {}  # sha256 → hash in the Xet store
        self.scratch = Path(tempfile.mkdtemp(prefix="hub-"))
        self.xet_store = self.scratch / "xet-store"
        self._writing = threading.Lock()
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
        shutil.rmtree(self.scratch, ignore_errors=True)

    def answer(self, method: str, target: str, body: bytes, token: str | None = None) -> Answer:
        self.requests.append(f"{method} {target}")
        self.bodies.append(body)
        url = urlsplit(target)
        for methods, pattern, rule in _RULES:
            match = re.fullmatch(pattern, url.path)
            if match and method in methods:
                parts = {key: unquote(value or "") for key, value in match.groupdict().items()}
                query = {key: value[0] for key, value in parse_qs(url.query).items()}
                fault = self._fault(rule.__name__.removeprefix("_"))
                if fault == "reset":
                    return Answer(0, fault=fault)
                if fault is not None and fault.isdigit():
                    return _refusal(int(fault), "", f"planted {fault}", {"Retry-After": "0"})
                if rule in _WRITING and token != TOKEN:
                    return _refusal(403 if token == READ_TOKEN else 401, "", "this token may not write")
                with self._writing:
                    try:
                        return replace(rule(Asked(self, parts, query, body, token)), fault=fault)
                    except _Refused as refused:
                        return cast(Answer, refused.args[0])
        self.unanswered.append(f"{method} {target}")
        return Answer(501, b"this test server has no rule for that request")

    def _fault(self, request: str) -> str | None:
        for fault in self.faults:
            if fault.request == request and fault.times > 0:
                fault.times -= 1
                self.hits[fault.kind, request] += 1
                return fault.kind
        return None


@dataclass(frozen=True)
class Asked:
    """One request, taken apart, and what it is about."""

    hub: HubServer
    parts: dict[str, str]
    query: dict[str, str]
    body: bytes
    token: str | None

    @property
    def repository(self) -> Repository:
        kind = (self.parts.get("kind") or "models").rstrip("/")
        repository = self.hub.repositories.get((kind, self.parts["id"]))
        # to a stranger the Hub does not tell a missing repository from a private one
        if repository is None or (repository.is_private and self.token not in (TOKEN, READ_TOKEN)):
            raise _Refused(_refusal(401, "RepoNotFound", "Invalid username or password."))
        return repository

    @property
    def snapshot(self) -> Snapshot:
        revision = self.parts.get("revision") or "main"
        snapshot = self.repository.snapshot(revision)
        if snapshot is None:
            raise _Refused(_refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}"))
        return snapshot


class _Refused(Exception):
    """Carries the Answer."""


Rule = Callable[[Asked], Answer]


def _welcome(asked: Asked) -> Answer:
    return Answer(200)


def _info(asked: Asked) -> Answer:
    shown: dict[str, Any] = {"downloads": 0, "likes": 0, "tags": [], "gated": False, "disabled": False}
    shown |= {"private": asked.repository.is_private, "cardData": asked.hub.cards.get(asked.parts["id"])}
    siblings = [{"rfilename": asked.snapshot.name(path)} for path in asked.snapshot.files]
    dates = {"createdAt": DATE, "lastModified": DATE}
    return _json(
        {"id": asked.parts["id"], "sha": asked.snapshot.commit, "siblings": siblings} | shown | dates
    )


def _tree(asked: Asked) -> Answer:
    below = asked.parts.get("path", "").strip("/")
    if below and not (asked.snapshot.folder / below).is_dir():
        return _refusal(404, "EntryNotFound", f"{below} does not exist")
    start = f"{below}/" if below else ""
    entries = [entry for entry in _entries(asked.hub, asked.snapshot) if entry["path"].startswith(start)]
    if asked.query.get("recursive", "false").lower() != "true":
        entries = [entry for entry in entries if entry["path"].count("/") == start.count("/")]
    return _json(entries)


def _file(asked: Asked) -> Answer:
    commit = {"X-Repo-Commit": asked.snapshot.commit}
    path = asked.snapshot.folder / asked.parts["path"]
    if ".." in Path(asked.parts["path"]).parts or not path.is_file():
        return _refusal(404, "EntryNotFound", "Entry not found", commit)
    data = path.read_bytes()
    headers = {"ETag": f'"{_etag(asked.hub, data)}"', **commit}
    if len(data) > asked.hub.large_bytes:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        if xet_hash := asked.hub.xet_hashes.get(sha256(data).hexdigest()):
            page = f"{asked.hub.endpoint}/api/models/{asked.parts['id']}"
            link = f'<{page}/xet-read-token/{asked.snapshot.commit}>; rel="xet-auth"'
            headers |= {"X-Xet-Hash": xet_hash, "Link": link}
    return Answer(200, data, headers)


def _create(asked: Asked) -> Answer:
    wanted = json.loads(asked.body)
    name = f"{wanted['organization']}/{wanted['name']}"
    if wanted["organization"] == "strangers":
        return _refusal(403, "", "no rights under this namespace")
    url = {"url": f"{asked.hub.endpoint}/{name}", "name": name}
    if ("models", name) in asked.hub.repositories:
        return replace(_json(url | {"error": "You already created this model repo"}), status=409)
    folder = Path(tempfile.mkdtemp(dir=asked.hub.scratch))
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    asked.hub.add("models", name, folder)
    asked.hub.repositories["models", name].is_private = wanted.get("visibility") == "private"
    return _json(url)


def _validate(asked: Asked) -> Answer:
    if "\nlicense: nonsense\n" not in json.loads(asked.body)["content"]:
        return _json({"errors": [], "warnings": []})
    return replace(_json({"errors": [{"message": '"license" must be one of …'}]}), status=400)


def _preupload(asked: Asked) -> Answer:
    files = json.loads(asked.body)["files"]
    modes = {file["path"]: "lfs" if file["size"] > asked.hub.large_bytes else "regular" for file in files}
    told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
    return _json({"files": told})


def _batch(asked: Asked) -> Answer:
    answers = []
    for wanted in json.loads(asked.body)["objects"]:
        href = f"{asked.hub.endpoint}/lfs/{wanted['oid']}"
        actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        answers.append(wanted | ({} if wanted["oid"] in asked.hub.stored else {"actions": actions}))
    return _json({"transfer": "basic", "objects": answers})


def _put(asked: Asked) -> Answer:
    if sha256(asked.body).hexdigest() != asked.parts["oid"]:
        return _refusal(400, "", "the content is not what its name says")
    asked.hub.stored[asked.parts["oid"]] = asked.body
    return Answer(200)


def _verify(asked: Asked) -> Answer:
    return Answer(200) if asked.parts["oid"] in asked.hub.stored else _refusal(404, "", "no such object")


def _xet_token(asked: Asked) -> Answer:
    store, expires = f"local://{asked.hub.xet_store}", str(int(time.time()) + 3600)
    told = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": expires}
    return replace(_json({"casUrl": store, "accessToken": "xet", "exp": int(expires)}), headers=told)


def _commit(asked: Asked) -> Answer:
    header, *changes = (json.loads(line) for line in asked.body.splitlines())
    parent = header["value"].get("parentCommit")
    if parent is not None and parent != asked.snapshot.commit:
        return _refusal(412, "", "A commit has happened since. Please refresh and try again.")
    folder = Path(tempfile.mkdtemp(dir=asked.hub.scratch)) / "tree"
    shutil.copytree(asked.snapshot.folder, folder)
    for change in changes:
        path = folder / change["value"]["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if change["key"] == "deletedFile":
            path.unlink()
        elif change["key"] == "file":
            path.write_bytes(base64.b64decode(change["value"]["content"]))
        elif not _fetch(asked.hub, change["value"]["oid"], path):
            return _refusal(400, "", f"no content was uploaded for {change['value']['path']}")
    branch = asked.parts["revision"]
    if asked.query.get("create_pr"):
        branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in asked.repository.branches)}"
    commit = asked.repository.point(branch, folder)
    page, number = f"{asked.hub.endpoint}/{asked.repository.id}", branch.rpartition("/")[2]
    urls = {"commitUrl": f"{page}/commit/{commit}", "pullRequestUrl": f"{page}/discussions/{number}"}
    return _json(urls | {"commitOid": commit})


def _fetch(hub: HubServer, oid: str, path: Path) -> bool:
    """Put an uploaded large file in its place, out of the LFS store or the Xet store."""
    if oid not in hub.stored:
        shards = [shard.read_bytes() for shard in hub.xet_store.glob("xet/xorbs/shards/*.mdb")]
        known = {sha: (xet_hash, size) for shard in shards for xet_hash, sha, size in _shard_files(shard)}
        if oid not in known:
            return False
        where: Any = {"endpoint": f"local://{hub.xet_store}", "token": "xet"}
        expiry = int(time.time()) + 3600
        with hf_xet.XetSession().new_file_download_group(token_expiry_unix_secs=expiry, **where) as group:
            group.start_download_file(hf_xet.XetFileInfo(*known[oid]), str(path))
        hub.stored[oid], hub.xet_hashes[oid] = path.read_bytes(), known[oid][0]
    path.write_bytes(hub.stored[oid])
    return sha256(hub.stored[oid]).hexdigest() == oid


def _shard_files(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """(Xet hash, sha256, bytes) of each file in a shard: records of 48 bytes, ended by one of 0xff."""

    def spelled(at: int) -> str:
        return "".join(shard[start : start + 8][::-1].hex() for start in range(at, at + 32, 8))

    at = 48
    while shard[at : at + 32] != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        sizes = [struct.unpack_from("<I", shard, at + 48 * (i + 1) + 36)[0] for i in range(segments)]
        metadata = at + 48 * (1 + segments * (2 if flags & 0x80000000 else 1))
        yield spelled(at), spelled(metadata), sum(sizes)
        at = metadata + (48 if flags & 0x40000000 else 0)


def _refs(asked: Asked) -> Answer:
    heads = {name: snapshot.commit for name, snapshot in asked.repository.branches.items()}
    refs: dict[str, list[dict[str, str]]] = {"branches": [], "pullRequests": [], "converts": [], "tags": []}
    for name, commit in [*heads.items(), *asked.repository.tags.items()]:
        kind = "pullRequests" if name.startswith("refs/pr/") else "branches" if name in heads else "tags"
        refs[kind].append({"name": name, "ref": name, "targetCommit": commit})
    return _json(refs)


def _tag(asked: Asked) -> Answer:
    asked.repository.tags[json.loads(asked.body)["tag"]] = asked.snapshot.commit
    return Answer(200)


def _branch(asked: Asked) -> Answer:
    asked.repository.branches.setdefault(asked.parts["revision"], asked.repository.branches["main"])
    return Answer(200)


def _settings(asked: Asked) -> Answer:
    asked.repository.is_private = json.loads(asked.body)["visibility"] == "private"
    return Answer(200)


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_RULES: tuple[tuple[tuple[str, ...], str, Rule], ...] = (
    (("HEAD", "GET"), "/?|/api/agent-harnesses", _welcome),
    (("GET",), rf"{_API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _tree),
    (("GET",), rf"{_API}/revision/(?P<revision>[^/]+)", _info),
    (("GET",), _API, _info),
    (("HEAD", "GET"), rf"/(?P<kind>datasets/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _file),
    (("POST",), "/api/repos/create", _create),
    (("POST",), "/api/validate-yaml", _validate),
    (("POST",), rf"{_API}/preupload/(?P<revision>[^/]+)", _preupload),
    (("POST",), rf"/{_ID}\.git/info/lfs/objects/batch", _batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", _put),
    (("POST",), "/lfs/(?P<oid>[0-9a-f]{64})/verify", _verify),
    (("GET",), rf"{_API}/xet-(read|write)-token/(?P<revision>[^/]+)", _xet_token),
    (("POST",), rf"{_API}/commit/(?P<revision>[^/]+)", _commit),
    (("GET",), rf"{_API}/refs", _refs),
    (("POST",), rf"{_API}/tag/(?P<revision>[^/]+)", _tag),
    (("POST",), rf"{_API}/branch/(?P<revision>[^/]+)", _branch),
    (("PUT",), rf"{_API}/settings", _settings),
)
_WRITING = (_create, _preupload, _batch, _verify, _commit, _tag, _branch, _settings)


def _entries(hub: HubServer, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Every folder and file of a commit, as the Hub's tree describes them."""
    folders = {parent for path in snapshot.files for parent in path.relative_to(snapshot.folder).parents}
    for folder in sorted(folders - {Path()}):
        yield {"type": "directory", "path": folder.as_posix(), "oid": _git_oid(folder.as_posix().encode())}
    for path in snapshot.files:
        data = path.read_bytes()
        entry = {"type": "file", "path": snapshot.name(path), "oid": _git_oid(data), "size": len(data)}
        if len(data) > hub.large_bytes:
            digest = sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            entry |= {"xetHash": hub.xet_hashes[digest]} if digest in hub.xet_hashes else {}
        yield entry


def _etag(hub: HubServer, data: bytes) -> str:
    return sha256(data).hexdigest() if len(data) > hub.large_bytes else _git_oid(data)


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


class _Dripping:
    """A way out that lets a byte through at a time, slowly, but faster than any client's patience ends."""

    def __init__(self, wide: BufferedIOBase) -> None:
        self._wide = wide

    def write(self, data: bytes) -> None:
        for byte in data:
            self._wide.write(bytes([byte]))
            self._wide.flush()
            time.sleep(DRIP_SECONDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wide, name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        answer = self.hub.answer(self.command, self.path, body, token)
        if answer.fault in ("reset", "lost"):
            return self._hang_up()
        asked_range = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked_range and answer.status == 200:  # as a stream asks for the pieces of a file
            first, last = int(asked_range[1]), min(int(asked_range[2]), len(answer.body) - 1)
            place = {"Content-Range": f"bytes {first}-{last}/{len(answer.body)}"}
            body = answer.body[first : last + 1]
            answer = replace(answer, status=206, body=body, headers=answer.headers | place)
        if answer.fault == "drip":
            self.wfile = cast(BufferedIOBase, _Dripping(self.wfile))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            half = len(answer.body) // 2 if answer.fault in ("slow", "cut") else 0
            self.wfile.write(answer.body[:half])
            if answer.fault == "cut":
                return self._hang_up()
            if answer.fault == "slow":
                time.sleep(STALL_SECONDS)
            self.wfile.write(answer.body[half:])

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are kept in `HubServer.requests`; the screen stays quiet."""
