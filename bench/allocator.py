"""What runtime.prepare_process saves: page faults and CPU time of the same tensor work with and without it.

python bench/allocator.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

STEPS = 20


def work() -> None:
    """Print page faults and CPU-seconds a step of a log-softmax over a (1024, 8192) float32 tensor."""
    if "--prepared" in sys.argv:
        from ft_toolkit.runtime import prepare_process

        prepare_process()
    import torch

    torch.set_num_threads(1)
    logits = torch.randn(1024, 8192)
    logits.log_softmax(-1)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        logits.log_softmax(-1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{after.ru_minflt - before.ru_minflt} page faults, {seconds / STEPS:.3f} CPU-seconds a step")


if __name__ == "__main__":
    if "--work" in sys.argv:
        work()
    else:
        for flag in ("--default", "--prepared"):
            done = subprocess.run([sys.executable, __file__, "--work", flag], capture_output=True, text=True)
            print(f"{flag[2:]:<9} {done.stdout.strip()}{done.stderr[-200:]}")
