"""Create, push, push again, update, propose, pull and compare, over each way in which the Hub takes files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hub_server import READ_TOKEN, HubServer
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ft_toolkit.errors import FtError
from ft_toolkit.publish import push
from ft_toolkit.rescoring import compare_run
from ft_toolkit.run import Run
from ft_toolkit.sharing.hub import Destination
from ft_toolkit.sharing.pulled import open_run
from ft_toolkit.sharing.snippet import checked_snippet
from sharing.loopback import BASES, FAMILIES, QUIET, plan_of, point_at

Transport = Literal["regular", "lfs", "xet"]
AUTO: dict[str, Any] = {"gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}
UNSEEN = "A cup of warm tea with honey soothes a sore throat.\n\nSleep on your side if your nose is shut.\n"


@pytest.fixture(params=["regular", "lfs", "xet"])
def transport(
    request: pytest.FixtureRequest, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Transport:
    """How the Hub takes large files; `regular`: it counts none as large."""
    hub.transport = "xet" if request.param == "xet" else "lfs"
    hub.large_bytes = float("inf") if request.param == "regular" else 5000
    point_at(monkeypatch, hub, tmp_path / "cache")
    way: Transport = request.param
    return way


def head(hub: HubServer, repo: str = "me/x-lora", branch: str = "main") -> str:
    return hub.repositories["models", repo].branches[branch].commit


def commits(hub: HubServer) -> int:
    return sum("/commit/" in request for request in hub.requests)


def retrain(run: Run) -> None:
    """Another adapter in the same run, stamped: what an update pushes."""
    path = run.adapter_folder / "adapter_model.safetensors"
    weights = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    from ft_toolkit.artefacts import file_sha256

    stamps = run.facts["snippet_check"]
    stamps["adapter"]["weights_sha256"] = file_sha256(path)
    run.record(snippet_check=stamps, files=run.trained_files())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_pushed_comes_back_and_scores_bitwise_as_it_did_here(
    family: str,
    transport: Transport,
    hub: HubServer,
    finished_run: Callable[[str], Run],
    tmp_path: Path,
    checkpoints: dict[str, Path],
) -> None:
    run = finished_run(family)
    first = push(plan_of(run), QUIET)
    assert first.is_new and head(hub) == first.commit
    assert hub.repositories["models", "me/x-lora"].is_private
    assert [f"PUT /lfs/{oid}" in hub.requests for oid in hub.stored] == [transport == "lfs"] * len(hub.stored)
    assert bool(hub.xet_hashes) is (transport == "xet")

    again = push(plan_of(run), QUIET)
    assert not again.is_new and again.commit == first.commit and commits(hub) == 1

    base = AUTO[family].from_pretrained(checkpoints[family], dtype=torch.float32)
    pulled = PeftModel.from_pretrained(base, "me/x-lora")
    assert pulled.peft_config["default"].base_model_name_or_path == BASES[family]
    assert pulled.peft_config["default"].revision == run.recipe.base.partition("@")[2]

    unseen = tmp_path / "unseen.txt"
    unseen.write_text(UNSEEN)
    told: list[str] = []
    here = compare_run(run, str(unseen), screen=QUIET)
    there = compare_run(open_run("hub:me/x-lora", told.append), str(unseen), screen=QUIET)
    assert there.as_dict()["corpora"] == here.as_dict()["corpora"]
    assert there.base_name == run.recipe.base
    assert len(told) == 1 and "is not here" in told[0]  # its own text was a folder of this machine


def test_an_update_replaces_what_is_ours_and_leaves_what_the_owner_added(
    transport: Transport, hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    old = push(plan_of(run, scores=True), QUIET).commit
    mine = hub.repositories["models", "me/x-lora"].branches["main"].folder / "notes.txt"
    mine.write_text("written on the website")
    hub.repositories["models", "me/x-lora"].point("main", mine.parent)
    retrain(run)
    new = push(plan_of(run), QUIET).commit
    folder = hub.repositories["models", "me/x-lora"].commits[new].folder
    assert (folder / "notes.txt").is_file() and not list(folder.glob("scores/*"))
    sent = (run.adapter_folder / "adapter_model.safetensors").read_bytes()
    assert new != old and (folder / "adapter_model.safetensors").read_bytes() == sent


def test_a_pull_request_leaves_main_alone_and_is_not_made_twice(
    transport: Transport, hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("bert")
    before = push(plan_of(run), QUIET).commit
    retrain(run)
    proposal = Destination("me/x-lora", as_pull_request=True)
    proposed = push(plan_of(run, proposal), QUIET)
    again = push(plan_of(run, proposal), QUIET)
    assert head(hub) == before != proposed.commit == head(hub, branch="refs/pr/1")
    assert proposed.is_new and not again.is_new and again.url == proposed.url
    assert open_run("hub:me/x-lora@refs/pr/1").is_finished


def test_a_private_repository_is_nothing_to_a_stranger(
    transport: Transport,
    hub: HubServer,
    finished_run: Callable[[str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(plan_of(finished_run("gpt2")), QUIET)
    point_at(monkeypatch, hub, tmp_path / "another", token=None)
    with pytest.raises(FtError, match="me/x-lora: expected a repository, found nothing there"):
        open_run("hub:me/x-lora")
    point_at(monkeypatch, hub, tmp_path / "another", token=READ_TOKEN)
    assert open_run("hub:me/x-lora").recipe.base.startswith("acme/tiny-gpt2@")


def test_it_becomes_public_only_when_asked_and_only_once_it_is_there(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    push(plan_of(run), QUIET)
    push(plan_of(run, Destination("me/x-lora", is_public=True)), QUIET)
    assert not hub.repositories["models", "me/x-lora"].is_private
    visibility = [request for request in hub.requests if request.endswith("/settings")]
    assert len(visibility) == 1 and b'"private"' in next(body for body in hub.bodies if b"visibility" in body)
    with pytest.raises(FtError, match=r"expected a private repository, found a public one. Say --public"):
        push(plan_of(run), QUIET)


def test_a_branch_is_made_and_a_tag_names_the_commit(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    tagged = Destination("me/x-lora", revision="v1", tag="first")
    commit = push(plan_of(run, tagged), QUIET).commit
    assert head(hub, branch="v1") == commit != head(hub)
    assert hub.repositories["models", "me/x-lora"].tags == {"first": commit}
    assert 'revision="v1"' in plan_of(run, tagged).snippet
    assert push(plan_of(run, tagged), QUIET).commit == commit
    retrain(run)
    with pytest.raises(FtError, match=f"tag first: expected none, or one at .*, found one at {commit[:12]}"):
        push(plan_of(run, tagged), QUIET)


def test_a_commit_of_somebody_else_in_between_is_not_written_over(
    hub: HubServer, finished_run: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run("gpt2")
    push(plan_of(run), QUIET)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "README.md").write_text("somebody was faster")
    retrain(run)
    plan = plan_of(run)
    answer = HubServer.answer

    def overtaken(self: HubServer, method: str, target: str, *rest: Any) -> Any:
        if "/commit/" in target:
            hub.repositories["models", "me/x-lora"].point("main", theirs)
        return answer(self, method, target, *rest)

    monkeypatch.setattr(HubServer, "answer", overtaken)
    with pytest.raises(FtError, match="expected the commit seen before, found a newer one, by somebody else"):
        push(plan, QUIET)
    assert [path.name for path in hub.repositories["models", "me/x-lora"].branches["main"].files] == [
        "README.md"
    ]


def test_the_stamp_is_of_this_adapter_alone(finished_run: Callable[[str], Run]) -> None:
    run = finished_run("gpt2")
    weights = run.adapter_folder / "adapter_model.safetensors"
    stamp = checked_snippet(run, weights, "causal", merged=False)
    assert stamp is not None and stamp.base_revision == run.recipe.base.partition("@")[2]
    assert checked_snippet(run, weights, "masked", merged=False) is None
    assert checked_snippet(run, weights, "causal", merged=True) is None
    os.utime(weights)
    assert checked_snippet(run, weights, "causal", merged=False) == stamp
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert checked_snippet(run, weights, "causal", merged=False) is None
