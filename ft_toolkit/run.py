"""The run folder: what one stage writes and every later one reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ft_toolkit.artefacts import (
    RESTORE,
    file_sha256,
    read_json,
    read_parquet,
    reason_of,
    remove_unfinished,
    with_checksum,
    write_rows,
    written_whole,
)
from ft_toolkit.errors import FtError, IntegrityFailed, disk_full, is_disk_full
from ft_toolkit.inputs import decisive_sha256
from ft_toolkit.sections import Recipe

SCHEMA = 1
LOADED = (".safetensors", ".json")  # endings of the files that are read when a model is loaded
Row = dict[str, Any]
# what later rooms look into; everything else in run.json is only shown
_SECTIONS = ("sha256", "documents", "versions", "training", "integrity", "snippet_check", "files")
FACTS: dict[str, type] = {"schema": int, "mixed": list}
FACTS |= dict.fromkeys((*_SECTIONS, "artefacts"), dict)
COLUMNS = {"documents.parquet": {"id", "sha256", "split", "source", "row", "text"}}


class Run:
    """One run's folder. Files are written whole or not at all; a finished run is never written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # flock: the system lets go of it when the process is gone, also after kill -9
        self._lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)

    @classmethod
    def create(cls, runs_folder: Path, recipe: Recipe, asked: Mapping[str, Any] | None = None) -> Run:
        """Make runs/<name>, or <name>-2 and so on, and lock it.

        What an earlier run computed is never overwritten; an unfinished one that was asked for in the same
        words goes on.

        asked    what was asked for (inputs.asked_for); None: always a new folder
        raises   FtError where no folder can be made, or another process is at work on the unfinished one
        """
        for number in range(1, 100_000):
            folder = runs_folder / (recipe.name if number == 1 else f"{recipe.name}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if folder.is_dir():
                    if asked is not None and cls(folder).is_unfinished(asked):
                        return cls(folder).begun(recipe, asked)
                    continue
                blocked = folder if folder.exists() else runs_folder
                raise FtError(blocked, "a folder to write to", "a file", "Move it or use --runs.") from None
            except NotADirectoryError:
                raise FtError(runs_folder, "a folder for runs", "a file", "Move it or use --runs.") from None
            except PermissionError:
                wanted = "a folder we may write"
                raise FtError(runs_folder, wanted, "no permission", "Use --runs FOLDER.") from None
            except OSError as error:
                if is_disk_full(error):
                    raise disk_full(runs_folder) from None
                raise FtError(folder, "a folder we may write", error.strerror, "Use --runs FOLDER.") from None
            return cls(folder).begun(recipe, asked)
        raise FtError(runs_folder / recipe.name, "a free name", "100,000 runs", "Choose another name.")

    def begun(self, recipe: Recipe, asked: Mapping[str, Any] | None) -> Run:
        """Lock it, and write its recipe: also that of a run that goes on, whose file may be damaged."""
        self.lock()
        try:
            filled = (asked or {}).get("filled", [])
            decided = f"; by base and text: {', '.join(filled)}" if filled else ""
            text = yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)
            self.write("recipe.yaml", f"# as resolved: every default filled in{decided}\n{text}")
            if "started_at" not in self.facts:
                decisive = decisive_sha256(recipe)
                self.record(schema=SCHEMA, started_at=now(), asked=asked, recipe_sha256=decisive)
        except BaseException:
            self.unlock()
            raise
        return self

    def lock(self) -> None:
        """Keep other processes from writing here, until `unlock` or the end of this one, however it ends.

        What a killed process left half-written is removed.

        raises   FtError where another process is at work
        """
        try:
            self._lock.acquire()
        except Timeout:
            fix = "Wait for it, or give this run another name."
            raise FtError(self.folder, "a run that no other process works on", "one at work", fix) from None
        remove_unfinished(self.folder)

    def unlock(self) -> None:
        self._lock.release()

    def is_unfinished(self, asked: Mapping[str, Any]) -> bool:
        """Whether this run was asked for in these words and has not come to its end."""
        if not (self.folder / "run.json").exists():  # stopped in its very first moment
            return {path.name for path in self.folder.glob("[!.]*")} <= {"recipe.yaml"}
        try:
            facts = self.facts
        except FtError:  # damaged: nothing of it can be trusted
            return False
        return facts.get("asked") == asked and not self.is_ended

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder for reading; a newer schema is refused."""
        folder = Path(path)
        if not (folder / "run.json").is_file():
            raise FtError(folder, "a run folder", "no run.json in it", "ft runs lists the runs.")
        run = cls(folder)
        if run.facts.get("schema", 0) > SCHEMA:
            found = f"schema {run.facts['schema']}"
            raise FtError(folder / "run.json", f"schema {SCHEMA} or older", found, "Upgrade ft-toolkit.")
        return run

    @property
    def facts(self) -> dict[str, Any]:
        """run.json as it stands; {} for a run that is being created.

        raises   FtError for a damaged one
        """
        path = self.folder / "run.json"
        return read_json(path, FACTS) if path.exists() else {}

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        raises   FtError for a missing or damaged one
        """
        path = self.folder / "recipe.yaml"
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            recipe = Recipe.model_validate(values)
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise FtError(path, "the recipe of this run", reason_of(error), RESTORE) from None
        # a file cut at a line's end is still a recipe, of defaults that nobody trained with
        if "training" in self.facts and (lost := Recipe.model_fields.keys() - values.keys()):
            raise FtError(path, "every section of the recipe", f"no {min(lost)}", RESTORE)
        if self.facts.get("recipe_sha256", decisive_sha256(recipe)) != decisive_sha256(recipe):
            wanted, found = "the corpus, adapter and training sections of this run", "other values"
            raise FtError(path, wanted, found, RESTORE)
        return recipe

    @property
    def comparison(self) -> dict[str, Any]:
        """comparison.json: the verdict, and the numbers that it rests on.

        raises   FtError for a missing or damaged one
        """
        path = self.folder / "comparison.json"
        found = read_json(path, {"verdict": dict, "protocol": dict, "corpora": list})
        if not isinstance(found.get("verdict", {}).get("headline"), str):
            raise FtError(path, "a verdict with its headline", "none", RESTORE)
        return found

    def require_whole(self) -> None:
        """Read every small file; documents.parquet is left to read_table, since pyarrow takes its time.

        raises   FtError naming the first one that is missing or damaged
        """
        if not (self.folder / "run.json").is_file():
            raise FtError(self.folder / "run.json", "a file", "nothing there", RESTORE)
        _ = self.facts, self.recipe
        if self.adapter_folder.exists():
            read_json(self.adapter_folder / "adapter_config.json", {"peft_type": str})
        if self.is_finished or (self.folder / "comparison.json").exists():
            _ = self.comparison

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "adapter"

    @property
    def trained_folder(self) -> Path:
        """What training made: adapter/, or model/ where the weights themselves were trained."""
        return self.folder / "model" if self.recipe.adapter.is_whole_model else self.adapter_folder

    def check_base(self, name: str, sha256s: Mapping[str, str]) -> None:
        """Refuse another base than that of training.

        sha256s   of the loaded one's weights ("base"), "config" and "tokenizer"
        raises    FtError where one of them differs
        """
        hashes = self.facts.get("sha256", {})
        if not hashes:
            found = "one that stopped before its training"
            raise FtError(self.folder, "a run that was trained", found, "Train again.")
        for what, sha256 in sha256s.items():
            if what == "config" and what not in hashes:  # a run from before configs were recorded
                continue
            if hashes.get(what) != sha256:
                wanted = f"the {what} of training (sha256 {str(hashes.get(what))[:12]})"
                raise FtError(f"{what} {name}", wanted, f"sha256 {sha256[:12]}", "Pin base: name@revision.")

    def trained_files(self) -> dict[str, str]:
        """sha256 of every file of adapter/ or model/ but hidden ones, by its path in the run folder."""
        paths = sorted(self.trained_folder.rglob("[!.]*"))
        return {p.relative_to(self.folder).as_posix(): file_sha256(p) for p in paths if p.is_file()}

    def check_trained(self, say: Callable[[str], object] = lambda words: None) -> None:
        """Call it before the weights are used: are they the ones that training saved?

        say      told where nobody can know, since the run is older than the hashes in run.json
        raises   IntegrityFailed naming a file that changed, is missing, or was put beside them and would be
                 read with them
        """
        recorded, found = self.facts.get("files"), self.trained_files()
        if not isinstance(recorded, dict):
            if found:
                words = "an older ft-toolkit recorded no hashes of what it trained: it cannot be checked"
                say(f"{self.folder}: {words}")
            return
        where = self.trained_folder.name
        for name, sha256 in sorted(recorded.items()):
            if found.get(name) != sha256:
                now = f"sha256 {found[name][:12]}" if name in found else "no such file"
                wanted = f"the file that was trained (sha256 {str(sha256)[:12]})"
                raise IntegrityFailed(self.folder / name, wanted, now, "Restore it, or train again.")
        for name in sorted(found.keys() - recorded.keys()):
            if name.endswith(LOADED):
                wanted = f"in {where}/ only what was trained"
                raise IntegrityFailed(self.folder / name, wanted, "a file that came later", "Move it away.")

    @property
    def split_sha256(self) -> str | None:
        """Over every document and its part: runs that share it share what they have and have not seen."""
        found: str | None = self.facts.get("sha256", {}).get("split")
        return found

    @property
    def is_ended(self) -> bool:
        """Whether the command that made it came to its end, with a verdict or, as asked, without."""
        return bool({"ended_at", "finished_at"} & self.facts.keys())

    @property
    def is_finished(self) -> bool:
        return "finished_at" in self.facts

    def record(self, **facts: object) -> None:
        """Add facts to run.json."""
        self.write_json("run.json", self.facts | facts)

    def write(self, name: str, text: str) -> Path:
        """Write one file atomically: a reader sees the old one or the new one, never a part."""
        path = self.folder / name
        with self.writing(path), written_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        return path

    def write_json(self, name: str, value: Mapping[str, object]) -> Path:
        """Write a JSON object with a checksum, which read_json checks."""
        return self.write(name, json.dumps(with_checksum(value), indent=2, ensure_ascii=False) + "\n")

    def write_table(self, name: str, rows: Iterable[Row]) -> Path:
        """Write rows of equal keys as Parquet, atomically; they are not held together."""
        path = self.folder / name
        with self.writing(path), written_whole(path) as unfinished:
            write_rows(unfinished, rows)
        return path

    def write_parquet(self, name: str, table: Any, **encoding: Any) -> Path:
        """Write an Arrow table as Parquet, atomically; encoding: see pyarrow.parquet.write_table."""
        import pyarrow.parquet

        path = self.folder / name
        with self.writing(path), written_whole(path) as unfinished:
            pyarrow.parquet.write_table(table, unfinished, write_page_checksum=True, **encoding)
        return path

    def read_table(self, name: str, *columns: str) -> list[Row]:
        """The rows of a table, with some of its columns or all; raises FtError for a damaged one."""
        path, digest = self.folder / name, self.recorded_sha256(name)
        rows: list[Row] = read_parquet(path, lambda table: table.to_pylist(), digest, columns or None)
        if rows and (missing := (set(columns) or COLUMNS.get(name, set())) - rows[0].keys()):
            raise FtError(path, f"a column {min(missing)}", f"only {', '.join(rows[0])}", RESTORE)
        return rows

    def write_column(self, name: str, column: str, values: NDArray[np.uint64]) -> Path:
        """Write one column of numbers as Parquet, atomically."""
        import pyarrow

        return self.write_parquet(name, pyarrow.table({column: values}))

    def read_column(self, name: str, column: str) -> NDArray[np.uint64]:
        """raises   FtError for a file that is not what write_column wrote"""
        path, digest = self.folder / name, self.recorded_sha256(name)
        values = read_parquet(path, lambda table: table[column].to_numpy(), digest)
        return np.asarray(values, dtype=np.uint64)

    def recorded_sha256(self, name: str) -> str | None:
        """Of a file of an artefact, as run.json lists it (stages.py); None for one that it does not list."""
        artefacts = self.facts.get("artefacts", {}).values()
        return next((a["files"][name] for a in artefacts if name in a["files"]), None)

    def append_metrics(self, line: Mapping[str, object]) -> None:
        """Add a line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with self.writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Forget the lines of metrics.jsonl behind a step, also a half-written one."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            self.write("metrics.jsonl", "".join(lines[:step]))

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Name the path when the disk is full, whichever library noticed."""
        try:
            yield
        except Exception as error:
            if is_disk_full(error):
                raise disk_full(path) from None
            raise


def list_runs(runs_folder: Path) -> list[Run]:
    """Every run below a folder, by name; damaged ones too."""
    found = {path.parent for name in ("run.json", "recipe.yaml") for path in runs_folder.glob(f"*/{name}")}
    return [Run(folder) for folder in sorted(found)]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
