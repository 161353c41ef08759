"""What is pushed: an allow-list of files, copied to a folder of push/ in the run folder and rewritten there.

Nothing of the run itself changes. The staged files hold no time of day, so equal runs stage equal bytes and a
second push finds nothing to do. The folder is named by a hash of what is in it: two pushes at once share one
only where they send the same, and neither changes what the other is sending.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

from ft_toolkit import strict_yaml
from ft_toolkit.artefacts import file_sha256, read_json
from ft_toolkit.errors import FtError
from ft_toolkit.references import parse_base, parse_text
from ft_toolkit.run import Run
from ft_toolkit.sharing.snippet import Place

KEPT_SECONDS = 86_400  # what an earlier push staged is looked at, or still being sent, no longer than that
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors")
REWRITTEN = ("adapter_config.json",)
# token scores stay: ids are text. Runs of older releases have a file a kind of text.
SCORES = ("documents", "held-out", "tainted", "general", "train", "other")
BASE = "base"  # the subfolder of a base that goes along
REPORT_FACTS = (
    "versions",
    "sha256",
    "files",
    "documents",
    "device",
    "training",
    "integrity",
    "mixed",
    "wall_seconds",
)
ENERGY_FACTS = ("energy_kwh", "energy_method")
ALLOWED = frozenset(
    (
        *ADAPTER_FILES,
        *TOKENIZER_FILES,
        *MODEL_FILES,
        "README.md",
        "comparison.json",
        "recipe.yaml",
        *(f"scores/{kind}.parquet" for kind in SCORES),
        *(f"{BASE}/{name}" for name in (*MODEL_FILES, *TOKENIZER_FILES, "README.md")),
    )
)


@dataclass(frozen=True)
class BaseOnTheHub:
    """What users load the adapter onto: a Hub id at a commit, or files that go along."""

    name: str  # as people call it
    place: Place
    folder: Path | None  # the files that go along; None: they are on the Hub


@dataclass(frozen=True)
class Contents:
    """What the user wants sent."""

    merged: bool = False
    scores: bool = False
    with_base: bool = False  # a starter or a local folder, beside the adapter


def locate_base(run: Run, repo: str, revision: str | None, *, with_base: bool) -> BaseOnTheHub:
    """Where users will find the base.

    revision   the commit on the Hub that the snippet check found
    raises     FtError for a starter or a folder that is not sent along: plain peft could not load it
    """
    reference = parse_base(run.recipe.base)
    folder = reference.folder
    if folder is None:
        return BaseOnTheHub(reference.place, Place(reference.place, revision), None)
    if not with_base:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.name in MODEL_FILES)
        is_starter = reference.kind == "starter"
        found = "one that ships inside ft-toolkit" if is_starter else "one that only this machine has"
        cure = f"Send it along: --with-base ({size / 1e6:.0f} MB)."
        raise FtError(f"base {folder.name}", "one that Hub users can load", found, cure)
    return BaseOnTheHub(reference.shown, Place(repo, subfolder=BASE), folder)


@contextmanager
def apart(run: Run) -> Iterator[Path]:
    """A new folder in push/ that no other push knows of; what is not moved out of it is gone afterwards.

    Clears away what pushes before KEPT_SECONDS left there, but for merged models.
    """
    shelf = run.folder / "push"
    shelf.mkdir(exist_ok=True)
    for old in list(shelf.iterdir()):
        with suppress(FileNotFoundError):  # another push clears away, too
            if not old.name.startswith(".merged-") and time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=shelf, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def settle(folder: Path, files: dict[str, Path]) -> dict[str, Path]:
    """Move what stands complete in a folder apart to push/<a hash of it>; the files at their new place."""
    name = _digest(files)
    place = folder.parent / name
    settled = {path: place / path for path in files}
    is_spoilt = place.is_dir() and not (
        all(path.is_file() for path in settled.values()) and _digest(settled) == name
    )
    if is_spoilt:  # by hand: what is sent comes from the run
        shutil.rmtree(place)
    own = folder / "complete"
    own.mkdir()
    for path, file in files.items():
        (own / path).parent.mkdir(exist_ok=True)
        file.rename(own / path)
    put_in_place(own, place)
    return settled


def put_in_place(folder: Path, place: Path) -> None:
    """Give a complete folder its name, unless another process was first with the same content."""
    try:
        folder.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        os.utime(place)  # as good as new, to apart()


def stage(
    run: Run, base: BaseOnTheHub, contents: Contents, model_folder: Path | None, folder: Path
) -> dict[str, Path]:
    """Copy and rewrite everything but the card into a folder; path in the repository → staged file.

    model_folder   the merged (or full) model, in place of the adapter
    raises         FtError for a file that was asked for and is not there
    """
    staged: dict[str, Path] = {}
    for name, source in _sources(run, base, contents, model_folder):
        if name not in ALLOWED:
            raise FtError(str(source), "a file of the allow-list", name, "Push without it.")
        if not source.is_file():
            raise FtError(str(source), "a file to send", "none", "Make it first, or push without it.")
        staged[name] = folder / name
        staged[name].parent.mkdir(exist_ok=True)
        shutil.copyfile(source, staged[name])
    if "adapter_config.json" in staged:
        _rewrite_json(staged["adapter_config.json"], _adapter_config(base))
    _rewrite_json(staged["comparison.json"], {"base": base.name, "run": shown_facts(run)} | _audited(run))
    recipe = strict_yaml.dump(shown_recipe(run, base))
    staged["recipe.yaml"].write_text("# as resolved: every default filled in\n" + recipe, encoding="utf-8")
    return staged


def shown_recipe(run: Run, base: BaseOnTheHub) -> dict[str, Any]:
    """The recipe as others may read it: Hub ids, and file names in place of this machine's paths."""
    values = run.recipe.model_dump()
    revision = f"@{base.place.revision}" if base.place.revision else ""
    values["base"] = base.name + revision if base.folder is None else base.name
    for corpus in values["corpus"] if isinstance(values["corpus"], list) else [values["corpus"]]:
        corpus["source"] = parse_text(corpus["source"]).shown
    if values["judging"].get("general"):
        values["judging"]["general"] = parse_text(values["judging"]["general"]).shown
    return values


