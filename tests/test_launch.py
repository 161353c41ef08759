"""Several processes of one machine, started by one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ft_toolkit.errors import FtError
from ft_toolkit.launch import launch
from ft_toolkit.training.accelerator import lost_process_told, make_accelerator

ROOT = Path(__file__).parent.parent
LAUNCH = "import sys; from ft_toolkit.launch import launch; sys.exit(launch(2, sys.argv[1:]))"


def launched(*arguments: str, path: str = "") -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join([path, environment.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_the_first_process_alone_speaks() -> None:
    done = launched("--version")
    said, noise = done.communicate(timeout=120)
    assert (done.returncode, said.count("ft-toolkit"), noise) == (0, 1, "")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_a_mistake_is_told_once_and_keeps_its_exit_code() -> None:
    command = [sys.executable, "-m", "ft_toolkit", "finetune", "no-such-recipe", "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "no-such-recipe" in done.stderr


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_a_lost_process_stops_the_others_and_is_named(tmp_path: Path) -> None:
    # stands in for ft_toolkit: the second process is killed while the first one waits for it
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, time\n"
        "if os.environ.get('RANK') == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ.get('RANK') == '0': time.sleep(60)\n"
    )
    started, done = time.monotonic(), launched("--version", path=str(tmp_path))
    _, said = done.communicate(timeout=120)
    assert done.returncode == 1
    assert said.startswith(
        "process 2 of 2 ended with SIGKILL; the others were stopped. The same command goes on"
    )
    assert len(said.splitlines()) == 1
    assert time.monotonic() - started < 60


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_ctrl_c_reaches_every_process(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "if 'RANK' in os.environ: (here / os.environ['RANK']).touch(); time.sleep(100)\n"
    )
    done = launched("--version", path=str(tmp_path))
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert done.poll() is None
        time.sleep(0.1)
    done.send_signal(signal.SIGINT)
    started = time.monotonic()
    done.communicate(timeout=60)
    assert done.returncode not in (0, None)
    assert time.monotonic() - started < 60


def test_more_processes_than_devices_are_refused() -> None:
    with pytest.raises(FtError, match="--processes: expected 1 to "):
        launch(10_000, ["--version"])


def test_only_a_lost_connection_is_a_lost_process() -> None:
    with pytest.raises(FtError, match="same command goes on"), lost_process_told():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="shapes"), lost_process_told():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_an_engine_that_divides_the_weights_is_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(FtError, match="expected DDP: whole weights in every process"):
        make_accelerator("cpu")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "launch").iterdir()), ids=lambda path: path.name)
def test_the_launch_files_are_whole_shell_scripts(path: Path) -> None:
    assert subprocess.run(["sh", "-n", str(path)]).returncode == 0
    assert "Not tried on" in path.read_text() or path.name == "one-machine.sh"
