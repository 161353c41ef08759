"""What is said is on the screen and in the log, word for word."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from ft_toolkit import progress
from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen
from ft_toolkit.progress_line import BLOCKS, Figures, Pace, clock, count, stage_line


def test_results_go_to_stdout_and_notes_to_stderr_and_both_to_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    screen.say("documents: 30 train")
    screen.log_to(tmp_path / "run.log")
    screen.result("5 % lower", style="bold")
    assert capsys.readouterr() == ("5 % lower\n", "documents: 30 train\n")
    assert (tmp_path / "run.log").read_text() == "documents: 30 train\n5 % lower\n"


@pytest.mark.parametrize(("variable", "is_coloured"), [("NO_COLOR", False), ("FORCE_COLOR", True)])
def test_a_result_in_a_pipe_is_plain_unless_colour_is_forced(
    variable: str,
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    Screen().result("5 % lower", style="bold red")
    assert ("\x1b[" in capsys.readouterr().out) is is_coloured


def test_a_result_that_the_pipe_cannot_encode_is_still_printed() -> None:
    code = "from ft_toolkit.runtime import prepare_process; from ft_toolkit.progress import Screen\n"
    code += "prepare_process(); Screen().result('change \u22125 %')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "change \\u22125 %\n")


def test_the_log_begins_with_what_was_said_before_it_had_a_place(tmp_path: Path) -> None:
    screen = Screen(quiet=True)
    screen.say("first")
    screen.log_to(tmp_path / "run.log")
    screen.say("second")
    assert (tmp_path / "run.log").read_text() == "first\nsecond\n"


def test_a_quiet_screen_says_nothing_and_logs_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(quiet=True)
    screen.log_to(tmp_path / "run.log")
    screen.say("a verdict", style="bold")
    with screen.stage("training", 2) as advance:
        advance(2, "loss 1.000")
    assert capsys.readouterr() == ("", "")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert lines[0] == "a verdict"
    assert lines[1].startswith("training 2/2  loss 1.000")


@pytest.mark.parametrize(
    "words", ["notes/[a-z]*.txt", "notes[/old].txt", "[bold]x[/bold]", "hf:owner:heart:data", "x" * 300]
)
def test_names_of_files_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    screen = Screen()
    screen.log_to(tmp_path / "run.log")
    screen.say(words)
    table = Table(box=None)
    table.add_column("")
    table.add_row(words)
    screen.say(table)
    said = capsys.readouterr().err
    assert said.startswith(f"{words}\n")
    assert (tmp_path / "run.log").read_text().startswith(f"{words}\n")
    assert words[:60] in said.removeprefix(f"{words}\n")


def test_the_log_has_no_colour_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen()
    screen.log_to(tmp_path / "run.log")
    screen.say("a verdict", style="bold")
    assert (tmp_path / "run.log").read_text() == "a verdict\n"


def test_a_stage_ends_with_a_line_of_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().stage("held-out", 4) as advance:
        advance(3, "loss 2.000")
        advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("held-out 4/4  loss 2.000")
    assert line.endswith(" s")


def test_a_stage_that_fails_does_not_claim_to_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), Screen().stage("held-out", 4):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_a_log_on_a_full_disk_is_named() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    screen = Screen(quiet=True)
    screen.say("x" * 100_000)
    with pytest.raises(FtError, match="/dev/full: expected free disk space"):
        screen.log_to(full)
    with pytest.raises(FtError, match="/dev/full: expected free disk space"):
        screen.say("more")


def test_a_stage_whose_work_was_kept_ends_full_and_never_overfull(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen().stage("held-out", 40, ends_full=True) as advance:
        advance(20)
    with Screen().stage("general", 40) as advance:
        advance(30)
        advance(30)
    half, over = capsys.readouterr().err.splitlines()
    assert half.startswith("held-out 40/40")
    assert over.startswith("general 40/40")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_prose_on_a_narrow_terminal_is_broken_between_words_and_paths_are_not(
    term: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "60")
    screen, words = Screen(), "The interval covers the choice of documents, not the training seed. " * 2
    screen.result(words)
    screen.say(words)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert " ".join(line.strip() for line in lines) == words.strip() and max(map(len, lines)) <= 60
    assert said.err == f"{words}\n"


LOSSES = tuple(5 - step / 10 for step in range(30))
FIGURES = Figures(
    "loss 3.123  validation 3.456  12345 tokens/s  1.2 GB",
    ["loss 3.12", "best 3.46", "12k tok/s", "1.2 GB"],
    LOSSES,
)


def drawn(columns: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> list[str]:
    """Every line that a training shows on such a terminal, and the one that stays."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Screen().stage("training", 2000, done=1000) as advance:
        time.sleep(0.01)
        advance(234, FIGURES)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue().decode(encoding))
    return [line.rstrip() for line in re.split(r"[\r\n]", text) if "1234/2000" in line]


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_the_line_of_a_training_fits_its_terminal_and_says_what_matters(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    *moving, last = drawn(columns, monkeypatch)
    assert moving and max(map(len, [*moving, last])) <= columns
    for line in (moving[-1], last):
        (curve,) = re.findall(f"[{BLOCKS}]+", line)
        assert (
            len(curve) >= 4 and curve[0] == BLOCKS[-1] and curve[-1] == BLOCKS[0]
        )  # the newest is the lowest
        assert ("1.2 GB" in line) is (columns > 60)
        assert ("━" in line) is (columns == 140)
        assert all(words in line for words in ("loss 3.12", "best 3.46", "12k tok/s"))
    assert moving[-1].endswith(" 0:01") and last.endswith(" s")  # the pace counts from step 1000


def test_a_terminal_without_blocks_gets_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 140):
        for line in drawn(columns, monkeypatch, "ascii"):
            assert line.isascii() and re.search(r"@+[#*+=.-]*_+ ", line) and len(line) <= columns


@pytest.mark.parametrize("columns", range(10, 130, 7))
@pytest.mark.parametrize(
    "figures", [FIGURES, "uploading adapter_model.safetensors, 12 s", "", Figures("a", ["loss 1.00"], (1.0,))]
)
def test_no_line_is_wider_than_its_terminal(columns: int, figures: str | Figures) -> None:
    pace = Pace("training", 2000, 0)
    pace.advance(7, figures)
    assert len(stage_line(pace, "1:02:03", columns)) <= columns


def test_a_terminal_that_cannot_draw_over_a_line_gets_plain_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with Screen().stage("training", 3) as advance:
        advance(1, FIGURES)
    moving, last = capsys.readouterr().err.splitlines()
    assert moving.startswith(f"training 1/3  {FIGURES.words}  ") and moving.endswith(" s left")
    assert last.startswith(f"training 1/3  {FIGURES.words}  ")


def test_the_time_left_is_what_the_pace_and_the_budget_leave() -> None:
    pace = Pace("training", 10, 0)
    assert pace.left_seconds is None
    pace.begun_at -= 5
    pace.advance(5, "")
    assert pace.left_seconds == pytest.approx(5, abs=0.1)
    pace.advance(0, Figures("", (), left_seconds=2))
    assert pace.left_seconds == 2
    pace.advance(-5, "")  # a training that begins again at a lower rate
    assert pace.left_seconds is None
    assert [clock(each) for each in (0, 8.2, 60, 3600, 36_005)] == [
        "0:00",
        "0:09",
        "1:00",
        "1:00:00",
        "10:00:05",
    ]
    assert [count(each) for each in (0, 949, 1234, 12_345, 1.26e6)] == ["0", "949", "1.2k", "12k", "1.3M"]
