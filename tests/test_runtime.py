"""The machine: threads, precision, signals."""

from __future__ import annotations

import ast
import errno
import gc
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

import ft_toolkit
from ft_toolkit import __version__
from ft_toolkit.errors import FtError, NumbersGoneWrong, Terminated, disk_full, one_line_errors
from ft_toolkit.runtime import (
    bfloat16_is_faster,
    last_words,
    prepare_process,
    prepare_torch,
    run_python,
    termination_as_exception,
    threads,
    versions,
)


def test_no_more_threads_are_used_than_the_process_may_have() -> None:
    assert 1 <= threads() <= (os.cpu_count() or 1)


def test_precision_is_read_from_the_hardware_so_that_it_is_the_same_every_day() -> None:
    assert len({bfloat16_is_faster("cpu") for _ in range(5)}) == 1
    assert bfloat16_is_faster("an unknown device") is False


def test_a_processor_that_torch_is_to_use_as_an_older_one_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert bfloat16_is_faster("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # ATEN_CPU_CAPABILITY=avx2
    assert not bfloat16_is_faster("cpu")


def test_versions_name_what_a_result_depends_on() -> None:
    found = versions()
    assert found["ft-toolkit"] == __version__
    assert {"python", "torch", "transformers", "peft", "tokenizers", "numpy"} <= set(found)


def test_preparing_twice_is_harmless_and_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    prepare_process()
    prepare_process()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_the_garbage_collector_rests_while_the_libraries_are_imported_and_no_longer() -> None:
    prepare_torch()
    before = gc.get_threshold()
    prepare_process()
    assert gc.isenabled() and gc.get_threshold()[0] > 100 * before[0]
    prepare_torch()
    assert gc.get_threshold() == before


def test_sigterm_unwinds_the_stack_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), termination_as_exception():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_a_thread_signals_are_left_to_whoever_owns_them() -> None:
    done = []

    def work() -> None:
        with termination_as_exception():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


MENDABLE = FtError("corpus notes", "text", "nothing", "Add some.")
NOT_FINITE = NumbersGoneWrong("training step 3", "a finite loss", "nan", "Fix it.")
FULL_DISK = OSError(errno.ENOSPC, "No space left on device", "run.log")


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (MENDABLE, 2, "corpus notes: expected text, found nothing. Add some."),
        (NOT_FINITE, 5, "training step 3: expected a finite loss, found nan. Fix it."),
        (FULL_DISK, 2, str(disk_full("run.log"))),
        (KeyboardInterrupt("interrupted at step 3"), 130, "interrupted at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
    ],
    ids=["mendable", "numbers", "full disk", "Ctrl-C with words", "Ctrl-C", "SIGTERM"],
)
def test_a_command_ends_in_one_line_and_its_exit_code(
    raised: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise raised
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{words}\n"


@pytest.mark.parametrize("bug", [KeyError("x"), PermissionError(13, "no"), ZeroDivisionError()])
def test_our_own_bugs_keep_their_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)), one_line_errors():
        raise bug


def test_a_long_fault_is_shortened_in_what_was_found_and_keeps_its_cure() -> None:
    found = "an answer of many words " * 40
    line = FtError("corpus notes.txt", "UTF-8", found, "Convert the file.").line()
    assert len(line) <= 200
    assert line.startswith("corpus notes.txt: expected UTF-8, found an answer")
    assert line.endswith(". Convert the file.")
    assert "\n" not in FtError("a", "b", "one\ntwo", "c").line()


@pytest.mark.parametrize("how", ["-c", "-m"])
def test_a_file_of_the_working_folder_is_no_module_of_a_process_that_we_start(
    how: str, poisoned_folder: Path
) -> None:
    arguments = {"-c": ["-c", "import random, torch; print(random.random() < 1)"], "-m": ["-m", "random"]}
    done = run_python(*arguments[how])
    assert done.returncode == 0, last_words(done)
    assert not (poisoned_folder / "executed").exists()


def test_one_room_alone_starts_processes() -> None:
    package = Path(ft_toolkit.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"subprocess", "multiprocessing"} & {name.partition(".")[0] for name in names}:
                found.add(path.relative_to(package).as_posix())
    assert found == {"runtime.py"}
