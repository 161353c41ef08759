"""Which settings read unseen text best, every other one left at its default.

    python bench/rates.py CORPORA RESULTS.jsonl --grid training.learning_rate=1e-3,2e-3 --grid adapter.rank=8

CORPORA holds cooking/*.md and medical/medquad.jsonl, of which a part is used, beside the corpora that ship;
each stands with both starters. Every point of the grid is one training and one line of RESULTS.jsonl; what is
there already is not trained again, so an interrupted sweep goes on. A point is to be chosen by its validation
figure; the held-out and general figures are nats a token of at most `SCORED` documents, base and tuned.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from ft_toolkit.finetune import finetune
from ft_toolkit.material import validation_score
from ft_toolkit.models.checkpoints import load_base
from ft_toolkit.models.model_pair import load_pair
from ft_toolkit.progress import Screen
from ft_toolkit.recipe import read_recipe
from ft_toolkit.run import Run
from ft_toolkit.runtime import prepare_torch
from ft_toolkit.session import Options
from ft_toolkit.text.corpus import read_source
from ft_toolkit.text.splitting import read_parts, sample
from ft_toolkit.training.accelerator import make_accelerator

BASES = ("starter/gpt2", "starter/bert")
DOCUMENTS = 60  # of each corpus that does not ship: a training of half a minute on a quiet core
SCORED = 48  # held-out and general documents


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


def points(grids: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values of `key=value,value,…`, as overrides of a recipe."""
    axes = []
    for grid in grids:
        key, _, values = grid.partition("=")
        axes.append([f"{key}={value}" for value in values.split(",")])
    return product(*axes)


def trained(base: str, corpus: dict[str, str], point: Sequence[str], scratch: Path) -> tuple[Run, float]:
    """One training without verdict and gate, and the seconds that it took with all that surrounds it."""
    recipe = scratch / "rates.yaml"
    recipe.write_text(json.dumps({"base": base, "corpus": corpus}), encoding="utf-8")  # JSON is YAML
    options = Options(device="cpu", gate=False, judge=False)
    started = time.monotonic()
    run = finetune(read_recipe(recipe, point).recipe, scratch / "runs", options, Screen(quiet=True))
    return run, time.monotonic() - started


class Judge:
    """Nats a token of held-out and general text; what depends on base and corpus alone is scored once."""

    def __init__(self) -> None:
        self.of_bases: dict[tuple[str, str], float] = {}

    def figures(self, run: Run, corpus: str) -> dict[str, tuple[float, float]]:
        """Of each text: (base, tuned)."""
        base = load_base(run.recipe.base)
        _, parts = read_parts(*run.recipe.corpora)
        texts = {"held_out": parts.test, "general": read_source("package:general-probe").documents}
        chosen = {name: sample(documents, SCORED) for name, documents in texts.items()}
        of_base = {}
        for name, documents in chosen.items():
            key = (run.recipe.base, corpus if name == "held_out" else name)
            if key not in self.of_bases:
                self.of_bases[key] = validation_score(base, documents)()
            of_base[name] = self.of_bases[key]
        tuned = load_pair(base, run.trained_folder).tuned
        return {name: (of_base[name], validation_score(tuned, chosen[name])()) for name in chosen}


def main() -> None:
    """Train and score every point that RESULTS.jsonl does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--grid", action="append", required=True, help="key=value,value,…")
    parser.add_argument("--bases", default=",".join(BASES))
    parser.add_argument("--only", help="corpora, by their short names")
    asked = parser.parse_args()
    prepare_torch()
    make_accelerator("cpu")
    kept = asked.results.read_text(encoding="utf-8").splitlines() if asked.results.exists() else []
    done = {(line["base"], line["corpus"], tuple(line["point"])) for line in map(json.loads, kept)}
    judge = Judge()
    with tempfile.TemporaryDirectory() as folder:
        sections = corpus_sections(asked.corpora, Path(folder))
        chosen = asked.only.split(",") if asked.only else list(sections)
        for point, corpus, base in product(points(asked.grid), chosen, asked.bases.split(",")):
            if (base, corpus, point) in done:
                continue
            run, seconds = trained(base, sections[corpus], point, Path(folder))
            steps = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
            line: dict[str, Any] = {"base": base, "corpus": corpus, "point": point}
            line |= judge.figures(run, corpus) | {"training": run.facts["training"], "seconds": seconds}
            line |= {"loss_nats": [step["loss_nats"] and round(step["loss_nats"], 4) for step in steps]}
            shutil.rmtree(run.folder)
            with asked.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(base, corpus, *point, line["held_out"], line["general"], round(seconds), flush=True)


if __name__ == "__main__":
    main()
