"""What is said is on the screen and in the log, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

from ft_toolkit.errors import FtError
from ft_toolkit.progress import Screen


def test_words_go_to_stderr_so_that_stdout_holds_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("documents: 30 train")
    assert capsys.readouterr() == ("", "documents: 30 train\n")


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
