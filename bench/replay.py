"""What replay costs on the held-out text, and what it saves of the base's own held-out books.

    python bench/replay.py BOOKS.jsonl.gz RESULTS.jsonl [--corpora …] [--shares 0,0.05] [--seeds 0]

A line of RESULTS.jsonl a training; one that is there already is not run again. Figures are nats a token
against the base: below zero is a gain, above zero harm. docs/starters.md tells which books are held out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
import time
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import read_json
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_run
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options

BOOKS, BOOK_CHARACTERS = 60, 1500  # documents, and the beginning of each
KEYS = ("base", "corpus", "rate", "share", "seed")


def held_out_books(path: Path, to: Path) -> Path:
    """Beginnings of documents that the starters were not trained on, as a table."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    unseen = [row for row in rows if int(sha256(row["id"].encode()).hexdigest(), 16) % 50 == 0]
    unseen.sort(key=lambda row: sha256(row["text"].encode()).hexdigest())
    texts = [json.dumps({"text": row["text"][:BOOK_CHARACTERS]}) for row in unseen[:BOOKS]]
    to.write_text("\n".join(texts) + "\n")
    return to


def one(place: dict[str, Any], books: Path, scratch: Path) -> dict[str, Any]:
    """Train once; the differences on held-out, general and own text."""
    values: dict[str, Any] = {
        "name": "replay",
        "base": place["base"],
        "corpus": {"source": place["corpus"]},
        "training": {key: place[name] for key, name in (("learning_rate", "rate"), ("replay", "share"))}
        | {"seed": place["seed"]},
        "judging": {"protocol": "covering" if place["base"].endswith("bert") else "document"},
    }
    started, quiet = time.monotonic(), Screen(quiet=True)
    run = finetune(Recipe.model_validate(values), scratch, Options(gate=False), quiet)
    corpora = read_json(run.folder / "comparison.json")["corpora"]
    found = {f"{each['kind']}_nats": round(each["difference"]["nats_per_token"], 4) for each in corpora}
    own = compare_run(Run.open(run.folder), str(books), screen=quiet).corpora[0].difference
    shutil.rmtree(run.folder)
    return found | {"own_nats": round(own.nats_per_token, 4), "seconds": round(time.monotonic() - started)}


def main() -> None:
    """Every combination that is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("books", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--bases", default="starter/gpt2,starter/bert")
    parser.add_argument("--corpora", default="package:italian-cooking,package:everyday-medicine")
    parser.add_argument("--rates", default="4e-3")
    parser.add_argument("--shares", default="0,0.05,0.2")
    parser.add_argument("--seeds", default="0")
    asked = parser.parse_args()
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    done = {tuple(json.loads(line)[key] for key in KEYS) for line in lines}
    grid = product(
        asked.bases.split(","),
        asked.corpora.split(","),
        map(float, asked.rates.split(",")),
        map(float, asked.shares.split(",")),
        map(int, asked.seeds.split(",")),
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        books = held_out_books(asked.books, scratch / "books.jsonl")
        for values in grid:
            if values not in done:
                place = dict(zip(KEYS, values, strict=True))
                found = place | one(place, books, scratch / "runs")
                with asked.results.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(found, flush=True)


if __name__ == "__main__":
    main()
