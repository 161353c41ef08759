"""Energy of a run, by codecarbon (extra `energy`): measured where the hardware reports it, else estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from ft_toolkit.errors import FtError


@contextmanager
def metered(record: Callable[..., None]) -> Iterator[None]:
    """Record energy_kwh and how it was found, when the block ends; nothing is sent anywhere.

    raises   FtError when codecarbon is not installed
    """
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        cure = "pip install 'ft-toolkit[energy]'"
        raise FtError("--energy", "codecarbon", "it is not installed", f"Run {cure}.") from None
    # the country only turns energy into CO2, which is not recorded
    meter = OfflineEmissionsTracker(
        country_iso_code="USA",
        tracking_mode="process",
        save_to_file=False,
        log_level="critical",
        allow_multiple_runs=True,
    )
    meter.start()
    try:
        yield
    finally:
        meter.stop()
        data = meter.final_emissions_data
        parts = ", ".join(str(part) for part in meter._hardware)
        record(energy_kwh=data.energy_consumed, energy_method=f"codecarbon {version('codecarbon')}: {parts}")
