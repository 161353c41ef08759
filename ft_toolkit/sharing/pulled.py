"""A run that somebody pushed, where a run folder is wanted: hub:owner/name[@revision]."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from ft_toolkit.errors import FtError
from ft_toolkit.network import hub_or_cache
from ft_toolkit.recipe import Recipe
from ft_toolkit.run import SCHEMA, Run, read_json
from ft_toolkit.sharing.staging import ADAPTER_FILES, BASE, MODEL_FILES, TOKENIZER_FILES

PREFIX = "hub:"
PUBLIC = ("package:", "hf:", "https://")  # sources that anybody can read
WANTED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "comparison.json",
    "recipe.yaml",
    "tokenizer*",
    "base/*",
)


def open_run(place: str, say: Callable[[str], object] = lambda words: None) -> Run:
    """A run by its folder, or by its place on the Hub.

    say      told what could not be pulled, since it never leaves the machine of the training
    raises   FtError when there is no such run, or the repository was not made by ft push
    """
    return pull_run(place.removeprefix(PREFIX), say) if place.startswith(PREFIX) else Run.open(place)


def pull_run(name: str, say: Callable[[str], object]) -> Run:
    """Download owner/name[@revision] and lay it out as a run folder, once a commit."""
    from huggingface_hub import snapshot_download

    from ft_toolkit.sharing.hub import told_plainly

    repo, _, revision = name.partition("@")
    with hub_or_cache() as silence:
        try:
            with told_plainly(repo):
                wanted = revision or None
                snapshot = Path(snapshot_download(repo, revision=wanted, allow_patterns=list(WANTED)))
        except FtError:
            if silence is None:
                raise
            found = f"none, and {silence}"
            raise FtError(f"{PREFIX}{name}", "a copy in the cache", found, "Try with a network.") from None
    for needed in ("recipe.yaml", "comparison.json", "adapter_model.safetensors"):
        if not (snapshot / needed).is_file():
            raise FtError(
                f"{PREFIX}{name}", "an adapter that ft push made", f"no {needed}", "Name another one."
            )
    folder = _cache() / repo.replace("/", "--") / snapshot.name[:12] / repo.partition("/")[2]
    if not (folder / "run.json").is_file():
        try:
            _lay_out(snapshot, folder)
        except (KeyError, TypeError, ValueError, yaml.YAMLError):
            wanted = "files that this ft-toolkit can read"
            raise FtError(f"{PREFIX}{name}", wanted, "others", "Upgrade it, or name another one.") from None
    run = Run.open(folder)
    if not (folder / "documents.parquet").is_file():
        _recover_documents(run, say)
    return run


def _lay_out(snapshot: Path, folder: Path) -> None:
    """Of a stranger's files only those that ft push sends. run.json is written last, when all is there."""
    shutil.rmtree(folder, ignore_errors=True)
    comparison = read_json(snapshot / "comparison.json")
    recipe = yaml.safe_load((snapshot / "recipe.yaml").read_text(encoding="utf-8"))
    base_files = [f"{BASE}/{name}" for name in (*MODEL_FILES, *TOKENIZER_FILES)]
    for name in (*ADAPTER_FILES, *TOKENIZER_FILES, *base_files):
        if (snapshot / name).is_file():
            place = folder / (name if name.startswith(BASE) else f"adapter/{name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, place)
    if (folder / BASE).is_dir():
        recipe["base"] = str(folder / BASE)
    Recipe.model_validate(recipe)
    run = Run(folder)
    run.write("recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    run.write_json("comparison.json", comparison)
    facts = {"schema": SCHEMA, "finished_at": "elsewhere", **comparison["run"]}
    if facts.get(
        "files"
    ):  # of the weights as they were trained; what was rewritten on its way counts as pulled
        facts["files"] = run.trained_files() | dict(facts["files"])
    run.write_json("run.json", facts)


def _recover_documents(run: Run, say: Callable[[str], object]) -> None:
    """Read the training text again where anybody can: it must never be scored as unseen."""
    from ft_toolkit.text.corpus import read_corpus, split

    rows: list[dict[str, Any]] = []
    source, name = run.recipe.corpus.source, run.folder.name
    is_public = source.startswith(PUBLIC)
    try:
        if not is_public and Path(source).name != source:  # a stranger's path is not ours to read
            raise FtError(source, "a name", "a path", "Name the text with --on.")
        parts = split(read_corpus(run.recipe.corpus).documents, run.recipe.corpus.split)
        for part, documents in parts:
            for document in documents:
                row = {"id": document.id, "sha256": document.sha256, "split": part}
                rows.append(row | {"source": document.source, "row": document.row, "text": None})
    except FtError:
        rows = []
    placed = sha256("".join(sorted(row["sha256"] + row["split"] for row in rows)).encode()).hexdigest()
    if placed != run.facts.get("sha256", {}).get("split"):
        if is_public and rows:
            say(f"the text at {source} changed since {name} was trained on it")
        else:  # what has the same name here may be any text
            say(f"the training text of {name} is not here: whether --on is unseen cannot be checked")
            rows = []
    run.write_table("documents.parquet", rows)


def _cache() -> Path:
    cache = os.environ.get("FT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ft_toolkit" / "pulled"
