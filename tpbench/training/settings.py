"""What was asked for, on the command line or from Python, as packs are trained with it."""

from __future__ import annotations

from pathlib import Path

from tpbench.engine import check_device_precision
from tpbench.results.opening import open_store
from tpbench.training.devices import choose_device
from tpbench.training.packs import PackSettings


def make_settings(
    results: str, data: Path | None, precision: str, device: str | None, checkpoint_every: int, offline: bool,
    command: str,
) -> PackSettings:  # fmt: skip
    """Check what holds for every pack of a command or call.

    Args:
        device: None where it is found out later, as on a cluster; it is checked then whether it knows the precision.
        command: as it was typed, or the line that does the same (:mod:`tpbench.results.commands`).

    Raises:
        UsageError: there is no such device, it does not know the precision, or the store is a file.
    """
    chosen = "cpu" if device is None else choose_device(device)
    if device is not None:
        check_device_precision(precision, chosen)
    open_store(results)
    return PackSettings(
        results, str(data) if data else None, precision, chosen, checkpoint_every, command,
        offline=offline,
    )  # fmt: skip
