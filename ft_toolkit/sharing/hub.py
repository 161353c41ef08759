"""The way to the Hub and back: one commit, on top of the one that was seen, read back afterwards.

Whatever goes wrong on the way, the repository holds the old commit or the whole new one, and the same command
repeated continues: content that is already there is not sent again.
"""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    set_client_factory,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import (
    default_client_factory,  # the hooks of the real client, with our timeout
)

from ft_toolkit.errors import FtError, is_disk_full

SECONDS_OF_SILENCE = 60.0  # the client itself would wait for a silent server for ever
REPEAT = "Repeat the same command: it continues where this one stopped."
LFS_BYTES = 2**20  # files that are read back by their bytes are read in pieces of this size


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
    """Where the content stands now; `is_new` is false when it stood there already."""

    commit: str
    url: str
    is_new: bool


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub tells of a file: its size, and the hash by which it keeps it."""

    size: int
    sha256: str | None  # of the content, for large files
    git_oid: str  # of the content as a git blob, for the others


def connect(silence_seconds: float = SECONDS_OF_SILENCE) -> HfApi:
    """The Hub's client, with the token of the environment or of `hf auth login`.

    raises   FtError without a token, or when HF_HUB_OFFLINE is set
    """
    if constants.is_offline_mode():
        raise FtError("the Hub", "to be allowed to use the network", "HF_HUB_OFFLINE", "Unset it.")
    if get_token() is None:
        cure = "Run hf auth login, or set HF_TOKEN to a token that may write."
        raise FtError(constants.ENDPOINT, "a token", "none", cure)

    def patient_client() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(silence_seconds)
        return client

    set_client_factory(patient_client)
    return HfApi()


def push_files(
    api: HfApi, to: Destination, files: Mapping[str, Path], ours: frozenset[str], title: str
) -> Pushed:
    """Bring a repository to hold exactly these files, and whatever else its owner put there.

    files    path in the repository → the local file
    ours     paths that earlier pushes may have written: those among them that are gone are deleted
    raises   FtError; the repository then holds the commit it held, or the whole new one
    """
    with told_plainly(to.repo):
        parent = _prepare(api, to)
        there = remote_files(api, to.repo, parent)
        if to.as_pull_request:
            for reference in api.list_repo_refs(to.repo, include_pull_requests=True).pull_requests or []:
                if not changes(remote_files(api, to.repo, reference.target_commit), files, ours):
                    return Pushed(reference.target_commit, _pull_request_url(to.repo, reference.ref), False)
        wanted = changes(there, files, ours)
        if not wanted:
            _finish(api, to, parent)
            return Pushed(parent, f"{constants.ENDPOINT}/{to.repo}", False)
        commit, url = _commit(api, to, parent, wanted, files, ours, title)
        read_back(api, to.repo, commit, files)
        _finish(api, to, commit)
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
    """What a commit must do so that `there` holds `files`, by content; empty when it does."""
    added = [
        CommitOperationAdd(name, path)
        for name, path in files.items()
        if name not in there or not _is_same(there[name], path)
    ]
    gone = [CommitOperationDelete(name) for name in sorted((there.keys() & ours) - files.keys())]
    return [*added, *gone]


def read_back(api: HfApi, repo: str, commit: str, files: Mapping[str, Path]) -> None:
    """Download what a commit holds and compare hashes.

    raises   FtError when a file differs from the one that was sent
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            found = hf_hub_download(repo, name, revision=commit, local_dir=folder, token=api.token)
            if _sha256(Path(found)) != _sha256(path):
                raise FtError(f"{repo}@{commit[:12]}, {name}", "the file that was sent", "another", REPEAT)


def stated_licence(name: str, kind: str) -> str | None:
    """The licence on the card of a base (kind model) or data set (kind dataset); None when it names none."""
    api = connect()
    with told_plainly(name):
        card = api.model_info(name).card_data if kind == "model" else api.dataset_info(name).card_data
    licence = card.get("license") if card is not None else None
    return licence if isinstance(licence, str) else None


@contextmanager
def told_plainly(repo: str) -> Iterator[None]:
    """Turn what the client raises into one line with a cure; a full disk and our own bugs pass through."""
    try:
        yield
    except FtError:
        raise
    except Exception as error:
        if is_disk_full(error) or not _is_the_clients(error):
            raise
        raise _plain(repo, error) from error


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
    assert info.sha is not None  # a repository that was found has a commit
    return str(info.sha)


