"""How fast adapters are trained, beside the peers, in one run: make bench.

    python bench/training.py [--quick] [--only CASE] [--peers PYTHON]

Models of real shapes with random weights, each training in a process of its own, sides in turn; medians,
ratios, the share of the machine's own matrix product, and peak memory. TRL has an environment of its own:
python -m venv peers && peers/bin/pip install -r bench/peers.txt, then --peers peers/bin/python.

With ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 in the environment every side computes as on a processor
with AVX2 alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from history import Sides, append
from scoring import matrix_ceiling
from training_cases import ALPHA, CASES, RANK, Case, figures
from transformers import AutoTokenizer

from ft_toolkit import shipped
from ft_toolkit.models.language_model import for_scoring, language_model_of
from ft_toolkit.models.model_pair import new_pair
from ft_toolkit.progress import Screen
from ft_toolkit.runtime import bfloat16_is_faster, prepare_process, prepare_torch
from ft_toolkit.sections import Adapter, Training
from ft_toolkit.session import Session
from ft_toolkit.text.blocks import Encoded
from ft_toolkit.text.documents import TextDocument
from ft_toolkit.text.packing import pack
from ft_toolkit.text.rows import Rows
from ft_toolkit.training.accelerator import make_accelerator
from ft_toolkit.training.loop import Journal, TrainingJob, train
from ft_toolkit.training.optimizers import make_optimizers

HERE = Path(__file__).parent
STEPS = {"gpt2": 7, "bert": 7, "ragged": 9, "starter": 7}  # the first of each warms up and is not counted
OURS = "ft_toolkit"


def rows_of(case: Case, steps: int) -> Rows:
    """The documents as training lays them out: full rows as they are, ragged ones packed."""
    documents = [
        Encoded(
            TextDocument("bench", n, f"{n}"),
            ids.astype(np.int32),
            np.ones(len(ids), bool),
            np.arange(len(ids), dtype=np.int32),
        )
        for n, ids in enumerate(case.documents(steps))
    ]
    objective = "causal" if case.objective == "causal" else "masked"
    return pack(documents, objective, None, None, case.row_tokens)


def ours(case: Case, steps: int) -> None:
    """Print the figures of one training by the toolkit's own loop as JSON."""
    rows = rows_of(case, steps)
    tokenizer = AutoTokenizer.from_pretrained(
        shipped.starter("gpt2" if case.objective == "causal" else "bert")
    )
    base = language_model_of("bench", for_scoring(case.model), tokenizer)
    plan = Adapter(rank=RANK, alpha=ALPHA)
    model = new_pair(base, plan, 0).tuned
    told = Training(
        epochs=1,
        block_tokens=case.row_tokens,
        batch_tokens=case.rows * case.row_tokens,
        learning_rate=2e-4,
        patience=100,
    )
    job = TrainingJob(model, rows, told, make_optimizers(model.model, model.family, plan), lambda: 0.0)
    moments: list[float] = []
    tokens: list[object] = []

    def record(line: dict[str, object]) -> None:
        moments.append(time.perf_counter())
        tokens.append(line["tokens"])

    train(job, Session(make_accelerator("cpu"), Screen(quiet=True), None), Journal(record))
    print(json.dumps(figures(moments, int(str(tokens[-1])) - int(str(tokens[0])))))


def one(side: str, name: str, steps: int, peers: str | None) -> dict[str, float]:
    """The figures of a training in a process of its own."""
    if side == OURS:
        command = [sys.executable, str(HERE / "training.py"), "--ours", name, str(steps)]
    else:
        python = peers if side == "trl" and peers else sys.executable
        starter = str(shipped.starter("gpt2"))
        command = [python, str(HERE / "training_peers.py"), side, name, str(steps), starter]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side}, {name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def bench(name: str, rounds: int, peers: str | None) -> Sides:
    """Every side of one case in turn, `rounds` times: print a table, and hand it over for the history."""
    case = CASES[name]
    sides = [OURS, "trainer", "trainer-best"]
    if peers and case.objective == "causal":
        sides.append("trl")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    precision = torch.bfloat16 if bfloat16_is_faster("cpu") else torch.float32  # what training multiplies in
    ceiling = 0.0
    for _ in range(rounds):
        ceiling = max(ceiling, matrix_ceiling(precision))
        for side in sides:
            found[side].append(one(side, name, STEPS[name], peers))
    kind = str(precision).removeprefix("torch.")
    print(f"{name}: {case.rows} rows of {case.row_tokens}; {kind} ceiling {ceiling / 1e9:.0f} GFLOP/s")
    figures: Sides = {}
    for side, lines in found.items():
        seconds = [line["seconds_per_1000_tokens"] for line in lines]
        median = statistics.median(seconds)
        mine = [line["seconds_per_1000_tokens"] for line in found[OURS]]
        ratio = statistics.median(s / m for s, m in zip(seconds, mine, strict=True))
        memory = statistics.median(line["peak_gigabytes"] for line in lines)
        share = 1000 * case.flops_a_token() / median / ceiling
        words = f"{1000 / median:6.0f} tokens/s  {ratio:5.2f} x ours  {100 * share:3.0f} % of the ceiling"
        print(f"  {side:<13} {words}  {memory:.2f} GB", flush=True)
        figures[side] = {"median_seconds": median, "over_ours": ratio, "peak_gigabytes": memory}
    return figures


def main() -> None:
    """Print every table, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="the starter's shape alone, one round, no history"
    )
    parser.add_argument("--peers", help="the Python of the environment that bench/peers.txt made")
    parser.add_argument("--no-history", action="store_true", help="do not append to bench/history.jsonl")
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    prepare_process()
    prepare_torch()
    if options.ours:
        ours(CASES[options.ours[0]], int(options.ours[1]))
        return
    if not options.peers:
        print("TRL is left out: no --peers")
    names = ["starter"] if options.quick else [name for name in CASES if options.only in (None, name)]
    rounds = 1 if options.quick else options.rounds
    results = {f"training {name}": bench(name, rounds, options.peers) for name in names}
    if not (options.quick or options.no_history):
        append(results, rounds)


if __name__ == "__main__":
    main()