def shown_facts(run: Run) -> dict[str, Any]:
    """What of run.json goes along: how it was made, and the hashes to check it by."""
    facts = {key: run.facts[key] for key in (*REPORT_FACTS, *ENERGY_FACTS) if key in run.facts}
    if "files" in facts:  # adapter_config.json is rewritten on its way, so its hash would hold for nothing
        kept = {
            name: sha256 for name, sha256 in facts["files"].items() if PurePath(name).name not in REWRITTEN
        }
        facts["files"] = kept
    return facts


def _audited(run: Run) -> dict[str, Any]:
    """What ft audit says of the training text: numbers and our own words alone, no text of a corpus."""
    from ft_toolkit.judging.audit import memorisation  # scipy comes with it: others only pull
    from ft_toolkit.judging.run_scores import read
    from ft_toolkit.judging.token_scores import TOKENS

    if not (run.folder / TOKENS).is_file():  # a run of an older release
        return {}
    return {"memorisation": memorisation(read(run)).as_dict()}


def _sources(
    run: Run, base: BaseOnTheHub, contents: Contents, model_folder: Path | None
) -> Iterator[tuple[str, Path]]:
    weights = model_folder or run.adapter_folder
    names = MODEL_FILES if model_folder else ADAPTER_FILES
    for name in (*names, *TOKENIZER_FILES):
        if name in ADAPTER_FILES or (weights / name).is_file():
            yield name, weights / name
    yield "comparison.json", run.folder / "comparison.json"
    yield "recipe.yaml", run.folder / "recipe.yaml"
    if contents.scores:
        for name in SCORES:
            if (run.folder / f"scores/{name}.parquet").is_file():
                yield f"scores/{name}.parquet", run.folder / f"scores/{name}.parquet"
    if base.folder is not None and model_folder is None:
        for name in (*MODEL_FILES, *TOKENIZER_FILES, "README.md"):
            if (base.folder / name).is_file():
                yield f"{BASE}/{name}", base.folder / name


def _digest(files: dict[str, Path]) -> str:
    """Of names and contents; a stray file beside them is not sent, and does not count."""
    listed = "".join(f"{name}\0{file_sha256(path)}\n" for name, path in sorted(files.items()))
    return sha256(listed.encode()).hexdigest()[:12]


def _adapter_config(base: BaseOnTheHub) -> dict[str, Any]:
    """Where peft and the Hub look for the base. Anyone could register a starter's name on the Hub."""
    return {"base_model_name_or_path": base.place.name, "revision": base.place.revision}


def _rewrite_json(path: Path, changes: dict[str, Any]) -> None:
    text = json.dumps(read_json(path) | changes, indent=2, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
