"""Upload to the Hub: one commit on top of the one that was seen, read back afterwards.

Whatever fails, the repository holds the old commit or the whole new one. Repeating the command continues:
content that is already there is not sent again.
"""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1, sha256
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    set_client_factory,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import (
    default_client_factory,  # the hooks of the real client, with our timeout
)

from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.network import Late, step_seconds, within
from ft_toolkit.progress import Advance, Screen
from ft_toolkit.sharing.faults import REPEAT, in_plain_words, told_plainly

SECONDS_OF_SILENCE = 60.0  # read timeout of one request; the client has none of its own
LFS_BYTES = 2**20  # files that are read back by their bytes are read in pieces of this size
_CONNECTING = threading.Lock()
T = TypeVar("T")


@dataclass(frozen=True)
class Destination:
    """Where a push goes, and who may see it."""

    repo: str  # owner/name; the owner is a user or an organisation
    revision: str = "main"
    is_public: bool = False
    as_pull_request: bool = False
    tag: str | None = None


@dataclass(frozen=True)
class Pushed:
    """The commit that holds the content; `is_new` is false if it was there already."""

    commit: str
    url: str
    is_new: bool


@dataclass(frozen=True)
class RemoteFile:
    """The Hub's record of a file: its size and hash."""

    size: int
    sha256: str | None  # of the content, for large files
    git_oid: str  # of the content as a git blob, for the others


@dataclass(frozen=True)
class Change:
    """One commit, to be made on top of `parent` alone."""

    parent: str
    operations: list[CommitOperationAdd | CommitOperationDelete]
    title: str


@dataclass(frozen=True)
class Steps:
    """Requests to the Hub, one after another, each with a time limit and a progress line."""

    advance: Advance

    def take(self, words: str, call: Callable[[], T], carried_bytes: int = 0) -> T:
        """raises   Late after step_seconds, whatever the server sent until then"""
        self.advance(0, words)
        deadline_seconds = step_seconds(carried_bytes)
        try:
            return within(
                deadline_seconds, call, lambda seconds: self.advance(0, f"{words}, {seconds:.0f} s")
            )
        except Late as late:
            raise Late(late.where, late.expected, f"none, {words}", REPEAT) from None


def connect(silence_seconds: float = SECONDS_OF_SILENCE) -> HfApi:
    """The Hub's client, with the token of the environment or of `hf auth login`.

    raises   FtError without a token, or when HF_HUB_OFFLINE is set
    """
    if constants.is_offline_mode():
        raise FtError("the Hub", "to be allowed to use the network", "HF_HUB_OFFLINE", "Unset it.")
    if get_token() is None:
        cure = "Run hf auth login, or set HF_TOKEN to a token that may write."
        raise FtError(constants.ENDPOINT, "a token", "none", cure)
    with _CONNECTING:
        _set_patience(silence_seconds)
    return HfApi()


@lru_cache(maxsize=1)
def _set_patience(silence_seconds: float) -> None:
    """The read timeout of the client that all threads share.

    Not set again while it stays the same: setting a factory closes that client, in the middle of whatever
    another thread is sending.
    """

    def patient_client() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(silence_seconds)
        return client

    set_client_factory(patient_client)


def push_files(
    api: HfApi,
    to: Destination,
    files: Mapping[str, Path],
    ours: frozenset[str],
    title: str,
    screen: Screen | None = None,
) -> Pushed:
    """Make a repository hold exactly these files, besides files that its owner added.

    files    path in the repository → the local file
    ours     paths that earlier pushes may have written: those among them that are gone are deleted
    raises   FtError; the repository then holds the commit it held, or the whole new one
    """
    screen = screen or Screen(quiet=True)
    with told_plainly(to.repo), screen.stage("push", len(files)) as advance:
        steps = Steps(advance)
        parent = steps.take("looking at the repository", lambda: _prepare(api, to))
        there = steps.take("listing its files", lambda: remote_files(api, to.repo, parent))
        if to.as_pull_request:
            made = steps.take("looking at its proposals", lambda: _proposed(api, to, files, ours))
            if made is not None:
                advance(len(files), "proposed already")
                return made
        wanted = changes(there, files, ours)
        if not wanted:
            steps.take("finishing", lambda: _finish(api, to, parent))
            advance(len(files), "all there already")
            return Pushed(parent, f"{constants.ENDPOINT}/{to.repo}", False)
        commit, url = _commit(api, to, Change(parent, wanted, title), (files, ours), steps)
        with tempfile.TemporaryDirectory() as folder:
            read_back(api, to.repo, commit, files, Path(folder), steps)
        steps.take("finishing", lambda: _finish(api, to, commit))
        return Pushed(commit, url, True)


def remote_files(api: HfApi, repo: str, revision: str) -> dict[str, RemoteFile]:
    """Every file of a revision, by its path."""
    return {
        entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in api.list_repo_tree(repo, recursive=True, revision=revision)
        if isinstance(entry, RepoFile)
    }


