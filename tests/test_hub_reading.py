"""Checkpoints and data sets of the Hub, read by the real clients from a loopback server of its protocol."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hub_reader import SENTENCE
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from ft_toolkit import network
from ft_toolkit.models.checkpoints import load_base

READER = Path(__file__).with_name("hub_reader.py")
ROOT = READER.parents[1]
PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def hub_folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ and datasets/, a folder for each repository of the loopback Hub."""
    folder = tmp_path_factory.mktemp("hub")
    for family, local in checkpoints.items():
        as_first_published(family, local, folder / "models" / family)
    older = folder / "models" / "older-gpt2"
    as_first_published("gpt2", checkpoints["gpt2"], older, change=lambda tensor: tensor + 1)

    def write(name: str, text: str) -> None:
        path = folder / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for number, name in enumerate(("older-lines", "lines")):
        rows = [{"title": f"Soup {n}", "body": f"Boil it, edition {number}."} for n in range(4)]
        write(f"{name}/README.md", "---\nlicense: cc0-1.0\n---\n# Soups\n")
        write(f"{name}/train.jsonl", "".join(json.dumps(row) + "\n" for row in rows[:3]))
        write(f"{name}/test.jsonl", json.dumps(rows[3]) + "\n")
    write("table/medicine.csv", 'question,answer\nWhat helps?,"Rest, and water."\nWhat else?,\n')
    for name in ("first", "second"):
        write(f"configs/{name}/train.jsonl", json.dumps({"text": f"the {name} one"}) + "\n")
    names = "".join(f"- config_name: {n}\n  data_files: {n}/train.jsonl\n" for n in ("first", "second"))
    write("configs/README.md", f"---\nconfigs:\n{names}---\n")
    awkward = [{"text": text} for text in ("NA", "007", "", "1e5")]
    write("awkward/train.jsonl", "".join(json.dumps(row) + "\n" for row in awkward))
    for number in range(3):
        many = [{"text": f"File {number}, row {row}. {'word ' * 400}"} for row in range(1000)]
        write(f"large/train-{number}.jsonl", "".join(json.dumps(row) + "\n" for row in many))
    write("small/train.jsonl", "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(4)))
    write("script/script.py", "import datasets\n")
    (folder / "datasets" / "parquet" / "data").mkdir(parents=True)
    table = pyarrow.table({"id": [1, 2], "text": ["Salt", None]})
    pyarrow.parquet.write_table(table, folder / "datasets/parquet/data/train-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def seen(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with a Hub saw, and below "offline" what a later one with the cache alone saw."""
    home = tmp_path_factory.mktemp("home")
    names = ("HF_", "HUGGING", "TRANSFORMERS_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    clean |= {"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    nobody = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, str(READER)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, env=clean | nobody, **pipes
    ) as later:  # it imports while the first one reads
        first = subprocess.run([*command, str(hub_folder)], env=clean, capture_output=True, text=True)
        found, _ = later.communicate("go\n")
    assert first.returncode == 0, first.stderr[-3000:]
    assert later.returncode == 0
    return json.loads(first.stdout) | {"offline": json.loads(found)}


def as_first_published(
    family: str, local: Path, to: Path, change: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone
) -> None:
    """The same checkpoint, laid out as the Hub's well-known ones are: transformers saves otherwise today.

    gpt2         without the prefix transformer., with each block's causal mask
    bert         LayerNorm.gamma and .beta, a pooler and a next-sentence head; one bias for decoder and
                 predictions (transformers issue 11809, candle pull request 1888)
    all          no tied matrix twice, no dtype in config.json, next to nothing in tokenizer_config.json
    """
    shutil.copytree(local, to)
    tensors = {name: change(tensor) for name, tensor in load_file(local / "model.safetensors").items()}
    config = json.loads((to / "config.json").read_text())
    if family == "gpt2":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        tensors.pop("lm_head.weight", None)
        mask = torch.ones(1, 1, config["n_positions"], config["n_positions"]).tril()
        tensors |= {f"h.{layer}.attn.bias": mask.clone() for layer in range(config["n_layer"])}
    if family == "bert":
        renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for now, then in renamed.items():
            tensors = {name.replace(now, then): tensor for name, tensor in tensors.items()}
        for part in ("decoder.weight", "decoder.bias"):
            tensors.pop(f"cls.predictions.{part}", None)
        width = config["hidden_size"]
        tensors |= {
            "bert.pooler.dense.weight": torch.ones(width, width),
            "bert.pooler.dense.bias": torch.ones(width),
        }
        tensors |= {
            "cls.seq_relationship.weight": torch.ones(2, width),
            "cls.seq_relationship.bias": torch.ones(2),
        }
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    (to / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k not in ("dtype", "transformers_version")})
    )
    vocabulary = Tokenizer.from_file(str(to / "tokenizer.json")).get_vocab()
    if family == "gpt2":
        (to / "tokenizer_config.json").write_text(json.dumps({"model_max_length": config["n_positions"]}))
    else:
        (to / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
        (to / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")


def lines(edition: int) -> list[list[str]]:
    ids = ("train#0", "train#1", "train#2", "test#0")
    return [[name, f"Soup {n}: Boil it, edition {edition}."] for n, name in enumerate(ids)]


def test_every_request_of_the_clients_was_one_that_the_hub_answers(seen: dict[str, Any]) -> None:
    assert seen["unanswered"] == []


@pytest.mark.parametrize("family", ["gpt2", "bert", "distilbert"])
def test_a_base_of_the_hub_is_bitwise_the_local_folder_laid_out_as_it_was_first_published(
    seen: dict[str, Any], checkpoints: dict[str, Path], family: str
) -> None:
    local = load_base(str(checkpoints[family]))
    assert seen["bases"][family] == {
        "weights": local.weights_sha256,
        "ids": local.tokenizer(SENTENCE)["input_ids"],
    }


def test_a_revision_names_the_weights_of_its_own_commit(seen: dict[str, Any]) -> None:
    older = seen["older base"]
    assert older["weights"] != seen["bases"]["gpt2"]["weights"]
    assert older["ids"] == seen["bases"]["gpt2"]["ids"]


def test_rows_of_every_split_are_read_through_a_template(seen: dict[str, Any]) -> None:
    assert seen["lines"] == lines(edition=1)


def test_a_revision_names_the_rows_of_its_own_commit(seen: dict[str, Any]) -> None:
    assert seen["older lines"] == lines(edition=0)


def test_csv_and_parquet_are_read_and_a_missing_cell_is_empty(seen: dict[str, Any]) -> None:
    assert seen["table"] == [["train#0", "What helps? Rest, and water."], ["train#1", "What else? "]]
    assert seen["parquet"] == [["train#0", "Salt"]]  # the row without text is left out, as in files


def test_strings_that_look_like_numbers_stay_as_they_stand(seen: dict[str, Any]) -> None:
    assert seen["awkward"] == [["train#0", "NA"], ["train#1", "007"], ["train#3", "1e5"]]


def test_a_config_is_chosen_behind_the_name(seen: dict[str, Any]) -> None:
    assert seen["one config"] == [["train#0", "the second one"]]


def test_a_large_data_set_is_streamed_as_far_as_the_recipe_reads(seen: dict[str, Any]) -> None:
    streamed = seen["streamed"]
    assert [name for name, _ in streamed["few"]] == [f"train#{n}" for n in range(5)]
    assert streamed["few"] == streamed["loaded"][:5]
    assert streamed["files of few"] == ["train-0.jsonl"]  # the others were never asked for
    assert streamed["whole"] == streamed["loaded"]
    assert len(streamed["whole"]) == 3000
    assert "someone___small" in streamed["cached before"]
    assert "someone___large" not in streamed["cached before"]  # nothing of the stream is on the disk
    assert streamed["small"] == [["train#0", "row 0"], ["train#1", "row 1"]]
    assert streamed["from the cache"] == streamed["loaded"][:7]
    assert streamed["files from the cache"] == []  # what was loaded before is not streamed


def test_a_stream_that_ends_in_the_middle_is_one_clear_line(seen: dict[str, Any]) -> None:
    told(seen["streamed"]["lost"], "corpus hf:someone/large", "rows of the Hub, streamed")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no base", ("base someone/nothing", "none of that name")),
        ("no revision", ("base someone/gpt2@nowhere", "no such revision")),
        ("no column", ("hf:someone/lines", "train row 0", "column nothing", "title, body")),
        ("no config", ("hf:someone/configs/third", "first", "second")),
        ("no data", ("hf:someone/nothing", "doesn't exist")),
        ("script", ("hf:someone/script", "scripts are no longer supported")),
    ],
)
def test_what_is_not_there_is_one_clear_line(seen: dict[str, Any], what: str, words: tuple[str, ...]) -> None:
    told(seen[what], *words)


