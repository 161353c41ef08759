"""A fresh process that reads a loopback Hub with the real clients; test_hub_reading.py judges what it saw.

HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are read when huggingface_hub is imported, so nothing here imports it
before it is known where the Hub is. Importing the libraries takes most of the time: one process sees much.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_server import Fault, HubServer

SENTENCE = "Stir the onions gently, then add the crème fraîche."


def base(name: str) -> dict[str, Any]:
    """Who a base is, and how it reads a sentence."""
    from ft_toolkit.models.checkpoints import load_base

    loaded = load_base(name)
    return {"weights": loaded.weights_sha256, "ids": loaded.tokenizer(SENTENCE)["input_ids"]}


def corpus(source: str, text: str = "text") -> list[list[str]]:
    from ft_toolkit.text.corpus import read_source

    return [[document.id, document.text] for document in read_source(source, text).documents]


def streamed(hub: HubServer) -> dict[str, Any]:
    """A data set read as large ones are, whole and in part, and then from the cache as small ones are."""
    from ft_toolkit.references import parse_text
    from ft_toolkit.sections import Corpus
    from ft_toolkit.text import hub as rooms
    from ft_toolkit.text.corpus import read_corpora

    def some(source: str, most: int | None) -> list[list[str]]:
        reading = read_corpora(Corpus(source=source, most_documents=most))
        return [[document.id, document.text] for document in reading.documents]

    def files() -> list[str]:
        paths = (line.rpartition("/resolve/") for line in hub.requests[start:])
        return sorted({rest.partition("/")[2] for _, found, rest in paths if found and ".jsonl" in rest})

    usual = rooms.STREAMED_BYTES, rooms.BOUNDED_STREAMED_BYTES
    start = len(hub.requests)
    rooms.BOUNDED_STREAMED_BYTES = 200_000  # it has 30 times as much
    seen: dict[str, Any] = {"few": some("hf:someone/large", 5), "files of few": files()}
    seen["small"] = some("hf:someone/small", 2)  # below the size: loaded
    rooms.STREAMED_BYTES = 200_000
    seen["whole"] = some("hf:someone/large", None)
    rows = rooms.hub_rows(parse_text("hf:someone/large"))
    next(rows)
    hub.faults.append(Fault("404", "file", 1000))
    seen["lost"] = fault(lambda: list(rows))
    hub.faults.clear()
    rooms.STREAMED_BYTES, rooms.BOUNDED_STREAMED_BYTES = usual
    cache = Path(os.environ["HF_HOME"]) / "datasets"
    seen["cached before"] = [path.name for path in cache.glob("someone___*")]
    seen["loaded"] = some("hf:someone/large", None)
    rooms.STREAMED_BYTES = rooms.BOUNDED_STREAMED_BYTES = 0
    start = len(hub.requests)
    seen["from the cache"] = some("hf:someone/large", 7)
    seen["files from the cache"] = files()
    rooms.STREAMED_BYTES, rooms.BOUNDED_STREAMED_BYTES = usual
    return seen


def fault(action: Callable[[], object]) -> dict[str, Any]:
    """The one line that an action ends with, and after how many seconds."""
    from ft_toolkit.errors import FtError

    started = time.monotonic()
    try:
        action()
    except FtError as error:
        return {"line": str(error), "seconds": time.monotonic() - started}
    raise AssertionError("nothing was wrong")


def online(folder: Path) -> dict[str, Any]:
    """Read everything that `folder` holds, then once more with nobody at the other end."""
    with HubServer() as hub:
        os.environ["HF_ENDPOINT"] = hub.endpoint
        first = hub.add("models", "someone/gpt2", folder / "models" / "older-gpt2")
        for path in (folder / "models").iterdir():
            hub.add("models", f"someone/{path.name}", path)
        older = hub.add("datasets", "someone/lines", folder / "datasets" / "older-lines")
        newer = hub.add("datasets", "someone/lines", folder / "datasets" / "lines")
        for path in (folder / "datasets").iterdir():
            hub.add("datasets", f"someone/{path.name}", path)
        prepare()
        seen: dict[str, Any] = {
            "bases": {name: base(f"someone/{name}") for name in ("gpt2", "bert", "distilbert")},
            "older base": base(f"someone/gpt2@{first}"),
            "no base": fault(lambda: base("someone/nothing")),
            "no revision": fault(lambda: base("someone/gpt2@nowhere")),
            "older lines": corpus(f"hf:someone/lines@{older}", "{title}: {body}"),
            "lines": corpus("hf:someone/lines", "{title}: {body}"),
            "table": corpus("hf:someone/table", "{question} {answer}"),
            "parquet": corpus("hf:someone/parquet"),
            "awkward": corpus("hf:someone/awkward"),
            "one config": corpus("hf:someone/configs/second"),
            "no column": fault(lambda: corpus("hf:someone/lines", "{nothing}")),
            "no config": fault(lambda: corpus("hf:someone/configs/third")),
            "no data": fault(lambda: corpus("hf:someone/nothing")),
            "script": fault(lambda: corpus("hf:someone/script")),
        }
        seen["streamed"] = streamed(hub)
        seen["unanswered"] = hub.unanswered
        asked = len(hub.requests)
    started = time.monotonic()
    unheard: dict[str, Any] = {
        "base": base("someone/gpt2"),
        "lines": corpus(f"hf:someone/lines@{newer}", "{title}: {body}"),
        "seconds": time.monotonic() - started,
        "no base": fault(lambda: base("someone/nothing")),
        "no data": fault(lambda: corpus("hf:someone/nothing")),
        "another revision": fault(lambda: corpus(f"hf:someone/lines@{older}", "{title}: {body}")),
    }
    assert len(hub.requests) == asked
    return seen | {"unheard": unheard}


def offline() -> dict[str, Any]:
    """What the cache alone gives, once the other process has filled it."""
    prepare()
    sys.stdin.readline()
    return {
        "bases": {name: base(f"someone/{name}") for name in ("gpt2", "bert", "distilbert")},
        "lines": corpus("hf:someone/lines", "{title}: {body}"),
        "no base": fault(lambda: base("someone/nothing")),
        "no data": fault(lambda: corpus("hf:someone/nothing")),
    }


def prepare() -> None:
    from ft_toolkit.runtime import prepare_process

    prepare_process()
    import datasets  # noqa: F401

    from ft_toolkit.models import adapters  # noqa: F401


if __name__ == "__main__":
    print(json.dumps(online(Path(sys.argv[1])) if len(sys.argv) > 1 else offline()))
