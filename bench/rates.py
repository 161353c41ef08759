"""Which learning rate and rank read unseen text best: every default but these two.

    python bench/rates.py CORPORA_FOLDER RESULTS.jsonl [--ranks 8] [--rates 5e-4,1e-3,…]

CORPORA_FOLDER holds cooking/*.md and medical/medquad.jsonl beside the two corpora that ship. Each training is
a line of RESULTS.jsonl; one that is there already is not run again, so an interrupted sweep goes on. The rate
is chosen on the validation part; the gain is measured on the held-out part.
"""

from __future__ import annotations

import argparse
import json
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
MEDICAL_ROWS = 500  # of medquad.jsonl: a training of about a minute


def sources(corpora: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """The corpus section of each corpus, by a short name."""
    some = scratch / "medquad.jsonl"
    with (corpora / "medical" / "medquad.jsonl").open(encoding="utf-8") as lines:
        every_tenth = islice(lines, 0, 10 * MEDICAL_ROWS, 10)  # neighbours ask the same of one disease
        some.write_text("".join(every_tenth), encoding="utf-8")
    return {
        "italian-cooking": {"source": "package:italian-cooking"},
        "everyday-medicine": {"source": "package:everyday-medicine"},
        "cooking": {"source": str(corpora / "cooking" / "*.md")},
        "medical": {"source": str(some), "text": "{question}\n{answer}"},
    }


def one(base: str, corpus: dict[str, Any], rate: float, rank: int, scratch: Path) -> dict[str, Any]:
    """Train and judge once; nats a token of validation and held-out text, and of general text."""
    values: dict[str, Any] = {
        "name": "rates",
        "base": base,
        "corpus": corpus,
        "adapter": {"rank": rank, "alpha": 2 * rank},
        "training": {"learning_rate": rate},
        "judging": {"protocol": "covering" if base.endswith("bert") else "document"},
    }
    started = time.monotonic()
    options = Options(gate=False)
    run = finetune(Recipe.model_validate(values), scratch / "runs", options, Screen(quiet=True))
    comparison = read_json(run.folder / "comparison.json")
    by_kind = {each["kind"]: each["difference"] for each in comparison["corpora"]}
    trained = run.facts["training"]
    return {
        "validation_nats": trained["best_validation_nats"],
        "base_validation_nats": trained["base_validation_nats"],
        "best_step": trained["best_step"],
        "steps": trained["steps"],
        "tokens": trained["tokens"],
        "held_out_nats": by_kind["held-out"]["nats_per_token"],
        "held_out_high": by_kind["held-out"]["high"],
        "general_nats": by_kind["general"]["nats_per_token"],
        "general_high": by_kind["general"]["high"],
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rates", default=RATES)
    parser.add_argument("--ranks", default="8")
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
            found = place | one(base, corpora[corpus], rate, rank, scratch)
            with asked.results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(found, flush=True)


if __name__ == "__main__":
    main()
