"""Which learning rate and rank read unseen text best: every default but these two.

    python bench/rates.py CORPORA_FOLDER RESULTS.jsonl [--ranks 8] [--rates 5e-4,1e-3,…]

CORPORA_FOLDER holds cooking/*.md and medical/medquad.jsonl beside the two corpora that ship. Each training is
a line of RESULTS.jsonl; one that is there already is not run again, so an interrupted sweep goes on. The rate
is chosen on the validation part; the gain is measured on the held-out part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from itertools import islice, product
from pathlib import Path
from typing import Any

from ft_toolkit.artefacts import read_json
from ft_toolkit.finetune import finetune
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import Recipe
from ft_toolkit.session import Options

BASES = ("starter/gpt2", "starter/bert")
RATES = "5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2"
DOCUMENTS = 120  # of each shared corpus: a training of about a minute


def sources(corpora: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """The corpus section of each corpus, by a short name."""
    some = scratch / "medquad.jsonl"
    with (corpora / "medical" / "medquad.jsonl").open(encoding="utf-8") as lines:
        every_tenth = islice(lines, 0, 10 * DOCUMENTS, 10)  # neighbours ask about the same disease
        some.write_text("".join(every_tenth), encoding="utf-8")
    recipes = scratch / "cooking"
    recipes.mkdir()
    for path in sorted((corpora / "cooking").glob("*.md"))[:: 409 // DOCUMENTS]:
        shutil.copy(path, recipes)
    return {
        "italian-cooking": {"source": "package:italian-cooking"},
        "everyday-medicine": {"source": "package:everyday-medicine"},
        "cooking": {"source": str(recipes)},
        "medical": {"source": str(some), "text": "{question}\n{answer}"},
    }


def one(
    base: str, corpus: dict[str, Any], rate: float, rank: int, scratch: Path, *, judge: bool
) -> dict[str, Any]:
    """Train once; nats a token of validation text, and with `judge` the differences on the other texts."""
    values: dict[str, Any] = {
        "name": "rates",
        "base": base,
        "corpus": corpus,
        "adapter": {"rank": rank, "alpha": 2 * rank},
        "training": {"learning_rate": rate},
        "judging": {"protocol": "covering" if base.endswith("bert") else "document"},
    }
    started = time.monotonic()
    options = Options(gate=False, judge=judge)
    run = finetune(Recipe.model_validate(values), scratch / "runs", options, Screen(quiet=True))
    trained = run.facts["training"]
    found = {
        "validation_nats": trained["best_validation_nats"],
        "base_validation_nats": trained["base_validation_nats"],
        "best_step": trained["best_step"],
        "steps": trained["steps"],
        "tokens": trained["tokens"],
        "seconds": round(time.monotonic() - started, 1),
    }
    if judge:
        comparison = read_json(run.folder / "comparison.json")
        for each in comparison["corpora"]:
            difference = each["difference"]
            found[f"{each['kind']}_nats"] = [difference[key] for key in ("nats_per_token", "low", "high")]
    shutil.rmtree(run.folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rates", default=RATES)
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--judge", action="store_true", help="also score held-out and general text")
    asked = parser.parse_args()
    kept = asked.results.read_text().splitlines() if asked.results.exists() else []
    keys = ("base", "corpus", "rate", "rank")
    done = {tuple(json.loads(line)[key] for key in keys) for line in kept}
    rates = [float(rate) for rate in asked.rates.split(",")]
    ranks = [int(rank) for rank in asked.ranks.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        corpora = sources(asked.corpora, scratch)
        for rank, rate, base, corpus in product(ranks, rates, BASES, corpora):
            place = dict(zip(keys, (base, corpus, rate, rank), strict=True))
            if tuple(place.values()) in done:
                continue
            found = place | one(base, corpora[corpus], rate, rank, scratch, judge=asked.judge)
            with asked.results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)


if __name__ == "__main__":
    main()
