"""Tokens, homes, hosts and paths do not leave the machine, wherever they were planted."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hub_server import HubServer

from ft_toolkit import shipped
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
    run.record(files=run.trained_files())  # as if it had stood there when the adapter was saved


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
    plan = plan_of(run, scores=True)
    push(plan, QUIET)
    everything = sent(hub)
    assert b"adapter_model" in everything
    for private in (str(source.parent), str(run.folder), str(Path.home() / "x")[:-2], PLANTED["a host name"]):
        assert private == "/root" or private.encode() not in everything
    recipe = yaml.safe_load(plan.files["recipe.yaml"].read_text())
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


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", "base/README.md", "notes", "x.html"])
def test_every_file_is_read_whatever_its_ending(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f"one\ntwo {PLANTED['a token']}\n")
    with pytest.raises(FtError, match=rf"{name}, line 2: .*a Hugging Face token"):
        refuse_leaks({name: file})


def test_a_token_in_a_chat_template_stops_the_push(
    hub: HubServer, finished_run: Callable[[str], Run]
) -> None:
    run = finished_run("gpt2")
    (run.adapter_folder / "chat_template.jinja").write_text("{# " + PLANTED["a token"] + " #}{{ messages }}")
    with pytest.raises(FtError, match=r"chat_template.jinja, line 1: .*a Hugging Face token"):
        push(plan_of(run), QUIET)
    assert hub.requests == [request for request in hub.requests if not request.startswith("POST")]


W_AND_B = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("an npm token", "npm_" + "aB3" * 12),
        ("a PyPI token", "pypi-AgEIcHlwaS5vcmc" + "aB_-" * 20),
        ("a Google key", "key=AIza" + "aB3_-" * 7),
        ("a Google key", "ya29." + "aB3_-" * 7),
        ("a Replicate token", "r8_" + "a" * 37),
        ("a W&B key", f"export WANDB_API_KEY={W_AND_B}"),
        ("a W&B key", f"machine api.wandb.ai\n  login user\n  password {W_AND_B}"),
        ("a JSON Web Token", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"),
        ("a Hugging Face token", "HUB_hf_" + "aB3" * 11),
        ("a password in a URL", "redis://:hunter22@example.org/0"),
        ("an absolute path", "it came from /data/leaflets"),
        ("an absolute path", "cache=/data/leaflets"),
        ("an absolute path", "source:/mnt/leaflets"),
        ("an absolute path", "\\\\fileserver\\texts\\leaflets"),
    ],
)
@pytest.mark.parametrize("name", ["recipe.yaml", "comparison.json"])
def test_each_kind_of_secret_and_path_is_known(what: str, text: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps({"x": text}) if name.endswith(".json") else text)
    with pytest.raises(FtError, match=what):
        refuse_leaks({name: file})


def test_a_slash_escaped_and_letters_beyond_ascii_are_read_as_json_means_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "müllers-rechner")
    file = tmp_path / "comparison.json"
    for text, what in (
        (r'"\/home\/somebody\/x"', "a home folder, /home/somebody"),
        (r'"m\u00fcllers-rechner"', "host"),
    ):
        file.write_text(text)
        with pytest.raises(FtError, match=what):
            refuse_leaks({"comparison.json": file})


MEGABYTE = 10**6
WORST_SECONDS = 5  # at most 0.9 s when tried; a quadratic search of so much takes more than ten minutes


UNITS = ["a.", "a://", "://a:", "/a", "/data/", "data:", "data:a;base64,", "eyJ-", "eyJaaaaaaaaa.", "wandb:"]
UNITS += [
    "-----BEGIN ",
    "~/",
    "C:\\",
    "\\\\ab",
    "sk-a",
    "hf_a",
    "pypi-AgE",
    "npm_",
    "ya29.",
    "\\u0061",
    "a1-",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_in_one_line_is_read_in_seconds(unit: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer_config.json"
    file.write_text(unit * (MEGABYTE // len(unit)))
    started = time.process_time()  # of this process alone: others may be using the machine
    with suppress(FtError):
        refuse_leaks({"tokenizer_config.json": file})
    assert time.process_time() - started < WORST_SECONDS


@pytest.mark.parametrize("starter", ["gpt2", "bert"])
def test_the_starters_give_nothing_away(starter: str) -> None:
    files = {f"base/{path.name}": path for path in shipped.starter(starter).iterdir() if path.is_file()}
    assert files
    refuse_leaks(files)


def test_a_chat_template_is_no_leak(tmp_path: Path) -> None:
    template = (
        r"{{- '<|im_start|>' + message.role + '\n' }}{% if x %}</think>\n\n{{ '/no_think' }}{% endif %}"
        r"{{ a ~ '\nassistant\n' }} [/INST] 3/4 and/or https://example.org/docs/x {# jinja: a//b #}"
    )
    (tmp_path / "t.jinja").write_text(template)
    (tmp_path / "t.json").write_text(json.dumps({"chat_template": template, "commit": W_AND_B}))
    refuse_leaks({"chat_template.jinja": tmp_path / "t.jinja", "tokenizer_config.json": tmp_path / "t.json"})


def test_ordinary_text_is_no_leak(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(
        "See [it](https://huggingface.co/me/x-lora) or and/or n/a; 5 of 7 read better, −1.2 … 3.4 %. "
        "`base/` is a subfolder, `scores/held-out.parquet` a file. Tokenizer: byte-level. key: value.\n"
    )
    refuse_leaks({"README.md": card}, ("me/x-lora",))


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0not JSON!"]
)
def test_weights_with_a_damaged_header_are_one_line(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(header)
    with pytest.raises(FtError, match=r"^adapter_model\.safetensors: expected whole weights"):
        refuse_leaks({"adapter_model.safetensors": path})