def _create(api: HfApi, repo: str) -> None:
    try:
        api.create_repo(repo, private=True, exist_ok=True)  # public only once everything is there
    except KeyError:  # the client looks for the url that a conflict of another kind does not hold
        raise FtError(repo, "no other change under way", "a conflict", REPEAT) from None


def _commit(
    api: HfApi,
    to: Destination,
    parent: str,
    wanted: list[CommitOperationAdd | CommitOperationDelete],
    files: Mapping[str, Path],
    ours: frozenset[str],
    title: str,
) -> tuple[str, str]:
    """One commit on top of `parent` alone; a lost answer is looked up before anything is said."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*data file")  # scores are meant to go along
            done = api.create_commit(
                to.repo,
                wanted,
                commit_message=title,
                revision=to.revision,
                parent_commit=parent,
                create_pr=to.as_pull_request,
            )
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        landed = None if to.as_pull_request else _landed(api, to, files, ours)
        if landed is None:
            raise _plain(to.repo, error) from error
        return landed, f"{constants.ENDPOINT}/{to.repo}"
    return done.oid, str(done.pr_url or f"{constants.ENDPOINT}/{to.repo}")


def _landed(api: HfApi, to: Destination, files: Mapping[str, Path], ours: frozenset[str]) -> str | None:
    """The branch's commit if it already shows what was to be committed."""
    try:
        head = api.repo_info(to.repo, revision=to.revision).sha
        return head if head and not changes(remote_files(api, to.repo, head), files, ours) else None
    except (HfHubHTTPError, httpx2.HTTPError):
        return None  # the first fault is the one to tell


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


def _plain(repo: str, error: BaseException) -> FtError:
    """What happened, in the words of somebody who has to mend it."""
    cause = _cause(error)
    if "metadata in README.md" in str(error):
        found = str(error).partition("\n")[2].removeprefix("- ")
        return FtError("README.md", "a card that the Hub accepts", found, "Mend name, licence or tags.")
    if isinstance(cause, OfflineModeIsEnabled):
        return FtError("the Hub", "to be allowed to use the network", "HF_HUB_OFFLINE", "Unset it.")
    if isinstance(cause, RevisionNotFoundError):
        return FtError(
            repo, "that revision", "none of that name", "Look at the repository's branches and tags."
        )
    if isinstance(cause, RepositoryNotFoundError):
        found = "nothing there, or nothing for this token"
        return FtError(repo, "a repository", found, "Check the name and the token (hf auth whoami).")
    if isinstance(cause, HFValidationError):
        return FtError(repo, "a name like owner/name", repo, "Letters, digits, '-', '_' and '.' only.")
    if isinstance(cause, HfHubHTTPError):
        return _refused(repo, cause)
    words = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    return FtError(constants.ENDPOINT, "an answer", words, REPEAT)


def _is_the_clients(error: Exception) -> bool:
    """Whether the Hub's client raised it, by its last frame: the types are a dozen, KeyError too."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return modules[-1].partition(".")[0] in ("huggingface_hub", "httpx2", "httpcore2", "json")


def _refused(repo: str, error: HfHubHTTPError) -> FtError:
    status = error.response.status_code
    said = " ".join((error.server_message or f"status {status}").split())
    if status == 401:
        return FtError(repo, "a token that is accepted", said, "Run hf auth login, or mend HF_TOKEN.")
    if status == 403:
        return FtError(
            repo, "a token that may write here", said, "Make one with write access, or push elsewhere."
        )
    if status == 409:
        return FtError(repo, "no other change under way", said, REPEAT)
    if status == 412:
        return FtError(repo, "the commit seen before", "a newer one, by somebody else", REPEAT)
    if status == 429:
        after = error.response.headers.get("Retry-After")
        wait = f"Wait {after} s and repeat" if after else "Wait and repeat"
        return FtError(repo, "fewer requests", "the Hub's limit is reached", f"{wait}: it continues.")
    if isinstance(error, BadRequestError) or status == 400:
        return FtError(repo, "a commit that the Hub accepts", said, "Mend what it names and repeat.")
    if status >= 500:
        return FtError(repo, "the Hub to be well", f"status {status}", REPEAT)
    return FtError(repo, "to be let through", f"status {status}: {said}", "Check name and token.")


def _cause(error: BaseException) -> BaseException:
    """The first link of the chain that tells what happened; the uploader wraps it in a RuntimeError."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, HfHubHTTPError | httpx2.HTTPError | OfflineModeIsEnabled):
            return found
        found = found.__cause__
    return error
