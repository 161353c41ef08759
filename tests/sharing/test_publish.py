"""ft push as a user meets it: a plan, a yes, and little waiting."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hub_server import Fault, HubServer, Snapshot
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ft_toolkit import publish, shipped
from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError, IntegrityFailed
from ft_toolkit.judging.audit import memorisation
from ft_toolkit.judging.run_scores import read
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run
from ft_toolkit.sharing.hub import Destination
from ft_toolkit.sharing.staging import Contents, locate_base
from ft_toolkit.sharing.verification import verify
from sharing.loopback import BASES, QUIET, plan_of

REPOSITORY = Path(__file__).resolve().parents[2]
FT = [sys.executable, "-m", "ft_toolkit.cli"]
LIGHT = """
import sys, time
from ft_toolkit import cli
sys.argv = ["ft", "push", sys.argv[1], "--to", "me/x-lora", "--yes"]
try:
    cli.main()
except SystemExit as done:
    assert not done.code, done.code
heavy = {"torch", "transformers", "peft"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_push_imports_no_torch_and_asks_the_hub_within_three_seconds(
    hub: HubServer, finished_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, first_request, processor = finished_run("gpt2"), [], []
    answer = HubServer.answer

    def timed(self: HubServer, *asked: object) -> object:
        first_request.append(time.monotonic())
        return answer(self, *asked)  # type: ignore[arg-type]

    monkeypatch.setattr(HubServer, "answer", timed)
    seconds = []
    for _ in range(3):  # the fastest of three: another process may be using the machine
        first_request.clear()
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, str(run.folder)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        seconds.append(first_request[0] - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 3:
            break
    # on a busy machine the clock tells of the others: then the whole push's processor time stands for it
    assert min(seconds) < 3 or min(processor) < 4, (seconds, processor)
    assert "nothing to do" in done.stderr or "pushed and read back" in done.stderr
    assert hub.repositories["models", "me/x-lora"].is_private


def test_the_snippet_check_executes_no_file_of_the_working_folder(
    hub: HubServer, finished_run: Callable[[str], Run], poisoned_folder: Path, cold_processes: None
) -> None:
    run = finished_run("gpt2")
    run.record(snippet_check={})
    assert publish.push(plan_of(run), QUIET).is_new
    assert Run.open(run.folder).facts["snippet_check"]["adapter"]
    assert not (poisoned_folder / "executed").exists()


def test_without_a_yes_the_plan_is_printed_and_nothing_is_sent(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    done = subprocess.run(
        [*FT, "push", str(run.folder), "--to", "me/x-lora", "--scores", "--public", "--base-license", "mit"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "visibility   public" in done.stdout and "licence      mit (base acme/tiny-gpt2: mit" in done.stdout
    )
    (folder,) = (run.folder / "push").iterdir()
    assert f"staged in {folder}\n" in done.stdout
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            assert f"{path.stat().st_size:,}  {name}\n" in done.stdout
    assert f"recipe.yaml corpus.source: {run.recipe.corpus.source} → medicine" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing was sent; add --yes to send it"
    assert hub.requests == []


@pytest.mark.parametrize(("typed", "is_sent"), [("yes", True), ("y", False), ("", False)])
def test_only_a_typed_yes_sends(typed: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert publish.agreed(ask=lambda question: typed) is is_sent
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert publish.agreed(ask=lambda question: "yes") is False


def test_the_recipe_s_publish_section_speaks_where_the_user_does_not(
    finished_run: Callable[[str], Run], hub: HubServer
) -> None:
    run = finished_run("gpt2")
    with pytest.raises(FtError, match="--to: expected owner/name on the Hub, found nothing"):
        publish.destination(run, publish.Target())
    text = (run.folder / "recipe.yaml").read_text()
    section = "publish: {repo: me/from-the-recipe, private: false, license: apache-2.0, tags: [leaflets]}\n"
    (run.folder / "recipe.yaml").write_text(text.partition("publish:")[0] + section)
    run = Run.open(run.folder)
    there = publish.destination(run, publish.Target())
    assert (there.repo, there.is_public) == ("me/from-the-recipe", True)
    assert publish.destination(run, publish.Target("org/other")).repo == "org/other"
    plan = plan_of(run, there)
    assert plan.licence.id == "apache-2.0" and "- leaflets" in plan.files["README.md"].read_text()


def test_each_publishing_key_of_a_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: starter/gpt2\ncorpus: {source: notes, license: own, language: it}\n")
    recipe = read_recipe(path, ["publish.repo=me/x", "publish.private=false", "publish.license=mit"]).recipe
    assert (recipe.corpus.license, recipe.corpus.language) == ("own", "it")
    assert recipe.publish.model_dump() == {"repo": "me/x", "private": False, "license": "mit", "tags": []}


def test_an_unjudged_run_is_sent_back_to_be_judged(finished_run: Callable[[str], Run]) -> None:
    run = finished_run("gpt2")
    (run.folder / "comparison.json").unlink()
    with pytest.raises(FtError, match=r"expected a judged run, found one without a verdict. Judge it"):
        plan_of(run)


def test_an_adapter_that_is_not_the_one_that_was_trained_is_not_sent(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    path = run.adapter_folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)] += 1.0
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityFailed, match="expected the file that was trained"):
        plan_of(run)
    assert hub.requests == []


def test_the_licence_of_an_unknown_base_is_read_from_its_card_and_asked_for_when_it_has_none(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    assert plan_of(run).licence.id == "mit"  # as the base's card says
    hub.cards[BASES["gpt2"]] = {"license": "cc-by-nc-4.0"}
    assert plan_of(run).licence.id == "cc-by-nc-4.0"
    del hub.cards[BASES["gpt2"]]
    with pytest.raises(
        FtError, match=r"licence of the base acme/tiny-gpt2: expected to be known .* --base-lic"
    ):
        plan_of(run)


def test_a_starter_is_refused_without_its_files_and_sent_with_them(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    recipe = (run.folder / "recipe.yaml").read_text()
    (run.folder / "recipe.yaml").write_text(recipe.replace(run.recipe.base, "starter/gpt2"))
    run = Run.open(run.folder)
    with pytest.raises(FtError, match=r"ships inside ft-toolkit. Send it along: --with-base \(11 MB\)"):
        plan_of(run)
    plan = publish.plan_push(
        run, Destination("me/x-lora"), Contents(with_base=True), publish.Rights(), screen=QUIET
    )
    along = {name for name in plan.files if name.startswith("base/")}
    assert along >= {"base/model.safetensors", "base/config.json", "base/tokenizer.json"}
    weights = shipped.starter("gpt2") / "model.safetensors"
    assert plan.files["base/model.safetensors"].read_bytes() == weights.read_bytes()
    config = json.loads(plan.files["adapter_config.json"].read_text())
    assert (
        config["base_model_name_or_path"] == "me/x-lora"
    )  # never starter/…: anyone could register that name
    assert 'snapshot_download("me/x-lora")' in plan.snippet and 'f"{folder}/base"' in plan.snippet


def test_a_local_base_is_named_by_its_folder_alone(
    checkpoints: dict[str, Path], finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    recipe = (run.folder / "recipe.yaml").read_text()
    (run.folder / "recipe.yaml").write_text(recipe.replace(run.recipe.base, str(checkpoints["gpt2"])))
    run = Run.open(run.folder)
    with pytest.raises(FtError, match=r"base tiny-gpt2: .*found one that only this machine has"):
        locate_base(run, "me/x-lora", None, with_base=False)
    assert locate_base(run, "me/x-lora", None, with_base=True).name == "tiny-gpt2"


def test_make_hands_everything_on() -> None:
    asked = ["make", "-n", "push", "RUN=runs/x", "REPO=me/x-lora", "WITH_BASE=1", "YES=1"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=REPOSITORY)
    # the values stay in the environment, where nothing in them is a command (tests/test_cli.py)
    assert 'ft push "$RUN" ${REPO:+--to "$REPO"} ${WITH_BASE:+--with-base} ${YES:+--yes}' in done.stdout


def test_two_pushes_of_one_run_at_once_each_send_their_own(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    names = [f"me/number-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda name: plan_of(run, Destination(name), scores="0" in name), names))
    pushed = {plan.to.repo: publish.push(plan, QUIET) for plan in plans}
    for name in names:
        folder = hub.repositories["models", name].commits[pushed[name].commit].folder
        assert f'"{name}"' in (folder / "README.md").read_text()
        assert (folder / "scores").is_dir() is ("0" in name)
    assert {path.parent for path in (run.folder / "push").iterdir()} == {run.folder / "push"}
    assert not list((run.folder / "push").glob(".unfinished*"))


def test_the_same_push_is_staged_once_and_anew_where_it_was_edited(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    first = plan_of(run).files
    assert plan_of(run).files == first and len(list((run.folder / "push").iterdir())) == 1
    said = first["comparison.json"].read_text()
    first["comparison.json"].write_text("{}")
    assert plan_of(run).files["comparison.json"].read_text() == said
    for path in (run.folder / "push").iterdir():
        os.utime(path, (0, 0))  # left there long ago
    plan_of(run, Destination("me/another"))
    assert not first["README.md"].exists()


def test_the_plan_and_the_card_repeat_what_an_audit_says_of_the_training_text(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    plan = plan_of(run)
    found = json.loads(json.dumps(memorisation(read(run)).as_dict()))
    assert read_json(plan.files["comparison.json"])["memorisation"] == found
    assert f"memorised?   Attacked by loss: {found['words']}" in plan.lines()
    card = plan.files["README.md"].read_text()
    for name, words in (("Attacked by loss", "words"), ("Attacked with the base", "told_apart")):
        assert f"- **{name}**: {found[words]}." in card
    assert f"- **Verbatim**: {found['verbatim_words']}." in card and "proves no privacy" in card
    (run.folder / "scores" / "tokens.parquet").unlink()  # as in a run of an older release
    older = plan_of(run)
    assert "memorisation" not in read_json(older.files["comparison.json"])
    assert "Attacked" not in older.files["README.md"].read_text() + "".join(older.lines())


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "adapter_model.safetensors"])
def test_verify_compares_each_file_with_the_one_that_was_sent(
    name: str, hub: HubServer, finished_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run("gpt2")
    plan = plan_of(run)
    pushed = publish.push(plan, QUIET)
    path = hub.repositories["models", "me/x-lora"].branches["main"].folder / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    monkeypatch.setattr(
        hub.repositories["models", "me/x-lora"], "snapshot", lambda revision: Snapshot(path.parent)
    )
    with pytest.raises(
        IntegrityFailed, match=rf"{name}: expected the file that was sent, found another"
    ) as failed:
        verify(run, plan.files, plan.snippet, plan.to, pushed, QUIET)
    assert failed.value.exit_code == 4


def test_a_commit_is_no_branch(hub: HubServer, finished_run: Callable[[str], Run]) -> None:
    run = finished_run("gpt2")
    commit = publish.push(plan_of(run), QUIET).commit
    with pytest.raises(FtError, match="--revision: expected a branch, found a commit"):
        publish.push(plan_of(run, Destination("me/x-lora", revision=commit)), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["on the Hub", "sent along"])
def test_verify_loads_from_an_empty_cache_and_finds_no_difference(
    base: str,
    hub: HubServer,
    checkpoints: dict[str, Path],
    finished_run: Callable[[str], Run],
    capsys: pytest.CaptureFixture[str],
    poisoned_folder: Path,
) -> None:
    run = finished_run("bert")
    if base == "sent along":
        recipe = (run.folder / "recipe.yaml").read_text()
        (run.folder / "recipe.yaml").write_text(recipe.replace(run.recipe.base, str(checkpoints["bert"])))
        run = Run.open(run.folder)
        hub.transport = "lfs"
        del hub.repositories["models", BASES["bert"]]
    pushed = publish.publish(
        run,
        publish.Target("me/x-lora", check_again=True),
        Contents(with_base=base == "sent along"),
        publish.Rights(base_license="mit"),
        is_agreed=True,
        screen=publish.Screen(),
    )
    assert pushed is not None and pushed.is_new
    assert "scores as the run does (difference 0 nats)" in capsys.readouterr().err
    assert not (poisoned_folder / "executed").exists()


@pytest.mark.slow
def test_a_merged_model_loads_with_transformers_alone_and_reads_as_the_adapter_does(
    hub: HubServer, finished_run: Callable[[str], Run], checkpoints: dict[str, Path]
) -> None:
    run = finished_run("gpt2")
    plan = plan_of(run, merged=True)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(plan.files)
    assert not any(name.startswith(("adapter", "base/")) for name in plan.files)
    publish.push(plan, QUIET)
    merged = AutoModelForCausalLM.from_pretrained("me/x-lora", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"], dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, run.adapter_folder)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned(ids).logits, atol=1e-4, rtol=1e-4)
    hub.faults = [Fault("503", "info", 0)]
    assert not publish.push(plan_of(run, merged=True), QUIET).is_new
