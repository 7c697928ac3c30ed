"""What was asked for, on the command line or from Python, as packs are trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tpbench.engine import check_device_precision
from tpbench.results.opening import open_store
from tpbench.training.devices import choose_device
from tpbench.training.pack import PackSettings
from tpbench.training.tracking import resolve_targets


def make_settings(
    results: str,
    data: Path | None,
    precision: str,
    device: str | None,
    checkpoint_every: int,
    offline: bool,
    command: str,
    *,
    keep_networks: bool = False,
    track: Sequence[str] = (),
    again: bool = False,
) -> PackSettings:
    """Check what holds for every pack of a command or call.

    Args:
        device: None where it is found out later, as on a cluster; it is checked then whether it knows the precision.
        command: as it was typed, or the line that does the same (:mod:`tpbench.results.commands`).
        keep_networks: whether the store gets the networks of the final runs too.
        again: whether stored runs without predictions are trained again for them.
        track: trackers that follow the runs (:mod:`tpbench.training.tracking`).

    Raises:
        UsageError: there is no such device, it does not know the precision, the store is a file, or a tracker is
            unknown, lacks its package, or its place makes no sense here.
    """
    chosen = "cpu" if device is None else choose_device(device)
    if device is not None:
        check_device_precision(precision, chosen)
    open_store(results)
    return PackSettings(
        results,
        str(data) if data else None,
        precision,
        chosen,
        checkpoint_every,
        command,
        offline=offline,
        keep_networks=keep_networks,
        track=resolve_targets(track, results),
        again=again,
    )
