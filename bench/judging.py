"""How much sooner two processes judge a run than one: `python bench/judging.py runs/quickstart`.

One thread each, nothing kept of the base's scores, the two numbers of processes in turn; prints each time and
the medians. Timed is what follows loading: every text scored with both sides, the drift, and the comparison.
The scores of all rounds must be bitwise equal.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

PROCESSES = (1, 2)


def judge(folder: Path) -> None:
    """One process's part; the first one prints its seconds and a hash of the scores."""
    from ft_toolkit.runtime import prepare_process

    prepare_process()
    from ft_toolkit.judging.comparison import compare
    from ft_toolkit.judging.protocols import How, protocol_of
    from ft_toolkit.judging.scoring import Scorer
    from ft_toolkit.judging.unseen import recovered
    from ft_toolkit.progress import Screen
    from ft_toolkit.rescoring import score_run
    from ft_toolkit.run import Run
    from ft_toolkit.run_models import scoring_session, trained_pair

    screen = Screen(quiet=os.environ.get("RANK", "0") != "0")
    run, session = Run.open(folder), scoring_session("cpu", screen)
    pair, parts = trained_pair(run, session), recovered(run, screen)
    scorer = Scorer(pair, protocol_of(pair.base, run.recipe.judging, How()), session)
    session.accelerator.wait_for_everyone()
    started, worked = time.perf_counter(), time.process_time()
    scores = score_run(run, scorer, parts, How())
    if session.is_main:
        scored = time.perf_counter()
        compare(scores)
        digest = sha256()
        for corpus in scores.corpora:
            for document in corpus.documents:
                digest.update(document.base.nats.tobytes() + document.adapter.nats.tobytes())
        done = time.perf_counter()
        print(done - started, done - scored, time.process_time() - worked, digest.hexdigest()[:16])


def timed(folder: Path, processes: int) -> tuple[float, float, float, str]:
    """(seconds of judging, of which after scoring, the first process's own, hash of the scores)."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as cache:
        free.bind(("127.0.0.1", 0))
        shared = {"OMP_NUM_THREADS": "1", "FT_CACHE": cache, "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(free.getsockname()[1])
        free.close()
        if processes > 1:
            shared["WORLD_SIZE"] = str(processes)
        command = [sys.executable, __file__, "--part", str(folder)]
        workers = []
        for rank in map(str, range(processes)):
            ranks = {"RANK": rank, "LOCAL_RANK": rank} if processes > 1 else {}
            streams = {"stdout": subprocess.PIPE, "stderr": None if rank == "0" else subprocess.DEVNULL}
            workers.append(subprocess.Popen(command, env=os.environ | shared | ranks, text=True, **streams))  # type: ignore[call-overload]
        said = workers[0].communicate()[0]
        for worker in workers[1:]:
            worker.communicate()
    seconds, after, worked, digest = said.split()
    return float(seconds), float(after), float(worked), digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        judge(asked.run)
        return
    seconds: dict[int, list[tuple[float, float]]] = {processes: [] for processes in PROCESSES}
    digests = set()
    for _ in range(asked.rounds):
        for processes in PROCESSES:
            whole, after, worked, digest = timed(asked.run, processes)
            seconds[processes].append((whole, worked))
            digests.add(digest)
            parts = f"{after:.1f} after scoring; {worked:.1f} s of a core by the first process"
            print(f"{processes} processes  {whole:.1f} s, of which {parts}", flush=True)
    for what, column in (("wall", 0), ("of a core, by the first process", 1)):
        one, two = (statistics.median(each[column] for each in seconds[number]) for number in PROCESSES)
        print(f"medians {one:.1f} and {two:.1f} s {what}: {one / two:.2f} times as fast")
    print(f"scores {'bitwise equal' if len(digests) == 1 else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
