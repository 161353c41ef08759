"""A stage makes its artefact once and then reads it; where an input changed it says which one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_toolkit.artefacts import read_json
from ft_toolkit.errors import FtError
from ft_toolkit.run import Run
from ft_toolkit.sections import Recipe
from ft_toolkit.stages import Stages, artefact

INPUTS = {"recipe's judging.general": None, "torch": "2.13.0"}


@pytest.fixture
def run(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path / "runs", tiny_recipe(), {})
    yield made
    made.unlock()


class Work:
    """Counts how often the artefact was made; its content is the number."""

    def __init__(self, run: Run) -> None:
        self.run, self.times, self.said = run, 0, list[str]()

    def stage(self, made_from: dict[str, Any], **how: Any) -> int:
        stages = Stages(self.run, self.said.append, **how)
        return stages.stage("integrity", made_from, self._make, self._read)

    def _make(self) -> int:
        self.times += 1
        self.run.write_json("integrity.json", {"times": self.times})
        return self.times

    def _read(self) -> int:
        return int(read_json(self.run.folder / "integrity.json")["times"])


def test_what_was_made_is_read_and_not_made_again(run: Run) -> None:
    work = Work(run)
    assert [work.stage(INPUTS) for _ in range(3)] == [1, 1, 1]
    assert work.said == []


def test_a_changed_input_is_refused_by_its_name_and_made_again_when_asked(run: Run) -> None:
    work = Work(run)
    work.stage(INPUTS)
    with pytest.raises(FtError, match=r"torch changed.*--restart"):
        work.stage(INPUTS | {"torch": "2.14.0"})
    assert work.stage(INPUTS | {"torch": "2.14.0"}, restart=True) == 2
    assert work.said == ["integrity: made again (torch changed)"]


@pytest.mark.parametrize("harm", ["truncated", "bit-flipped", "removed"])
def test_a_damaged_artefact_is_made_again_and_its_file_named(run: Run, harm: str) -> None:
    work = Work(run)
    work.stage(INPUTS)
    path = run.folder / "integrity.json"
    whole = path.read_bytes()
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(whole[:-3] if harm == "truncated" else bytes([whole[0] ^ 1]) + whole[1:])
    assert work.stage(INPUTS) == 2
    assert work.said == ["integrity: made again (integrity.json damaged or missing)"]


def test_an_artefact_is_listed_with_its_hashes_only_once_it_is_made(run: Run) -> None:
    work = Work(run)

    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Stages(run).stage("integrity", INPUTS, fail, fail)
    assert artefact(run, "integrity") is None
    work.stage(INPUTS)
    listed = artefact(Run.open(run.folder), "integrity")
    assert listed is not None and list(listed.files) == ["integrity.json"]
    assert listed.made_from == INPUTS


def test_a_donor_s_artefact_is_copied_where_it_was_made_from_the_same(
    run: Run, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    Work(run).stage(INPUTS)
    second = Run.create(tmp_path / "others", tiny_recipe(), {})
    work = Work(second)
    assert work.stage(INPUTS, donor=run) == 1 and work.times == 0
    assert work.said == [f"integrity: as in {run.folder}"]
    second.unlock()
    third = Run.create(tmp_path / "more", tiny_recipe(), {})
    work = Work(third)
    assert work.stage(INPUTS | {"torch": "2.14.0"}, donor=run) == 1 and work.times == 1
    assert "torch changed" in work.said[0]
    third.unlock()
