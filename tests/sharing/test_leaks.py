"""Tokens, homes, hosts and paths do not leave the machine, wherever they were planted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hub_server import HubServer

from ft_toolkit.errors import FtError
from ft_toolkit.publish import push
from ft_toolkit.run import Run
from ft_toolkit.sharing.leaks import refuse_leaks
from ft_toolkit.sharing.staging import ALLOWED
from sharing.loopback import QUIET, plan_of

PLANTED = {
    "a token": "hf_" + "aB3" * 11,
    "a home folder": "/home/somebody/texts/secret.txt",
    "a Mac's home": "/Users/somebody/texts",
    "a Windows home": "C:\\Users\\somebody\\texts",
    "a host name": "brain-in-the-cellar",
    "a path": "/mnt/disk7/texts/leaflets.txt",
    "a cloud key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a password": "https://me:hunter22@example.org/x",
    "an environment value": "s3cr3t-of-the-environment",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: PLANTED["a host name"])
    monkeypatch.setenv("MY_API_KEY", PLANTED["an environment value"])


def plant_in_recipe(run: Run, text: str) -> None:
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    recipe["publish"]["tags"].append(text)
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def plant_in_comparison(run: Run, text: str) -> None:
    comparison = json.loads((run.folder / "comparison.json").read_text())
    comparison["verdict"]["caveats"].append(f"see {text}")
    run.write_json("comparison.json", comparison)


def plant_in_adapter_config(run: Run, text: str) -> None:
    path = run.adapter_folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"megatron_core": text}))


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("plant", [plant_in_recipe, plant_in_comparison, plant_in_adapter_config])
@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_what_was_planted_never_leaves_the_machine(
    what: str,
    plant: Callable[[Run, str], None],
    transport: Any,
    hub: HubServer,
    finished_run: Callable[[str], Run],
) -> None:
    hub.transport, hub.large_bytes = transport, 2000
    run = finished_run("gpt2")
    plant(run, PLANTED[what])
    with pytest.raises(FtError, match="expected nothing of this machine") as refused:
        push(plan_of(run), QUIET)
    assert refused.value.exit_code == 2 and PLANTED["a token"] not in refused.value.line()
    assert sent(hub).find(PLANTED[what].encode()) == -1


def test_a_clean_push_names_neither_the_run_s_folder_nor_the_corpus_folder(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    source = Path(run.recipe.corpus.source)
    assert source.is_absolute()
    push(plan_of(run, scores=True), QUIET)
    everything = sent(hub)
    assert b"adapter_model" in everything
    for private in (str(source.parent), str(run.folder), str(Path.home() / "x")[:-2], PLANTED["a host name"]):
        assert private == "/root" or private.encode() not in everything
    recipe = yaml.safe_load((run.folder / "push/recipe.yaml").read_text())
    assert recipe["corpus"]["source"] == source.name
    assert recipe["base"] == run.recipe.base


def sent(hub: HubServer) -> bytes:
    """Every request body, its base64 parts decoded, what large files became, and the raw Xet store."""
    decoded = []
    for body in hub.bodies:
        for line in body.splitlines():
            if b'"encoding": "base64"' in line:
                decoded.append(base64.b64decode(json.loads(line)["value"]["content"]))
    store = [path.read_bytes() for path in hub.xet_store.rglob("*") if path.is_file()]
    return b"\n".join([*hub.bodies, *decoded, *hub.stored.values(), *store])


def test_only_files_of_the_allow_list_are_staged(hub: HubServer, finished_run: Callable[[str], Run]) -> None:
    run = finished_run("gpt2")
    for stray in ("training_args.bin", "optimizer.pt", "README.md", ".env"):
        (run.adapter_folder / stray).write_text("hf_token = hunter2")
    plan = plan_of(run)
    assert set(plan.files) <= ALLOWED
    assert sorted(plan.files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "comparison.json",
        "recipe.yaml",
    ]
    assert "hunter2" not in plan.files["README.md"].read_text()
    staged = {path for path in (run.folder / "push").rglob("*") if path.is_file()}
    assert staged == set(plan.files.values())


def test_escapes_tables_and_headers_are_read_too(tmp_path: Path) -> None:
    escaped = tmp_path / "comparison.json"
    escaped.write_text(json.dumps({"x": PLANTED["a token"]}).replace("hf_", "\\u0068f_"))
    with pytest.raises(FtError, match=r"comparison.json, line 1.*a Hugging Face token"):
        refuse_leaks({"comparison.json": escaped})
    table = tmp_path / "held-out.parquet"
    rows = pyarrow.table({"document": ["/home/somebody/a.txt#0"]})
    pyarrow.parquet.write_table(rows, table)
    with pytest.raises(FtError, match=r"scores/held-out.parquet, column document.*a home folder"):
        refuse_leaks({"scores/held-out.parquet": table})
    header = json.dumps({"__metadata__": {"from": PLANTED["a path"]}}).encode()
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FtError, match=r"adapter_model.safetensors, its metadata.*an absolute path"):
        refuse_leaks({"adapter_model.safetensors": weights})


def test_ordinary_text_is_no_leak(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(
        "See [it](https://huggingface.co/me/x-lora) or and/or n/a; 5 of 7 read better, −1.2 … 3.4 %. "
        "`base/` is a subfolder, `scores/held-out.parquet` a file. Tokenizer: byte-level. key: value.\n"
    )
    refuse_leaks({"README.md": card}, ("me/x-lora",))
