"""PDF and reStructuredText have limits of time and memory, and no file harms the one after it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_documents import REFUSED, SLOW, content_of_gigabytes

from ft_toolkit.errors import LINE_CHARACTERS, Unreadable
from ft_toolkit.sections import Corpus
from ft_toolkit.text import reader_process
from ft_toolkit.text.corpus import read_corpora, read_source

MOST_SECONDS = 5
ENDLESS = ("b.rst", SLOW["markup that never ends"][1])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that a test can wait for."""
    monkeypatch.setattr(reader_process, "SECONDS", 0.3)
    monkeypatch.setattr(reader_process, "SECONDS_A_MEGABYTE", 0.0)


@pytest.fixture
def fresh() -> Iterator[None]:
    reader_process._PROCESS.close()
    yield
    reader_process._PROCESS.close()


def refusal(path: Path) -> str:
    with pytest.raises(Unreadable) as refused:
        read_source(str(path))
    line = str(refused.value)
    assert "\n" not in line and len(line) <= LINE_CHARACTERS
    return line


def process_id() -> int:
    process = reader_process._PROCESS._process
    assert process is not None
    return process.pid


@pytest.mark.parametrize("kind", SLOW)
def test_a_file_that_would_take_minutes_is_named_in_one_line(
    tmp_path: Path, impatient: None, kind: str
) -> None:
    ending, make = SLOW[kind]
    (tmp_path / f"hostile{ending}").write_bytes(make())
    assert f"hostile{ending}: expected " in (line := refusal(tmp_path))
    assert "that is read in 0 s, found more. Convert it to .txt, or use --skip-unreadable." in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forms in forms"])
def test_by_default_a_small_file_that_would_take_minutes_is_named_soon(tmp_path: Path, kind: str) -> None:
    ending, make = SLOW[kind]
    (tmp_path / f"hostile{ending}").write_bytes(make())
    started = time.monotonic()
    assert "that is read in 3 s, found more" in refusal(tmp_path)
    assert time.monotonic() - started < MOST_SECONDS


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_is_nested_without_end_is_named(tmp_path: Path, kind: str) -> None:
    ending, make = REFUSED[kind]
    (tmp_path / f"hostile{ending}").write_bytes(make())
    assert f"hostile{ending}: expected " in refusal(tmp_path)


def test_a_pdf_that_unpacks_to_gigabytes_is_named_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_process, "MEMORY_BYTES", 2**28)
    monkeypatch.setattr(reader_process, "MEMORY_A_BYTE", 0)
    (tmp_path / "a.pdf").write_bytes(content_of_gigabytes())
    assert "a.pdf: expected a PDF that fits into memory, found one that does not" in refusal(tmp_path)
    (tmp_path / "a.pdf").unlink()
    (tmp_path / "b.rst").write_bytes(b"*Salt*")  # what the PDF took is not missing now
    assert read_source(str(tmp_path)).documents[0].text == "Salt"


def test_a_file_that_takes_too_long_is_counted_with_the_unreadable_ones(
    tmp_path: Path, impatient: None
) -> None:
    (tmp_path / "a.rst").write_bytes(b"*Salt*")
    (tmp_path / ENDLESS[0]).write_bytes(ENDLESS[1]())
    (tmp_path / "c.rst").write_bytes(b"*Oil*")
    reading = read_corpora(Corpus(source=str(tmp_path), skip_unreadable=True))
    assert [document.text for document in reading.documents] == ["Salt", "Oil"]
    (line,) = reading.unreadable
    assert "b.rst: expected reStructuredText that is read in 0 s" in line


def test_many_files_are_read_by_one_process(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.rst").write_text(f"*Salt* {number}\n")
    read_source(str(tmp_path / "0.rst"))
    first = process_id()
    assert [d.text for d in read_source(str(tmp_path)).documents] == [f"Salt {n}" for n in range(5)]
    assert process_id() == first


def test_a_process_that_waits_in_vain_ends_and_the_next_file_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(reader_process, "IDLE_SECONDS", 0.05)
    (tmp_path / "a.rst").write_bytes(b"*Salt*")
    assert read_source(str(tmp_path)).documents[0].text == "Salt"
    first = reader_process._PROCESS._process
    assert first is not None
    assert first.wait(timeout=10) == 0
    assert read_source(str(tmp_path)).documents[0].text == "Salt"
    assert process_id() != first.pid


def test_after_an_interruption_the_next_file_gets_its_own_text(tmp_path: Path) -> None:
    (tmp_path / ENDLESS[0]).write_bytes(ENDLESS[1]())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    main = threading.main_thread().ident
    assert main is not None
    interruption = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))
    interruption.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            read_source(str(tmp_path / ENDLESS[0]))
    finally:
        interruption.cancel()
        signal.signal(signal.SIGINT, before)
    (tmp_path / "c.rst").write_bytes(b"*Oil*")
    assert read_source(str(tmp_path / "c.rst")).documents[0].text == "Oil"


def test_the_limit_of_time_grows_with_the_file() -> None:
    assert reader_process.seconds_for(1000) < MOST_SECONDS
    assert reader_process.seconds_for(10**7) > 10 * 3  # ordinary files take up to three seconds a megabyte
