"""What settings gain on unseen text and what they cost, every other one left at its default.

    python bench/settings.py CORPORA RESULTS.jsonl --grid training.replay=0,5% [--grid adapter.rank=8,16]
        [--bases starter/bert] [--only cooking,medical] [--texts held_out]

CORPORA holds cooking/*.md, medical/medquad.jsonl and pretraining/books.jsonl.gz; of the first two a part is
used, beside the corpora that ship; each stands with both starters. Every point of the grid is one training
and one line of RESULTS.jsonl; what is there already is not trained again, so an interrupted sweep goes on.

A point is to be chosen by its validation figure. The others are changes against the base in nats a token,
each with its 95 % interval: below zero is a gain, above zero harm. "own" are held-out books of the kind that
the starters were trained on; docs/starters.md tells which.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from ft_toolkit.finetune import finetune
from ft_toolkit.judging.protocols import quick_protocol, score
from ft_toolkit.judging.statistics import paired_difference
from ft_toolkit.judging.totals import Totals, document_totals
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.language_model import LanguageModel
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_torch
from ft_toolkit.session import Options
from ft_toolkit.text.blocks import encode
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import read_parts, sample
from ft_toolkit.training.accelerator import make_accelerator

BASES = ("starter/gpt2", "starter/bert")
DOCUMENTS = 60  # of each corpus that does not ship: a training of half a minute on a quiet core
TEXTS = ("held_out", "general", "own")
SCORED = 48  # documents of each kind
BOOK_CHARACTERS = {"causal": 1500, "masked": 500}  # the beginning of each book: masked scoring takes longer


def corpus_sections(corpora: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """The corpus section of each corpus, by a short name."""
    questions = scratch / "medquad.jsonl"
    with (corpora / "medical" / "medquad.jsonl").open(encoding="utf-8") as lines:
        every_tenth = islice(lines, 0, 10 * DOCUMENTS, 10)  # neighbours ask about the same disease
        questions.write_text("".join(every_tenth), encoding="utf-8")
    recipes = scratch / "cooking"
    recipes.mkdir()
    paths = sorted((corpora / "cooking").glob("*.md"))
    for path in paths[:: len(paths) // DOCUMENTS]:
        shutil.copy(path, recipes)
    return {
        "italian-cooking": {"source": "package:italian-cooking"},
        "everyday-medicine": {"source": "package:everyday-medicine"},
        "cooking": {"source": str(recipes)},
        "medical": {"source": str(questions), "text": "{question}\n{answer}"},
    }


def held_out_books(corpora: Path) -> list[str]:
    """Documents of the starters' own kind that they were not trained on."""
    with gzip.open(corpora / "pretraining" / "books.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    unseen = [row for row in rows if int(sha256(row["id"].encode()).hexdigest(), 16) % 50 == 0]
    unseen.sort(key=lambda row: sha256(row["text"].encode()).hexdigest())
    return [row["text"] for row in unseen[:SCORED]]


def points(grids: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values of `key=value,value,…`, as overrides of a recipe."""
    axes = []
    for grid in grids:
        key, _, values = grid.partition("=")
        axes.append([f"{key}={value}" for value in values.split(",")])
    return product(*axes)


def trained(base: str, corpus: dict[str, str], point: Sequence[str], scratch: Path) -> tuple[Run, float]:
    """One training without verdict and gate, and the seconds that it took with all that surrounds it."""
    recipe = scratch / "settings.yaml"
    recipe.write_text(json.dumps({"base": base, "corpus": corpus}), encoding="utf-8")  # JSON is YAML
    options = Options(device="cpu", gate=False, judge=False)
    started = time.monotonic()
    run = finetune(read_recipe(recipe, point).recipe, scratch / "runs", options, Screen(quiet=True))
    return run, time.monotonic() - started


class Judge:
    """Changes against the base on some of TEXTS; the base is scored once for each text."""

    def __init__(self, books: Sequence[str], asked: Sequence[str]) -> None:
        self.books = books
        self.asked = asked
        self.of_bases: dict[tuple[str, str], list[Totals]] = {}

    def figures(self, run: Run, corpus: str) -> dict[str, list[float | None]]:
        """Of each text: change in nats a token, and the ends of its interval."""
        base = load_base(run.recipe.base)
        characters = BOOK_CHARACTERS[base.family.objective]
        own = [TextDocument("books", n, text[:characters]) for n, text in enumerate(self.books)]
        general = sample(read_source("package:general-probe").documents, SCORED)
        _, parts = read_parts(*run.recipe.corpora)
        every = {"held_out": (corpus, sample(parts.test, SCORED)), "general": ("", general), "own": ("", own)}
        texts = {name: every[name] for name in self.asked}
        for name, (place, documents) in texts.items():
            key = (run.recipe.base, name + place)
            if key not in self.of_bases:
                self.of_bases[key] = totals(base, documents)
        tuned = load_pair(base, run.trained_folder).tuned
        found: dict[str, list[float | None]] = {}
        for name, (place, documents) in texts.items():
            before, after = self.of_bases[run.recipe.base, name + place], totals(tuned, documents)
            nats = [np.array([each.nll_nats for each in side]) for side in (before, after)]
            change = paired_difference(*nats, np.array([each.tokens for each in before]))
            found[name] = [change.nats_per_token, change.low, change.high]
        return found


def totals(model: LanguageModel, documents: Sequence[Document]) -> list[Totals]:
    """Raw totals of each document, scored as validation is."""
    encoded = encode(documents, model.tokenizer)
    protocol = quick_protocol(model)
    return [document_totals(d, nll) for d, nll in zip(encoded, score(model, encoded, protocol), strict=True)]


def main() -> None:
    """Train and score every point that RESULTS.jsonl does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--grid", action="append", required=True, help="key=value,value,…")
    parser.add_argument("--bases", default=",".join(BASES))
    parser.add_argument("--only", help="corpora, by their short names")
    parser.add_argument("--texts", default=",".join(TEXTS), help="that are scored; masked scoring takes long")
    asked = parser.parse_args()
    prepare_torch()
    make_accelerator("cpu")
    kept = asked.results.read_text(encoding="utf-8").splitlines() if asked.results.exists() else []
    done = {(line["base"], line["corpus"], tuple(line["point"])) for line in map(json.loads, kept)}
    judge = Judge(held_out_books(asked.corpora), asked.texts.split(","))
    with tempfile.TemporaryDirectory() as folder:
        sections = corpus_sections(asked.corpora, Path(folder))
        chosen = asked.only.split(",") if asked.only else list(sections)
        for point, corpus, base in product(points(asked.grid), chosen, asked.bases.split(",")):
            if (base, corpus, point) in done:
                continue
            run, seconds = trained(base, sections[corpus], point, Path(folder))
            line: dict[str, Any] = {"base": base, "corpus": corpus, "point": point}
            line |= judge.figures(run, corpus) | {"training": run.facts["training"], "seconds": seconds}
            shutil.rmtree(run.folder)
            with asked.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            changes = (f"{name} {line[name][0]:+.3f}" for name in judge.asked)
            print(base, corpus, *point, *changes, round(seconds), flush=True)


if __name__ == "__main__":
    main()
