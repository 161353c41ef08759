"""Whatever breaks: the repository holds the old commit or the whole new one, and a repeat ends well."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import hub_server
import huggingface_hub.constants
import pytest
from hub_server import READ_TOKEN, Fault, HubServer

from ft_toolkit import network, progress
from ft_toolkit.errors import LINE_CHARACTERS, FtError
from ft_toolkit.progress import Screen
from ft_toolkit.publish import push
from ft_toolkit.run import Run
from ft_toolkit.sharing.hub import (
    Destination,
    Pushed,
    changes,
    connect,
    push_files,
    remote_files,
    stated_licence,
)
from ft_toolkit.sharing.staging import ALLOWED
from sharing.loopback import BASES, QUIET, plan_of, point_at

KINDS = ("reset", "lost", "cut", "slow", "401", "403", "409", "412", "429", "500", "503")
REQUESTS = {
    "lfs": ("info", "create", "tree", "validate", "preupload", "batch", "put", "verify", "commit", "file"),
    "xet": ("xet_token",),  # what follows it is a folder here, not the network
}
ONCE, ALWAYS = 1, 99


@pytest.fixture
def impatient(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The same Hub, with clients that give up on a silent server after a moment."""
    monkeypatch.setattr(hub_server, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.15)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.15)
    return hub


@dataclass
class Content:
    """Small files to push, some of them large to this Hub; `version` makes them different."""

    folder: Path

    def files(self, version: int) -> dict[str, Path]:
        names = {"README.md": 40, "adapter_config.json": 30, "adapter_model.safetensors": 9000}
        made = {}
        for name, size in names.items():
            made[name] = self.folder / str(version) / name
            made[name].parent.mkdir(exist_ok=True)
            made[name].write_text(f"{version} " * size)
        return made


def attempt(repo: str, files: dict[str, Path]) -> Pushed:
    return push_files(connect(silence_seconds=0.15), Destination(repo), files, ALLOWED, "a test")


def shown(hub: HubServer, repo: str) -> dict[str, bytes]:
    """The repository's own files by content; empty when there is none."""
    if ("models", repo) not in hub.repositories:
        return {}
    snapshot = hub.repositories["models", repo].branches["main"]
    names = {snapshot.name(path): path.read_bytes() for path in snapshot.files}
    return {name: data for name, data in names.items() if name in ALLOWED}


