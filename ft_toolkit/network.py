"""The road to the Hub: where it is closed, the caches are read at once, not after minutes of retries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_SECONDS = 10.0
_SWITCHES = ("huggingface_hub.constants", "datasets.config")  # each holds its own HF_HUB_OFFLINE


@contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """Inside, the Hugging Face libraries read from the Hub or, where it does not answer, their caches alone.

    Left to themselves they try every request six times: 47 s for a cached checkpoint, 71 s for a cached data
    set, 23 s to say that nothing is there (huggingface_hub 2.4, connection refused).

    yields   why the Hub is silent, None where it answers
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
    """Why the Hub says nothing to one short request; None where it answers, be it with an error."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=patience_seconds, follow_redirects=False)
    except Exception:  # no name, no route, no time, no certificate: each has a class of its own
        return f"{constants.ENDPOINT} does not answer"
    return None


def hub_reason(error: BaseException, silence: str | None) -> str:
    """In a few words why nothing came; the libraries say it in a paragraph."""
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
