"""The list of planted bugs keeps up with the sources; make mutants plants them, one at a time."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, REPOSITORY, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_finds_its_place_and_its_tests(mutant: Mutant) -> None:
    assert (REPOSITORY / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert all((REPOSITORY / test.partition("::")[0]).is_file() for test in mutant.tests)
