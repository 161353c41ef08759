"""A fine-tuning that is stopped again and again, at random moments, until it comes to its end; and once more.

    python tests/torture/lives.py < tortures.json

Each torture trains once undisturbed, then is stopped as often as asked, in any phase, and carried on by the
same command or by ft resume. Prints a line of JSON for each: how often it was stopped in which phase, and
what of the runs that came to their end is not, byte for byte, the undisturbed one's. See test_stops.py.
"""

# ruff: noqa: E402  # the environment and the process are prepared before torch is imported

from __future__ import annotations

import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from ft_toolkit.runtime import prepare_process, prepare_torch

prepare_process()
prepare_torch()

import pandas  # noqa: F401  # pyarrow imports it late; here it is imported once for all lives
import yaml
from phases import Death, Moments, Watched
from unbroken import contents, scores_in_this_process

import ft_toolkit.rescoring  # noqa: F401
from ft_toolkit import cli, finetune  # noqa: F401
from ft_toolkit.errors import FtError
from ft_toolkit.judging import integrity
from ft_toolkit.run import Run
from ft_toolkit.runtime import run_python
from ft_toolkit.sections import Recipe
from ft_toolkit.training import state
from ft_toolkit.training.state import Checkpoints

NAME = "tortured"
LONGEST_LIFE_SECONDS = 240.0
ENDINGS = {0, 130, 143, -signal.SIGINT, -signal.SIGTERM}  # of a life that was asked to stop
KILL = "kill"


@dataclass(frozen=True)
class Torture:
    """What is trained, and how it is stopped.

    values     the recipe, but for its name
    stops      how often
    by         kill (SIGKILL), signals (SIGINT or SIGTERM, once or twice), full-disk (of `disk`)
    processes  as accelerate launch would start them
    real       the undisturbed run is made by ft in a process of its own, with another hash seed
    """

    values: dict[str, Any]
    place: Path
    stops: int
    seed: int = 7
    by: str = KILL
    processes: int = 1
    real: bool = False
    disk: Path | None = None


@dataclass
class Found:
    """What came out of a torture."""

    stopped: Counter[str] = field(default_factory=Counter)  # by phase
    ended: int = 0  # runs that came to their end
    different: set[str] = field(default_factory=set)  # files that are not the undisturbed run's
    faults: list[str] = field(default_factory=list)
    lives: int = 0


@dataclass
class Life:
    """Processes forked from this one, which has imported everything."""

    watched: list[Watched]
    pids: list[int]
    clock: int  # readable once the appointed phase is entered; closed when the victim is gone
    said: Path
    codes: dict[int, int] = field(default_factory=dict)

    def wait(self, pid: int, seconds: float) -> bool:
        """Whether it has ended within so many seconds; its exit code is kept, negative for a signal."""
        until = time.monotonic() + seconds
        while pid not in self.codes:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.002)
        return True

    def send(self, pid: int, number: int) -> None:
        if not self.wait(pid, 0):
            os.kill(pid, number)


def born(torture: Torture, runs: Path, death: Death | None, victim: int, *, resume: bool) -> Life:
    """Start the processes of a life; `death` is appointed to one of them."""
    ear, mouth = os.pipe()
    port = _free_port()
    said = torture.place / "said.txt"
    said.write_bytes(b"")
    life = Life([Watched() for _ in range(torture.processes)], [], ear, said)
    for rank, watched in enumerate(life.watched):
        pid = os.fork()
        if pid:
            life.pids.append(pid)
            continue
        os.close(ear)
        if rank != victim:
            os.close(mouth)
        if torture.processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": torture.processes, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
        with watched.followed(death if rank == victim else None, lambda: os.write(mouth, b"!")):
            code = _lived(torture, runs, said, resume)
        if death is None and rank == 0:
            _keep_moments(torture, watched.moments)
        os._exit(code)
    os.close(mouth)
    return life


def _lived(torture: Torture, runs: Path, said: Path, resume: bool) -> int:
    """ft finetune or ft resume in this process; its exit code."""
    with said.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["FT_CACHE"] = str(torture.place / "cache" / runs.name)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        # a full disk is met where there is one, and a gate needs no other imports
        with (
            patch.object(state, "SPARE_BYTES", 0),
            patch.object(integrity, "_in_a_fresh_process", scores_in_this_process),
            cli.one_line_errors(),
            cli.termination_as_exception(),
        ):
            if resume:
                cli.resume(runs / NAME)
            else:
                cli.finetune(str(torture.place / "recipe.yaml"), None, runs)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def undisturbed(torture: Torture) -> tuple[Path, Moments]:
    """Train once in peace: the run, and its moments, in which the others are stopped."""
    runs = torture.place / "whole"
    life = born(torture, runs, None, 0, resume=False)
    codes = [life.wait(pid, LONGEST_LIFE_SECONDS) and life.codes[pid] for pid in life.pids]
    os.close(life.clock)
    assert set(codes) == {0}, life.said.read_text()
    moments = Moments()
    for name, numbers in json.loads((torture.place / "moments.json").read_text()).items():
        setattr(moments, name, Counter(numbers))
    if torture.real:
        runs = torture.place / "real"
        cache = {"FT_CACHE": str(torture.place / "cache" / "real"), "PYTHONHASHSEED": "5"}
        recipe = str(torture.place / "recipe.yaml")
        done = run_python("-m", "ft_toolkit", "finetune", recipe, "--runs", str(runs), environment=cache)
        assert done.returncode == 0, done.stderr
    return runs / NAME, moments


