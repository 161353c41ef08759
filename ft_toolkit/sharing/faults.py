"""Turns the Hub client's exceptions into one line with a fix."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ft_toolkit.errors import FtError, is_disk_full

REPEAT = "Repeat the same command: it continues where this one stopped."


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
        raise in_plain_words(repo, error) from error


def in_plain_words(repo: str, error: BaseException) -> FtError:
    """What happened, on one line with its cure."""
    cause = _cause(error)
    if "metadata in README.md" in str(error):
        found = str(error).partition("\n")[2].removeprefix("- ")
        return FtError("README.md", "a card that the Hub accepts", found, "Fix name, licence or tags.")
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
        return FtError(repo, "a token that is accepted", said, "Run hf auth login, or correct HF_TOKEN.")
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
        return FtError(repo, "a commit that the Hub accepts", said, "Fix what it names and repeat.")
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
