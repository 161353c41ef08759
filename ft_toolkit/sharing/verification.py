"""Is it what was measured? Load what was pushed into an empty cache, and score it again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import IntegrityFailed
from ft_toolkit.progress import Screen
from ft_toolkit.run import Run
from ft_toolkit.runtime import last_words, run_python
from ft_toolkit.sharing.faults import told_plainly
from ft_toolkit.sharing.hub import Destination, Pushed, Steps, connect, read_back


def verify(
    run: Run, files: Mapping[str, Path], snippet: str, to: Destination, pushed: Pushed, screen: Screen
) -> float:
    """Load from the Hub into an empty cache, compare every file, run the card's snippet, and score again.

    returns  the largest difference of any corpus total from the run's own, in nats
    raises   IntegrityFailed when a file is another one, the snippet does not run, or it is not zero
    """
    where = f"{to.repo}@{pushed.commit[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        empty = {"HF_HOME": folder, "HF_HUB_CACHE": f"{folder}/hub", "HF_XET_CACHE": f"{folder}/xet"}
        with told_plainly(to.repo), screen.stage("verify", len(files)) as advance:
            read_back(connect(), to.repo, pushed.commit, files, Path(empty["HF_HUB_CACHE"]), Steps(advance))
        environment = empty | {"HF_TOKEN": get_token() or "", "FT_CACHE": folder}
        if not to.as_pull_request:  # the snippet names a branch, and shows it once the request is merged
            _run(["-c", snippet], environment, f"the snippet of {where}")
        if "adapter_model.safetensors" not in files:
            screen.say(
                f"verified: {where} loads, file by file what was sent; a merged model is not scored again"
            )
            return 0.0
        copy = _pulled_copy(run, f"{to.repo}@{pushed.commit}", environment)
        heard = _run(["-m", "ft_toolkit.compare", str(copy), "--json"], environment, where)
    scored_again = json.loads(heard)["comparisons"][0]
    difference = largest_difference(read_json(run.folder / "comparison.json"), scored_again)
    if difference != 0:
        found = f"{difference:g} nats"
        raise IntegrityFailed(
            where, "the scores of the run", found, "Do not use it; push again, then report it."
        )
    same = f"{len(files)} files are what was sent"
    screen.say(f"verified: {where}: {same}; loaded, it scores as the run does (difference 0 nats)")
    return difference


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Between two comparisons' totals, corpus by corpus, on both sides, in nats."""
    found = {(part["kind"], part["corpus"]): part for part in theirs["corpora"]}
    differences: list[float] = [
        abs(part[side]["nll_nats"] - found[part["kind"], part["corpus"]][side]["nll_nats"])
        for part in ours["corpora"]
        for side in ("base", "adapter")
    ]
    return max(differences)


def _pulled_copy(run: Run, place: str, environment: dict[str, str]) -> Path:
    """A run folder with the run's documents, and with base and adapter as the Hub has them."""
    get = (
        "import sys; from ft_toolkit.sharing.pulled import pull_run; "
        "print(pull_run(sys.argv[1], lambda words: None).folder)"
    )
    pulled = Run(Path(_run(["-c", get, place], environment, place).splitlines()[-1]))
    documents = (run.folder / "documents.parquet").read_bytes()
    (pulled.folder / "documents.parquet").write_bytes(documents)
    recipe = run.recipe.model_copy(update={"base": pulled.recipe.base})
    pulled.write("recipe.yaml", json.dumps(recipe.model_dump()))
    return pulled.folder


def _run(arguments: list[str], environment: dict[str, str], where: str) -> str:
    done = run_python(*arguments, environment=environment)
    if done.returncode:
        raise IntegrityFailed(where, "to run", last_words(done), "Push again, or see what it says.")
    return done.stdout