def test_where_the_hub_does_not_answer_the_cache_is_used_at_once(seen: dict[str, Any]) -> None:
    unheard = seen["unheard"]
    assert unheard["base"] == seen["bases"]["gpt2"]
    assert unheard["lines"] == seen["lines"]
    assert unheard["seconds"] < PATIENCE_SECONDS


def test_where_the_hub_does_not_answer_and_nothing_is_cached_the_line_says_both(seen: dict[str, Any]) -> None:
    told(seen["unheard"]["no base"], "base someone/nothing", "nothing cached", "does not answer")
    told(seen["unheard"]["no data"], "hf:someone/nothing", "nothing cached", "does not answer")


def test_a_hub_that_takes_the_call_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(network, "ANSWER_SECONDS", 0.2)
        with network.hub_or_cache() as silence:
            assert silence == f"{endpoint} does not answer"
            assert constants.is_offline_mode()
        assert not constants.is_offline_mode()  # the next call asks again


def test_another_revision_than_the_cached_one_is_refused_without_the_hub(seen: dict[str, Any]) -> None:
    told(
        seen["unheard"]["another revision"],
        "hf:someone/lines@",
        "expected that revision",
        "newest in the cache",
    )


def test_offline_the_cache_gives_what_the_hub_gave(seen: dict[str, Any]) -> None:
    assert seen["offline"]["bases"] == seen["bases"]
    assert seen["offline"]["lines"] == seen["lines"]


def test_offline_what_is_not_cached_is_one_clear_line(seen: dict[str, Any]) -> None:
    told(seen["offline"]["no base"], "base someone/nothing", "nothing cached, and HF_HUB_OFFLINE is set")
    told(seen["offline"]["no data"], "hf:someone/nothing", "nothing cached, and HF_HUB_OFFLINE is set")


def told(fault: dict[str, Any], *words: str) -> None:
    line = fault["line"]
    assert "\n" not in line
    assert len(line) <= 200
    assert all(word in line for word in words), line
    assert fault["seconds"] < PATIENCE_SECONDS
