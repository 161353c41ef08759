"""Two processes that score together: the scores of one, to the bit, and nothing lost when one is."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from two_scorers import recipe

from ft_toolkit.errors import FtError, NumbersGoneWrong
from ft_toolkit.finetune import finetune
from ft_toolkit.judging.saving import save
from ft_toolkit.judging.share import Share, dealt
from ft_toolkit.judging.totals import Scored
from ft_toolkit.progress import Screen
from ft_toolkit.rescoring import compare_runs
from ft_toolkit.run import Run, read_json
from ft_toolkit.session import Options

QUIET = Screen(quiet=True)
FAMILIES = ("gpt2", "bert")


@pytest.fixture(scope="module")
def left_by_two(
    checkpoints: dict[str, Path], short_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of two_scorers.py's runs, and how its first process ended."""
    runs = tmp_path_factory.mktemp("two") / "runs"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("two_scorers.py")
    command = [sys.executable, script, runs, short_corpus, *(checkpoints[family] for family in FAMILIES)]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common["FT_CACHE"] = str(runs.with_name("cache"))
    first, second = (
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    try:
        said, noise = first.communicate(timeout=280)
        second.communicate(timeout=60)
    finally:
        first.kill()
        second.kill()
    assert (runs / "lost").is_dir(), noise[-3000:]
    return runs, subprocess.CompletedProcess(command, first.returncode, said, noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_verdict_of_two_processes_is_bitwise_that_of_one(
    left_by_two: tuple[Path, object], family: str, tmp_path: Path
) -> None:
    run, of_one = Run.open(left_by_two[0] / f"tiny-{family}"), []
    compare_runs([run], [], screen=QUIET, keep=lambda *judged: of_one.append(judged))
    save(tmp_path / "one", of_one)
    for name in ("comparison.json", "scores/documents.parquet", "scores/tokens.parquet"):
        assert (run.folder / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_two_processes_read_kept_scores_of_the_base_as_one_does(left_by_two: tuple[Path, object]) -> None:
    first, second = (
        read_json(left_by_two[0] / name / "comparison.json") for name in ("tiny-gpt2", "tiny-gpt2-2")
    )
    assert first["corpora"] == second["corpora"]


def test_a_process_that_is_lost_while_judging_costs_a_line_and_one_process_goes_on(
    left_by_two: tuple[Path, subprocess.CompletedProcess[str]],
    checkpoints: dict[str, Path],
    short_corpus: Path,
) -> None:
    runs, ended = left_by_two
    line = ended.stdout.splitlines()[-1]
    assert line.startswith("ft finetune: expected all of its processes, found one that ended.")
    assert ended.returncode == FtError.exit_code
    unfinished, asked = Run.open(runs / "lost"), recipe("lost", checkpoints[FAMILIES[0]], short_corpus)
    assert not unfinished.is_finished
    weights = (unfinished.adapter_folder / "adapter_model.safetensors").read_bytes()
    found = finetune(asked, runs, Options(gate=False, folder=unfinished.folder), QUIET)
    assert (found.adapter_folder / "adapter_model.safetensors").read_bytes() == weights
    undisturbed = read_json(runs / f"tiny-{FAMILIES[0]}" / "comparison.json")
    assert read_json(found.folder / "comparison.json")["corpora"] == undisturbed["corpora"]


def test_every_process_gets_about_as_many_tokens_and_no_batch_twice() -> None:
    batches = [(100, ["a"] * 5), (50, ["b"] * 9), (30, ["c"] * 10), (20, ["d"] * 7), (7, ["e"])]  # 500 … 7
    first, second = dealt(batches, 2)
    assert first == [batches[0], batches[3], batches[4]]  # 500 + 140 + 7
    assert second == [batches[1], batches[2]]  # 450 + 300
    assert dealt(batches, 1) == [batches]
    assert dealt(batches[:1], 3) == [batches[:1], [], []]


def test_the_first_process_says_what_another_one_cannot_score(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = NumbersGoneWrong("document a", "finite scores", "NaN", "The weights are damaged.")
    other = [pickle.loads(pickle.dumps(wrong))]  # as it comes from another process
    assert str(other[0]) == str(wrong)
    monkeypatch.setattr("ft_toolkit.judging.share.gather_object", lambda mine: mine + other)
    with pytest.raises(NumbersGoneWrong, match="document a"):
        Share(0, 2).read([(1, [0])], [Scored(np.zeros(1), np.ones(1, dtype=np.bool_))], lambda width, rows: 1)