def _keep_moments(torture: Torture, moments: Moments) -> None:
    (torture.place / "moments.json").write_text(json.dumps(vars(moments)))


def stopped_and_carried_on(torture: Torture) -> Found:
    """Stop a run as often as asked, carrying it on each time; and compare each one that comes to its end."""
    draw, found = random.Random(torture.seed), Found()
    torture.place.mkdir(parents=True)
    recipe = Recipe.model_validate({"name": NAME, **torture.values})
    (torture.place / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    whole, moments = undisturbed(torture)
    expected = contents(whole)
    runs = (torture.disk or torture.place) / "stopped"
    step = 0
    for _ in range(20 * torture.stops):
        is_last = found.stopped.total() >= torture.stops
        death = None if is_last else moments.draw(draw, _signals(torture, draw))
        is_there = (runs / NAME / "run.json").is_file()
        with _little_room(torture, draw, is_last=is_last):
            _live(torture, runs, death, found, draw, resume=is_there and draw.random() < 0.5)
        run = Run(runs / NAME)
        if "ended_at" not in _facts(run):
            step = _newest_step(run, step, found)
            continue
        found.ended, step = found.ended + 1, 0
        now = contents(run.folder)
        found.different |= {name for name in {**expected, **now} if expected.get(name) != now.get(name)}
        found.faults += [f"a second run: {path}" for path in runs.glob(f"{NAME}-*")]
        if found.stopped.total() >= torture.stops:
            return found
        runs = _next(runs, torture.disk)
    found.faults.append(f"only {found.stopped.total()} stops in {found.lives} lives")
    return found


def _live(
    torture: Torture, runs: Path, death: Death | None, found: Found, draw: random.Random, *, resume: bool
) -> None:
    """One life; where it was stopped is counted in `found`."""
    victim = draw.randrange(torture.processes)
    life = born(torture, runs, death if torture.by != "full-disk" else None, victim, resume=resume)
    found.lives += 1
    pid = life.pids[victim]
    # the end of the clock's pipe is the end of the victim
    ready, _, _ = select.select([life.clock], [], [], LONGEST_LIFE_SECONDS)
    if ready and os.read(life.clock, 1) and death:
        time.sleep(death.seconds)
        for number in death.signals:
            life.send(pid, number)
            time.sleep(draw.uniform(0, 0.05))
    os.close(life.clock)
    if not life.wait(pid, LONGEST_LIFE_SECONDS):
        found.faults.append(f"a life hung in {life.watched[victim].phase}")
    others = [other for other in life.pids if other != pid]
    for other in others:  # a launcher ends the others of one that was killed, a moment later
        life.wait(other, draw.uniform(0, 0.3) if life.codes.get(pid) else LONGEST_LIFE_SECONDS)
    for each in life.pids:
        life.send(each, signal.SIGKILL)
        life.wait(each, LONGEST_LIFE_SECONDS)
    _judge(torture, life, victim, found)


def _judge(torture: Torture, life: Life, victim: int, found: Found) -> None:
    """Count a stop by its phase; anything but what was asked for is a fault."""
    code, phase = life.codes[life.pids[victim]], life.watched[victim].phase
    said = life.said.read_text(errors="replace")
    fine = {KILL: {0, -signal.SIGKILL}, "signals": ENDINGS, "full-disk": {0, FtError.exit_code}}[torture.by]
    if code not in fine or ("Traceback" in said and torture.processes == 1):
        found.faults.append(f"in {phase}: exit code {code}: {said[-1500:]}")
    if code == FtError.exit_code and "expected free disk space, found none left" not in said:
        found.faults.append(f"in {phase}: {said[-500:]}")
    if code:
        found.stopped[phase] += 1


def _signals(torture: Torture, draw: random.Random) -> tuple[int, ...]:
    if torture.by == KILL:
        return (signal.SIGKILL,)
    number = draw.choice([signal.SIGINT, signal.SIGTERM])
    return (number,) * draw.choice([1, 2])


@contextmanager
def _little_room(torture: Torture, draw: random.Random, *, is_last: bool) -> Iterator[None]:
    """Within the block the small disk has little room left, unless this is the last life."""
    if torture.disk is None or is_last:
        yield
        return
    ballast, disk = torture.disk / "ballast", os.statvfs(torture.disk)
    room = int(draw.uniform(0, 1) ** 2 * 600_000)  # little ones more often
    ballast.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - room)))
    try:
        yield
    finally:
        ballast.unlink()


def _facts(run: Run) -> dict[str, Any]:
    return run.facts if run.folder.is_dir() else {}


def _newest_step(run: Run, before: int, found: Found) -> int:
    """Of the newest valid checkpoint: no stop may lose one."""
    now = Checkpoints(run.folder / "checkpoints", {}).newest_step()
    if now < before and "weights" not in _facts(run).get("artefacts", {}):
        found.faults.append(f"the checkpoint of step {before} was lost; now there is that of step {now}")
    return now


def _next(runs: Path, disk: Path | None) -> Path:
    """Another place for the next run; on a small disk the old one goes."""
    if disk is not None:
        shutil.rmtree(runs)
    return runs.with_name(f"stopped-{int(runs.name.partition('-')[2] or 1) + 1}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main() -> None:
    gc.collect()
    gc.freeze()  # else each life's own collections walk through all that was imported
    for asked in json.load(sys.stdin):
        torture = Torture(**{k: Path(v) if k in ("place", "disk") and v else v for k, v in asked.items()})
        started = time.monotonic()
        found = stopped_and_carried_on(torture)
        shown = vars(found) | {"different": sorted(found.different), "seconds": time.monotonic() - started}
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
