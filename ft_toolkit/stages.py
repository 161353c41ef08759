"""A run's artefacts: each is made once and then read, and made again when what it was made from changed.

run.json lists every artefact with the sha256 of its files and with what it was made from: the recipe's keys,
the corpus, the base, library versions, and the artefacts above it. A stage that finds all of this as it was
reads; one that does not says which key changed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ft_toolkit.artefacts import damaged_files, file_sha256, folder_sha256s, value_sha256
from ft_toolkit.errors import FtError
from ft_toolkit.run import Run, list_runs

T = TypeVar("T")
# where the files of each artefact are in the run folder; a folder's name ends in a slash
PLACES: dict[str, tuple[str, ...]] = {
    "dataset": ("documents.parquet", "known_text.parquet"),
    "weights": ("adapter/", "model/", "metrics.jsonl"),
    "integrity": ("integrity.json",),
    "comparison": ("scores/", "comparison.json"),
}


@dataclass(frozen=True)
class Artefact:
    """One artefact as run.json lists it."""

    files: dict[str, str]  # path in the run folder → sha256
    made_from: dict[str, Any]  # plain values, or hashes of what is no plain value

    @property
    def sha256(self) -> str:
        """Of all its files: what the artefacts below it are made from."""
        return value_sha256(self.files)


@dataclass(frozen=True)
class Stages:
    """The stages of one run.

    donor    an ended run whose artefacts are taken over where they were made from the same
    restart  a run that goes on may make again what its inputs have changed under; else that is refused
    """

    run: Run
    say: Callable[[str], object] = lambda words: None
    donor: Run | None = None
    restart: bool = False

    def stage(
        self, name: str, made_from: Mapping[str, Any], make: Callable[[], T], read: Callable[[], T]
    ) -> T:
        """Read an artefact where it is current; else make it and list it.

        make     writes the artefact's files (PLACES) and returns what `read` would
        raises   FtError where a run that goes on would be made from other inputs, unless `restart`
        """
        kept = artefact(self.run, name)
        reason = self._stale(kept, made_from) if kept else None
        if kept is not None and reason is None:
            return read()
        if kept is not None and reason is not None:
            self._refuse_or_say(name, reason)
        elif self._taken_over(name, made_from):
            return read()
        made = make()
        list_artefact(self.run, name, made_from)
        return made

    def is_current(self, name: str, made_from: Mapping[str, Any]) -> bool:
        """Whether an artefact is there as it was made, from just these inputs."""
        kept = artefact(self.run, name)
        return kept is not None and self._stale(kept, made_from) is None

    def made_of(self, *names: str) -> dict[str, str]:
        """The hashes of artefacts that another one is made from."""
        found = {name: artefact(self.run, name) for name in names}
        return {name: kept.sha256 for name, kept in found.items() if kept is not None}

    def _stale(self, kept: Artefact, made_from: Mapping[str, Any]) -> str | None:
        """Why a listed artefact cannot be used; None where it can."""
        if changed := changed_keys(kept.made_from, made_from):
            return f"{', '.join(changed)} changed"
        damaged = damaged_files(self.run.folder, kept.files)
        return f"{', '.join(damaged)} damaged or missing" if damaged else None

    def _refuse_or_say(self, name: str, reason: str) -> None:
        if reason.endswith("changed") and not self.restart:
            where = f"{self.run.folder}, {name}"
            fix = "Put it back, or say --restart to make it and what follows anew."
            raise FtError(where, "what the run began with", reason, fix)
        self.say(f"{name}: made again ({reason})")

    def _taken_over(self, name: str, made_from: Mapping[str, Any]) -> bool:
        """Copy the donor's artefact if it was made from the same."""
        kept = artefact(self.donor, name) if self.donor else None
        if self.donor is None or kept is None:
            return False
        changed = changed_keys(kept.made_from, made_from)
        if changed or damaged_files(self.donor.folder, kept.files):
            self.say(
                f"{name}: made anew ({', '.join(changed) or 'its files'} changed since {self.donor.folder})"
            )
            return False
        for path in kept.files:
            (self.run.folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.donor.folder / path, self.run.folder / path)
        list_artefact(self.run, name, made_from)
        self.say(f"{name}: as in {self.donor.folder}")
        return True


def artefact(run: Run, name: str) -> Artefact | None:
    """An artefact as run.json lists it, whether or not its files are still so."""
    listed = run.facts.get("artefacts", {}).get(name)
    return Artefact(**listed) if listed else None


def list_artefact(run: Run, name: str, made_from: Mapping[str, Any]) -> None:
    """Write into run.json what is on disk of an artefact now, and what it was made from."""
    files: dict[str, str] = {}
    for place in PLACES[name]:
        path = run.folder / place
        if path.is_dir():
            files |= folder_sha256s(path, run.folder)
        elif path.is_file():
            files[place] = file_sha256(path)
    listed = run.facts.get("artefacts", {})
    run.record(artefacts=listed | {name: asdict(Artefact(files, dict(made_from)))})


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, those on one side alone included."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def latest_ended(runs_folder: Path, name: str, *, but: Run | None = None) -> Run | None:
    """The newest ended run of a name, whatever number stands behind it."""
    runs = [
        run for run in list_runs(runs_folder) if re.fullmatch(rf"{re.escape(name)}(-\d+)?", run.folder.name)
    ]
    ended = [run for run in runs if (but is None or run.folder != but.folder) and run.is_ended]
    return max(ended, key=lambda run: str(run.facts.get("started_at")), default=None)
