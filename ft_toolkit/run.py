"""The run folder: what one stage writes and every later one reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ft_toolkit.errors import FtError, disk_full, is_disk_full
from ft_toolkit.recipe import Recipe

SCHEMA = 1
Row = dict[str, Any]


class Run:
    """One run's folder. Files are written whole or not at all; a finished run is never written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, runs_folder: Path, recipe: Recipe) -> Run:
        """Make runs/<name>, or <name>-2 and so on: what an earlier run computed is never overwritten."""
        for number in range(1, 100_000):
            folder = runs_folder / (recipe.name if number == 1 else f"{recipe.name}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if folder.is_dir():
                    continue
                blocked = folder if folder.exists() else runs_folder
                raise FtError(blocked, "a folder to write to", "a file", "Move it or use --runs.") from None
            except NotADirectoryError:
                raise FtError(runs_folder, "a folder for runs", "a file", "Move it or use --runs.") from None
            except PermissionError:
                raise FtError(
                    runs_folder, "a folder we may write", "no permission", "Use --runs FOLDER."
                ) from None
            except OSError as error:
                raise disk_full(runs_folder) if is_disk_full(error) else error from None
            run = cls(folder)
            text = yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)
            run.write("recipe.yaml", "# as resolved: every default filled in\n" + text)
            run.record(schema=SCHEMA, started_at=now())
            return run
        raise FtError(runs_folder / recipe.name, "a free name", "100,000 runs", "Choose another name.")

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
        """run.json as it stands."""
        return dict(read_json(self.folder / "run.json")) if (self.folder / "run.json").is_file() else {}

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return Recipe.model_validate(
            yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8"))
        )

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "adapter"

    @property
    def trained_folder(self) -> Path:
        """What training made: adapter/, or model/ where the weights themselves were trained."""
        return self.folder / "model" if self.recipe.adapter.is_whole_model else self.adapter_folder

    def check_base(self, name: str, weights_sha256: str, tokenizer_sha256: str) -> None:
        """raises   FtError unless a loaded base is the one of training, weights and tokenizer"""
        hashes = self.facts.get("sha256", {})
        if not hashes:
            found = "one that stopped before its training"
            raise FtError(self.folder, "a run that was trained", found, "Train again.")
        for what, sha256 in (("base", weights_sha256), ("tokenizer", tokenizer_sha256)):
            if hashes.get(what) != sha256:
                wanted = f"the {what} of training (sha256 {str(hashes.get(what))[:12]})"
                raise FtError(f"{what} {name}", wanted, f"sha256 {sha256[:12]}", "Pin base: name@revision.")

    @property
    def is_finished(self) -> bool:
        return "finished_at" in self.facts

    def record(self, **facts: object) -> None:
        """Add facts to run.json."""
        self.write_json("run.json", self.facts | facts)

    def write(self, name: str, text: str) -> Path:
        """Write one file atomically: a reader sees the old one or the new one, never a part."""
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self.writing(path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        return path

    def write_json(self, name: str, value: Mapping[str, object]) -> Path:
        return self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, name: str, rows: Sequence[Row]) -> Path:
        """Write rows of equal keys as Parquet, atomically."""
        import pyarrow
        import pyarrow.parquet

        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self.writing(path):
            path.parent.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
            os.replace(temporary, path)
        return path

    def read_table(self, name: str) -> list[Row]:
        import pyarrow.parquet

        path = self.folder / name
        if not path.is_file():
            raise FtError(path, "a finished stage", "no such file", "The run stopped before it; train again.")
        return list(pyarrow.parquet.read_table(path).to_pylist())

    def append_metrics(self, line: Mapping[str, object]) -> None:
        """Add a line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with self.writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

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
    """Every run below a folder, by name."""
    return [Run(path.parent) for path in sorted(runs_folder.glob("*/run.json"))]


def read_json(path: Path) -> Any:
    """Read one of our JSON files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise FtError(
            path, "JSON that ft wrote", "something else", "Restore the file or train again."
        ) from None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