def changes(
    there: Mapping[str, RemoteFile], files: Mapping[str, Path], ours: frozenset[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The changes that make `there` hold `files`, by content; empty if it does already."""
    added = [
        CommitOperationAdd(name, path)
        for name, path in files.items()
        if name not in there or not _is_same(there[name], path)
    ]
    gone = [CommitOperationDelete(name) for name in sorted((there.keys() & ours) - files.keys())]
    return [*added, *gone]


def read_back(
    api: HfApi, repo: str, commit: str, files: Mapping[str, Path], cache: Path, steps: Steps
) -> None:
    """Download what a commit holds into a cache and compare hashes.

    raises   IntegrityFailed when a file differs from the one that was sent, or is not there
    """
    for name, path in files.items():

        def download(name: str = name) -> str:
            return hf_hub_download(repo, name, revision=commit, cache_dir=cache, token=api.token)

        where = f"{repo}@{commit[:12]}, {name}"
        try:
            found = steps.take(f"reading {name} back", download, path.stat().st_size)
        except RemoteEntryNotFoundError:
            raise IntegrityFailed(where, "the file that was sent", "none", REPEAT) from None
        if _sha256(Path(found)) != _sha256(path):
            raise IntegrityFailed(where, "the file that was sent", "another", REPEAT)
        steps.advance(1)


def stated_licence(name: str, kind: str) -> str | None:
    """The licence on the card of a base (kind model) or data set (kind dataset); None when it names none."""
    api = connect()
    with told_plainly(name):
        ask = api.model_info if kind == "model" else api.dataset_info
        card = within(step_seconds(), lambda: ask(name).card_data)
    licence = card.get("license") if card is not None else None
    return licence if isinstance(licence, str) else None


def _prepare(api: HfApi, to: Destination) -> str:
    """Make the repository and the branch if they are missing; returns the commit the branch shows."""
    try:
        info = api.repo_info(to.repo)
    except RepositoryNotFoundError:
        _create(api, to.repo)
        info = api.repo_info(to.repo)
    if not info.private and not to.is_public:
        cure = "Say --public, or choose another name."
        raise FtError(to.repo, "a private repository", "a public one", cure)
    if to.revision != "main":
        try:
            info = api.repo_info(to.repo, revision=to.revision)
        except RevisionNotFoundError:
            api.create_branch(to.repo, branch=to.revision, exist_ok=True)
            info = api.repo_info(to.repo, revision=to.revision)
        if info.sha == to.revision:
            raise FtError("--revision", "a branch", "a commit", "Commits do not change; name a branch.")
    assert info.sha is not None  # an existing repository always has a commit
    return str(info.sha)


def _create(api: HfApi, repo: str) -> None:
    try:
        api.create_repo(repo, private=True, exist_ok=True)  # public only once everything is there
    except KeyError:  # the client looks for the url that a conflict of another kind does not hold
        raise FtError(repo, "no other change under way", "a conflict", REPEAT) from None


def _proposed(api: HfApi, to: Destination, files: Mapping[str, Path], ours: frozenset[str]) -> Pushed | None:
    """The pull request that already holds these files."""
    for reference in api.list_repo_refs(to.repo, include_pull_requests=True).pull_requests or []:
        if not changes(remote_files(api, to.repo, reference.target_commit), files, ours):
            return Pushed(reference.target_commit, _pull_request_url(to.repo, reference.ref), False)
    return None


def _commit(
    api: HfApi,
    to: Destination,
    change: Change,
    whole: tuple[Mapping[str, Path], frozenset[str]],
    steps: Steps,
) -> tuple[str, str]:
    """Make a commit; if the answer is lost, check whether it arrived before reporting a fault.

    whole    what changes() takes: all the files that shall be there, and which others are ours
    """
    added = [operation for operation in change.operations if isinstance(operation, CommitOperationAdd)]
    size = sum(operation.upload_info.size for operation in added)

    def send() -> CommitInfo:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*data file")  # scores are meant to go along
            return api.create_commit(
                to.repo,
                change.operations,
                commit_message=change.title,
                revision=to.revision,
                parent_commit=change.parent,
                create_pr=to.as_pull_request,
            )

    try:
        done = steps.take(f"sending {len(added)} files, {size / 1e6:.1f} MB", send, size)
    except (HfHubHTTPError, httpx2.HTTPError, Late) as error:
        landed = None if to.as_pull_request else _landed(api, to, whole, steps)
        if landed is None:
            raise error if isinstance(error, Late) else in_plain_words(to.repo, error) from error
        return landed, f"{constants.ENDPOINT}/{to.repo}"
    return done.oid, str(done.pr_url or f"{constants.ENDPOINT}/{to.repo}")


def _landed(
    api: HfApi, to: Destination, whole: tuple[Mapping[str, Path], frozenset[str]], steps: Steps
) -> str | None:
    """The branch's commit if it already shows what was to be committed."""

    def look() -> str | None:
        head = api.repo_info(to.repo, revision=to.revision).sha
        return head if head and not changes(remote_files(api, to.repo, head), *whole) else None

    try:
        return steps.take("looking whether it arrived", look)
    except (HfHubHTTPError, httpx2.HTTPError, Late):
        return None  # report the first fault


def _finish(api: HfApi, to: Destination, commit: str) -> None:
    """The tag, and the visibility, once the content stands; a repeat finds both done."""
    if to.tag is not None:
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(to.repo).tags}
        if to.tag in tags and tags[to.tag] != commit:
            found = f"one at {tags[to.tag][:12]}"
            raise FtError(f"tag {to.tag}", f"none, or one at {commit[:12]}", found, "Choose another --tag.")
        if to.tag not in tags:
            api.create_tag(to.repo, tag=to.tag, revision=commit)
    if to.is_public and not to.as_pull_request and api.repo_info(to.repo).private:
        api.update_repo_settings(to.repo, private=False)


def _is_same(there: RemoteFile, path: Path) -> bool:
    if there.size != path.stat().st_size:
        return False
    if there.sha256 is not None:
        return there.sha256 == _sha256(path)
    data = path.read_bytes()
    return there.git_oid == sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(LFS_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _pull_request_url(repo: str, reference: str) -> str:
    return f"{constants.ENDPOINT}/{repo}/discussions/{reference.rpartition('/')[2]}"
