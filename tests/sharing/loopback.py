"""Pointing the real clients of this process at a loopback Hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub.utils import close_session, http_backoff

from ft_toolkit.progress import Screen
from ft_toolkit.publish import Plan, Rights, plan_push
from ft_toolkit.run import Run
from ft_toolkit.sharing.hub import Destination
from ft_toolkit.sharing.snippet import Objective
from ft_toolkit.sharing.staging import Contents

QUIET = Screen(quiet=True)
FAMILIES: dict[str, Objective] = {"gpt2": "causal", "bert": "masked"}
BASES = {family: f"acme/tiny-{family}" for family in FAMILIES}


def point_at(patch: pytest.MonkeyPatch, hub: HubServer, cache: Path, token: str | None = TOKEN) -> None:
    """Let the real clients of this process talk to a loopback Hub, waiting no longer than a test may."""
    constants = huggingface_hub.constants
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr("huggingface_hub.hf_api.api.endpoint", hub.endpoint)  # made at import; peft asks through it
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr(constants, "HF_XET_CACHE", str(cache / "xet"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", hub.transport != "xet")
    patch.setitem(http_backoff.__kwdefaults__, "max_retries", 2)
    patch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0.01)
    patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    patch.setenv("HF_ENDPOINT", hub.endpoint)  # for the processes that we start
    patch.setenv("HF_HUB_OFFLINE", "0")
    patch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    patch.setenv("FT_CACHE", str(cache))
    if token is None:
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_TOKEN_PATH", str(cache / "no-token"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    else:
        patch.setenv("HF_TOKEN", token)
    close_session()


def plan_of(run: Run, to: Destination | None = None, **contents: bool) -> Plan:
    """The plan of a push to me/x-lora, unless told otherwise."""
    return plan_push(run, to or Destination("me/x-lora"), Contents(**contents), Rights(), screen=QUIET)
