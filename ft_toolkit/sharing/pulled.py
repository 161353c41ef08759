"""Download a pushed run and use it as a run folder: hub:owner/name[@revision].

Its files are untrusted. They are validated as strictly as a local recipe, and the places they name are read
from the Hub, from this package or from the pulled folder only, never from a path of this machine.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ft_toolkit import strict_yaml
from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError
from ft_toolkit.network import hub_or_cache, step_seconds, within
from ft_toolkit.references import RunReference, is_also_here, is_safe_base, is_safe_text, parse_run
from ft_toolkit.run import SCHEMA, Run
from ft_toolkit.sections import Recipe
from ft_toolkit.session import cache_folder
from ft_toolkit.sharing.staging import ADAPTER_FILES, BASE, MODEL_FILES, TOKENIZER_FILES

WANTED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "comparison.json",
    "recipe.yaml",
    "tokenizer*",
    "base/*",
)
PULLED = "pulled-2"  # in pulled/ stand recipes that were not checked so


def open_run(place: str, say: Callable[[str], object] = lambda words: None) -> Run:
    """A run by its folder, or by its place on the Hub.

    say      receives notes about parts that are never uploaded
    raises   FtError when there is no such run, or the repository was not made by ft push
    """
    reference = parse_run(place)
    return pull_run(reference, say) if reference.kind == "hub" else Run.open(place)


def pull_run(reference: RunReference, say: Callable[[str], object]) -> Run:
    """Download a run from the Hub and lay it out as a run folder, once a commit."""
    from ft_toolkit.sharing.faults import told_plainly

    where, repo, revision = reference.name, reference.place, reference.revision
    with hub_or_cache() as silence:
        try:
            with told_plainly(repo):
                size = 0
                if silence is None:
                    size = within(step_seconds(), lambda: _wanted_bytes(repo, revision))
                snapshot = within(step_seconds(size), lambda: _download(repo, revision))
        except FtError:
            if silence is None:
                raise
            found = f"none, and {silence}"
            raise FtError(where, "a copy in the cache", found, "Try with a network.") from None
    for needed in ("recipe.yaml", "comparison.json", "adapter_model.safetensors"):
        if not (snapshot / needed).is_file():
            raise FtError(where, "an adapter that ft push made", f"no {needed}", "Name another one.")
    folder = cache_folder() / PULLED / repo.replace("/", "--") / snapshot.name[:12] / repo.partition("/")[2]
    if not (folder / "run.json").is_file():
        try:
            recipe, comparison = _read(snapshot)
        except (FtError, KeyError, TypeError, ValueError, RecursionError) as error:
            wanted, found = "files that this ft-toolkit can read", f"others ({error})"
            raise FtError(where, wanted, found, "Upgrade it, or name another one.") from None
        _lay_out(snapshot, folder, recipe, comparison, say)
    run = Run.open(folder)
    _refuse_local_base(run, where)
    if not (folder / "documents.parquet").is_file():
        _recover_documents(run, say)
    return run


def _download(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED)))


def _wanted_bytes(repo: str, revision: str) -> int:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi().list_repo_tree(repo, recursive=True, revision=revision)
    return sum(
        entry.size
        for entry in entries
        if isinstance(entry, RepoFile) and any(fnmatch(entry.path, pattern) for pattern in WANTED)
    )


def _read(snapshot: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe, every key of it checked, and comparison.json with the facts of run.json."""
    text = (snapshot / "recipe.yaml").read_text(encoding="utf-8")
    recipe = Recipe.model_validate(strict_yaml.parse(text, "recipe.yaml").value).model_dump()
    comparison = read_json(snapshot / "comparison.json")
    if not isinstance(comparison["run"], dict):
        raise TypeError("comparison.json holds no facts of the run")
    return recipe, comparison


def _lay_out(
    snapshot: Path,
    folder: Path,
    recipe: dict[str, Any],
    comparison: dict[str, Any],
    say: Callable[[str], object],
) -> None:
    """Copy only the files that ft push sends. run.json is written last, when everything is there."""
    shutil.rmtree(folder, ignore_errors=True)
    base_files = [f"{BASE}/{name}" for name in (*MODEL_FILES, *TOKENIZER_FILES)]
    for name in (*ADAPTER_FILES, *TOKENIZER_FILES, *base_files):
        if (snapshot / name).is_file():
            place = folder / (name if name.startswith(BASE) else f"adapter/{name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, place)
    if (folder / BASE).is_dir():
        recipe["base"] = str(folder / BASE)
    for corpus in recipe["corpus"] if isinstance(recipe["corpus"], list) else [recipe["corpus"]]:
        source = corpus["source"]
        # ft push sends a local text's name; what bears it here is another's text
        if not is_safe_text(source):
            corpus["source"] = str(folder / "not-here" / re.sub(r"[^\w-]+", "-", Path(source).name))
    general = recipe["judging"]["general"]
    if general is not None and not is_safe_text(general):
        say(f"its general text, {Path(general).name}, is not here: what was forgotten is not measured again")
        recipe["judging"]["general"] = None
    run = Run(folder)
    run.write("recipe.yaml", strict_yaml.dump(recipe))
    run.write_json("comparison.json", comparison)
    facts = {"schema": SCHEMA, "finished_at": "elsewhere", **comparison["run"]}
    if facts.get("files"):  # of the weights as trained; what was rewritten on its way counts as pulled
        facts["files"] = run.trained_files() | dict(facts["files"])
    run.write_json("run.json", facts)


def _refuse_local_base(run: Run, where: str) -> None:
    """raises   FtError unless the base came along, or is a starter or a Hub id that names nothing here"""
    base = run.recipe.base
    if base == str(run.folder / BASE):
        return
    wanted, cure = "a starter, a Hub id, or its own base/", "Do not use it; its recipe names another place."
    if not is_safe_base(base):
        raise FtError(f"{where}, base", wanted, base, cure)
    if is_also_here(base):  # a folder here would be taken for it
        found = f"{base}, which is a place of this machine too"
        raise FtError(f"{where}, base", wanted, found, "Change to another working folder.")


def _recover_documents(run: Run, say: Callable[[str], object]) -> None:
    """Read a public training text again, so that it is never scored as unseen."""
    from ft_toolkit.judging.unseen import keep_known_text
    from ft_toolkit.text.overlap import marked
    from ft_toolkit.text.splitting import Parts, document_rows, hash_rows, read_parts

    rows: list[dict[str, Any]] = []
    parts = Parts([], [], [])
    sources, name = [corpus.source for corpus in run.recipe.corpora], run.folder.name
    is_public = all(map(is_safe_text, sources))
    try:
        if not is_public:
            raise FtError(sources[0], "text that is public", "none", "Name the text with --on.")
        _, parts = read_parts(*run.recipe.corpora, keep_text=run.recipe.judging.keep_text)
        parts = marked(parts)[0]
        rows = list(document_rows(parts))
    except FtError:
        rows = []
    if hash_rows(rows, "sha256", "split") == run.split_sha256:
        keep_known_text(run, parts)
    else:  # an older release split otherwise, and what has the same name may be any text
        changed = "changed or was split otherwise" if is_public and rows else "is not here"
        say(f"the training text of {name} {changed}: whether --on is unseen cannot be checked")
        rows = []
    run.write_table("documents.parquet", rows)