def contents(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def deck(seed: int, times_each: int) -> Iterator[tuple[str, str, int]]:
    """(kind, request, how often) of every kind at every request, `times_each` times, in random order."""
    draw = random.Random(seed)
    cards = [
        (kind, request)
        for requests in REQUESTS.values()
        for request in requests
        for kind in KINDS
        for _ in range(times_each)
    ]
    draw.shuffle(cards)
    for kind, request in cards:
        yield kind, request, draw.choice((ONCE, ALWAYS))


def break_pushes(
    hub: HubServer,
    content: Content,
    sequences: list[list[tuple[str, str, int]]],
    use: Callable[[str], None],
) -> tuple[int, Counter[tuple[str, str]]]:
    """Push through each sequence of faults; returns how many sequences hit, and what was hit how often."""
    version, hit_sequences = 0, 0
    for number, sequence in enumerate(sequences):
        repo = f"me/sequence-{number}"
        old: dict[str, bytes] = {}
        before = sum(hub.hits.values())
        for kind, request, times in sequence:
            use("xet" if request in REQUESTS["xet"] else "lfs")
            if request == "create":
                repo, old = f"{repo}-again", {}
            version += 1
            files = content.files(version)
            hub.faults = [Fault(kind, request, times)]
            try:
                attempt(repo, files)
            except FtError as error:
                assert len(error.line()) <= LINE_CHARACTERS
                assert shown(hub, repo) in (old, contents(files)), (number, kind, request, times)
            else:
                assert shown(hub, repo) == contents(files)
            hub.faults = []
            attempt(repo, files)
            assert shown(hub, repo) == contents(files), (number, kind, request, times)
            old = contents(files)
        hit_sequences += sum(hub.hits.values()) > before
    return hit_sequences, hub.hits


@pytest.fixture
def use(impatient: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Switch the way in which large files travel."""
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    monkeypatch.setenv("HF_XET_CLIENT_READ_TIMEOUT", "200ms")
    state = {"now": ""}

    def switch(transport: str) -> None:
        if state["now"] != transport:
            impatient.transport = "xet" if transport == "xet" else "lfs"
            point_at(monkeypatch, impatient, tmp_path / transport)
            state["now"] = transport

    return switch


def deal(seed: int, sequences: int, times_each: int) -> list[list[tuple[str, str, int]]]:
    cards = list(deck(seed, times_each))
    return [cards[number::sequences] for number in range(sequences)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_sequences_of_faults_leave_the_old_commit_or_the_whole_new_one(
    impatient: HubServer, use: Callable[[str], None], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    hit, hits = break_pushes(impatient, Content(tmp_path), deal(seed, 100, times_each=5), use)
    assert hit >= 80
    missed = [(k, r) for requests in REQUESTS.values() for r in requests for k in KINDS if hits[k, r] < 5]
    assert missed == []


def test_a_sample_of_faults_leaves_the_old_commit_or_the_whole_new_one(
    impatient: HubServer, use: Callable[[str], None], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    hit, _ = break_pushes(impatient, Content(tmp_path), deal(seed, 40, times_each=1)[:8], use)
    assert hit >= 6


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("401", "commit", ALWAYS), "expected a token that is accepted, found planted 401"),
        (Fault("403", "preupload", ALWAYS), "expected a token that may write here, found planted 403"),
        (Fault("404", "batch", ALWAYS), "expected to be let through, found status 404: planted 404"),
        (Fault("409", "commit", ALWAYS), "expected no other change under way"),
        (Fault("412", "commit", ALWAYS), "found a newer one, by somebody else. Repeat the same command"),
        (Fault("429", "commit", ALWAYS), "the Hub's limit is reached. Wait 0 s and repeat: it continues."),
        (Fault("503", "put", ALWAYS), "expected the Hub to be well, found status 503. Repeat"),
        (Fault("reset", "put", ALWAYS), "expected an answer, found"),
        (Fault("slow", "commit", ALWAYS), "expected an answer, found"),
    ],
    ids=lambda value: f"{value.kind} at {value.request}" if isinstance(value, Fault) else "",
)
def test_a_fault_is_one_clear_line_and_the_repeat_sends_only_what_is_missing(
    fault: Fault,
    words: str,
    impatient: HubServer,
    use: Callable[[str], None],
    finished_run: Callable[[str], Run],
) -> None:
    use("lfs")
    run = finished_run("gpt2")
    plan = plan_of(run)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    impatient.faults = [replace(fault)]
    done: Pushed | None = None
    try:
        done = push_files(connect(0.15), plan.to, plan.files, ALLOWED, "a test")
    except FtError as error:
        assert words in error.line() and len(error.line()) <= LINE_CHARACTERS and error.exit_code == 2
    if fault.kind == "slow":  # the commit is there; its answer came too late, and was looked up
        assert done is not None and done.commit
    else:
        assert done is None
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    impatient.faults, stored = [], set(impatient.stored)
    impatient.requests.clear()
    push(plan, QUIET)
    sent_again = {request for request in impatient.requests if request.startswith("PUT /lfs/")}
    assert sent_again.isdisjoint({f"PUT /lfs/{oid}" for oid in stored})
    assert shown(impatient, "me/x-lora") == contents(plan.files)


def test_a_second_connection_leaves_the_request_of_another_thread_alone(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_server, "STALL_SECONDS", 0.3)
    hub.faults = [Fault("slow", "info")]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stated_licence, BASES["gpt2"], "model")
        while not hub.hits:  # the answer is half sent
            time.sleep(0.01)
        connect()
        assert asked.result() == "mit"


@pytest.mark.parametrize("request_kind", ["info", "preupload", "put", "commit", "file"])
@pytest.mark.parametrize("kind", ["drip", "slow"])
def test_a_server_that_drips_or_is_silent_is_given_up_at_the_deadline(
    kind: str,
    request_kind: str,
    hub: HubServer,
    use: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use("lfs")
    monkeypatch.setattr(hub_server, "STALL_SECONDS", 60.0)  # the client itself would wait longer for it
    monkeypatch.setattr(network, "STEP_SECONDS", 0.7)
    files, patient = Content(tmp_path).files(1), connect(silence_seconds=50.0)
    hub.faults = [Fault(kind, request_kind, ALWAYS)]
    started = time.monotonic()
    words = "expected an answer within 1 s, found none, .*Repeat the same"
    # a commit that arrived is found, though its answer never does
    with nullcontext() if request_kind == "commit" else pytest.raises(FtError, match=words):
        push_files(patient, Destination("me/x-lora"), files, ALLOWED, "a test")
    assert time.monotonic() - started < 20
    hub.faults = []
    assert shown(hub, "me/x-lora") in ({}, contents(files))
    monkeypatch.setattr(network, "STEP_SECONDS", 60.0)
    attempt("me/x-lora", files)
    assert shown(hub, "me/x-lora") == contents(files)


def test_a_push_says_what_it_is_doing_and_for_how_long(
    hub: HubServer,
    use: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use("lfs")
    monkeypatch.setattr(hub_server, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(network, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.1)
    hub.faults = [Fault("slow", "put")]
    files = Content(tmp_path).files(1)
    push_files(connect(), Destination("me/x-lora"), files, ALLOWED, "a test", Screen())
    told = capsys.readouterr().err
    assert "sending 3 files, 0.0 MB, 0 s" in told and "push 3/3" in told


def test_an_answer_lost_after_the_commit_is_looked_up_and_no_second_commit_is_made(
    impatient: HubServer, use: Callable[[str], None], tmp_path: Path
) -> None:
    use("lfs")
    files = Content(tmp_path).files(1)
    impatient.faults = [Fault("lost", "commit", ALWAYS)]
    pushed = attempt("me/x-lora", files)
    assert shown(impatient, "me/x-lora") == contents(files)
    assert sum("/commit/" in request for request in impatient.requests) == 1
    assert not changes(remote_files(connect(), "me/x-lora", pushed.commit), files, ALLOWED)


def test_a_file_that_comes_back_different_is_not_called_pushed(
    impatient: HubServer, use: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("lfs")
    files = Content(tmp_path).files(1)
    fetch = hub_server._fetch

    def bit_flipped(hub: HubServer, oid: str, path: Path) -> bool:
        there = fetch(hub, oid, path)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        return there

    monkeypatch.setattr(hub_server, "_fetch", bit_flipped)
    with pytest.raises(FtError, match=r"adapter_model.safetensors: expected the file that was sent, found"):
        attempt("me/x-lora", files)


def test_a_card_that_the_hub_refuses_stops_everything(impatient: HubServer, tmp_path: Path) -> None:
    files = Content(tmp_path).files(1)
    files["README.md"].write_text("---\nlicense: nonsense\n---\n")
    with pytest.raises(FtError, match=r"README.md: expected a card that the Hub accepts, found .*license"):
        attempt("me/x-lora", files)
    assert shown(impatient, "me/x-lora") == {}


def test_without_a_network_the_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as gone:
        point_at(monkeypatch, gone, tmp_path / "cache")
    with pytest.raises(FtError, match=r"expected an answer, found .*refused"):
        attempt("me/x-lora", Content(tmp_path).files(1))


def test_without_a_token_and_with_one_that_only_reads_the_cure_is_named(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Content(tmp_path).files(1)
    point_at(monkeypatch, hub, tmp_path / "cache", token=None)
    with pytest.raises(FtError, match=r"expected a token, found none. Run hf auth login"):
        attempt("me/x-lora", files)
    assert hub.requests == []
    point_at(monkeypatch, hub, tmp_path / "cache", token=READ_TOKEN)
    with pytest.raises(
        FtError, match=r"expected a token that may write here, found this token may not write"
    ):
        attempt("me/x-lora", files)


def test_an_organisation_of_others_is_refused(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(FtError, match=r"strangers/x: expected a token that may write here, found no rights"):
        attempt("strangers/x", Content(tmp_path).files(1))


def test_offline_mode_is_named(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FtError, match=r"found HF_HUB_OFFLINE. Unset it"):
        attempt("me/x-lora", Content(tmp_path).files(1))
