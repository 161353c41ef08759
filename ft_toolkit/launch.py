"""Several processes of this machine train one adapter together: ft finetune --processes N.

torch's own launcher starts them, as torchrun and accelerate launch do; recipes/launch has files for several
machines.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from ft_toolkit.errors import FtError, Terminated

STOPPING_SECONDS = 600  # a stop waits for the end of a step and its checkpoint


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `ft ARGUMENTS` in so many processes on this machine; returns the exit code.

    The first one writes and speaks. When one is lost the others are stopped too, since they would wait for it
    forever; the last checkpoint stays.

    raises   FtError for more processes than devices; KeyboardInterrupt or Terminated after a signal
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from ft_toolkit.runtime import threads

    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else threads()
    if not 1 <= processes <= devices:
        raise FtError("--processes", f"1 to {devices}, the devices here", processes, "Use fewer.")
    logging.disable(logging.ERROR)  # of the launcher alone; what happened is told in one line below
    if not torch.accelerator.is_available():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, devices // processes)))
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs, redirects={rank: Std.ALL for rank in range(1, processes)}),
            shutdown_timeout=STOPPING_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "ft_toolkit", *arguments)
        except SignalException as stop:
            is_interrupt = stop.sigval == signal.SIGINT
            raise (KeyboardInterrupt if is_interrupt else Terminated)("all processes were stopped") from None
        except ChildFailedError as failed:
            return _told(failed, Path(logs), processes)
    return 0


def _told(failed: Exception, logs: Path, processes: int) -> int:
    """Say which process was lost and why; returns the exit code."""
    rank, failure = failed.get_first_failure()  # type: ignore[attr-defined]  # ChildFailedError, imported late
    code = int(failure.exitcode)
    if rank == 0 and code > 0:
        return code  # it has spoken for itself
    reason = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    words = [
        line for file in sorted(logs.rglob(f"{rank}/stderr.log")) for line in file.read_text().splitlines()
    ]
    if code == FtError.exit_code and words:  # a mistake that the user can mend, in the process's own words
        print(words[-1], file=sys.stderr)
        return code
    said = f": {words[-1]}" if words else ""
    print(
        f"process {rank + 1} of {processes} ended with {reason}{said}; the others were stopped. "
        "The same command goes on from the last checkpoint, also with another number of processes.",
        file=sys.stderr,
    )
    return max(code, 1)
