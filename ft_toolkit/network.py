"""Access to the Hub: falls back to the cache when the Hub is unreachable; every wait has a limit."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

from ft_toolkit.errors import FtError

ANSWER_SECONDS = 10.0
STEP_SECONDS = 120.0  # for all retries of one step, besides the time for its bytes
SLOWEST_BYTES_A_SECOND = 100_000
TICK_SECONDS = 1.0
T = TypeVar("T")
_SWITCHES = ("huggingface_hub.constants", "datasets.config")  # each holds its own HF_HUB_OFFLINE


class Late(FtError):
    """A step at the Hub that was given up."""


def step_seconds(carried_bytes: int = 0) -> float:
    """Time limit for a step that sends or fetches this many bytes, with all its retries."""
    return STEP_SECONDS + carried_bytes / SLOWEST_BYTES_A_SECOND


def within(
    deadline_seconds: float, call: Callable[[], T], waiting: Callable[[float], object] = lambda seconds: None
) -> T:
    """Run a call with a time limit.

    The clients' own timeouts count the seconds between two bytes and restart with each retry: a server that
    sends a byte every five seconds never trips them. So the call runs in a thread, which is abandoned when
    its time is over.

    waiting   called every second with the seconds so far
    raises    Late
    """
    from huggingface_hub import constants

    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    started = time.monotonic()
    threading.Thread(target=work, daemon=True).start()  # a daemon does not keep the process from ending
    while not done.done():
        passed = time.monotonic() - started
        if passed >= deadline_seconds:
            cure = "Try again; see the network, or the Hub's status page."
            raise Late(constants.ENDPOINT, f"an answer within {deadline_seconds:.0f} s", "none", cure)
        wait([done], timeout=min(TICK_SECONDS, deadline_seconds - passed))
        waiting(time.monotonic() - started)
    return done.result()


@contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """Inside the block the Hugging Face libraries read the Hub, or only their caches if it does not answer.

    By default they try every request six times: 47 s for a cached checkpoint, 71 s for a cached data
    set, 23 s to say that nothing is there (huggingface_hub 2.4, connection refused).

    yields   why the Hub does not answer; None if it does
    """
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        yield "HF_HUB_OFFLINE is set"
        return
    silence = hub_silence()
    if silence:
        _set_offline(True)
    try:
        yield silence
    finally:
        if silence:
            _set_offline(False)


def hub_silence(patience_seconds: float = ANSWER_SECONDS) -> str | None:
    """Why the Hub does not answer one short request; None if it answers, even with an error."""
    from huggingface_hub import constants, get_session

    def ask() -> object:
        return get_session().head(constants.ENDPOINT, timeout=patience_seconds, follow_redirects=False)

    try:
        within(patience_seconds, ask)
    except Exception:  # no name, no route, no time, no certificate: each has a class of its own
        return f"{constants.ENDPOINT} does not answer"
    return None


def hub_reason(error: BaseException, silence: str | None) -> str:
    """Why nothing was fetched, in a few words."""
    from huggingface_hub import errors

    if silence:
        return f"nothing cached, and {silence}"
    words = {
        errors.GatedRepoError: "a gated one: accept its terms, then hf auth login",
        errors.RepositoryNotFoundError: "none of that name, or a private one",
        errors.RevisionNotFoundError: "no such revision",
    }
    cause: BaseException | None = error
    while cause:
        for kind, said in words.items():
            if isinstance(cause, kind):
                return said
        cause = cause.__cause__ or cause.__context__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.rstrip(".")


def _set_offline(value: bool) -> None:
    for name in _SWITCHES:
        if name in sys.modules:
            vars(sys.modules[name])["HF_HUB_OFFLINE"] = value
