"""Does drift, which needs nobody's data, rank adapters by the harm to what their base knew?

python bench/drift.py books.jsonl.gz FOLDER [--base starter/gpt2] [--characters 1500]

Trains 18 adapters shortly (three corpora × rates × ranks) and scores each on its base's own held-out books
(docs/starters.md tells which), beside the drift that a verdict shows. FOLDER: a third corpus.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path

from scipy import stats

from ft_toolkit.finetune import finetune
from ft_toolkit.judging.comparison import compare
from ft_toolkit.judging.drift import score_drift
from ft_toolkit.judging.protocols import quick_protocol
from ft_toolkit.judging.scoring import Scorer, Text, score_both
from ft_toolkit.judging.statistics import Difference, Estimate
from ft_toolkit.judging.token_scores import TokenScores
from ft_toolkit.judging.unseen import read_general
from ft_toolkit.judging.verdict import kl_words
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.sections import Recipe
from ft_toolkit.session import Options, Session
from ft_toolkit.text.documents import Document, TextDocument
from ft_toolkit.text.splitting import sample
from ft_toolkit.training.accelerator import make_accelerator

RATES, RANKS = (3e-4, 1.5e-3, 5e-3), (2, 16)
BOOKS = 60  # documents
NO_TRACE = Options(judge=False, gate=False)


def held_out_books(path: Path, characters: int) -> list[Document]:
    """Beginnings of documents that the starters were not trained on."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    unseen = [row for row in rows if int(sha256(row["id"].encode()).hexdigest(), 16) % 50 == 0]
    return sample([TextDocument("books", n, row["text"][:characters]) for n, row in enumerate(unseen)], BOOKS)


def measured(recipe: Recipe, runs: Path, books: Sequence[Document]) -> tuple[Estimate, Difference]:
    """Train an adapter: its drift, and the change on its base's own books."""
    quiet = Screen(quiet=True)
    run = finetune(recipe, runs, NO_TRACE, quiet)
    base = load_base(recipe.base)
    protocol = quick_protocol(base)
    pair = load_pair(base, run.trained_folder)
    scorer = Scorer(pair, protocol, Session(make_accelerator("cpu"), quiet))
    corpora = [
        score_both(scorer, Text("books", "other", books)),
        *score_drift(scorer, recipe.judging, read_general(recipe.judging)),
    ]
    comparison = compare(TokenScores(scorer.subject(recipe.name), corpora))
    assert comparison.drift is not None
    return comparison.drift.kl_nats, comparison.corpora[0].difference


def recipes(base: str, folder: Path, steps: int) -> list[Recipe]:
    """Three corpora × rates × ranks."""
    corpora = ("package:italian-cooking", "package:everyday-medicine", str(folder))
    return [
        Recipe.model_validate(
            {
                "name": f"drift-{number}",
                "base": base,
                "corpus": {"source": source},
                "adapter": {"rank": rank, "alpha": 2 * rank},
                "training": {"steps": steps, "batch_tokens": 1024, "learning_rate": rate},
            }
        )
        for number, (source, rate, rank) in enumerate(product(corpora, RATES, RANKS))
    ]


def row(recipe: Recipe, drift: Estimate, harm: Difference) -> str:
    """A row of the table in docs/log.md."""
    name = Path(recipe.corpus.source.removeprefix("package:")).name
    kl = "{} ({})".format(*kl_words(drift))
    cells = (name, recipe.training.learning_rate, recipe.adapter.rank, kl)
    return f"| {' | '.join(map(str, cells))} | {harm.nats_per_token:+.4f} | {harm.percent:+.1f} % |"


def main() -> None:
    """A row an adapter, then the rank correlation."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("books", type=Path)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--base", default="starter/gpt2")
    asked.add_argument("--runs", type=Path, default=Path("drift-runs"))
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--characters", type=int, default=1500, help="of each book")
    told = asked.parse_args()
    books = held_out_books(told.books, told.characters)
    found = []
    for recipe in recipes(told.base, told.folder, told.steps):
        drift, harm = measured(recipe, told.runs, books)
        found.append((drift.value, harm.nats_per_token))
        print(row(recipe, drift, harm), flush=True)
    print(f"Spearman {stats.spearmanr(*zip(*found, strict=True)).statistic:.3f} of {len(found)} adapters")


if __name__ == "__main__":
    main()
