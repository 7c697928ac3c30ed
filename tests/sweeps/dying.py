"""Trains made-up packs in processes of Ray, which die in the way that the results folder is named after. Not a test."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sweeps.playing import pretend
from tpbench.engine import EpochReport, TpbenchError
from tpbench.engine.protocol import Phase
from tpbench.sweeps.nodes import Needs
from tpbench.sweeps.sweep import QueuedPack
from tpbench.training.plan import Outcome

STOPPED = "stopped"
"""The name of a file beside the results folders that is there while a process is stopped."""
LACKS = "data set 'digits' is not in /mnt"
"""What a pack is missing on its machine."""
KILLED_FOR_MEMORY = "killed-for-memory"
"""The name of a file that is there from when a process is killed until the kernel was asked why."""


def train(pack: QueuedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Fail the first time, and say nothing against any other."""
    folder = Path(pack.settings.results)
    with (folder / "begun").open("a") as file:
        print(pack.parts, file=file)
    if folder.name == "lacks":
        raise TpbenchError(LACKS)
    if folder.name == "waits":
        # Of two workers one has a place. While the last pack trains, the other one is not needed.
        expected = 1 if len(attempts(folder)) == 1 else 0
        (folder / f"pending-{expected}").write_text(str(_wait_for_pending(expected)))
    if attempts(folder) == ["1"]:
        if folder.name == "raises":
            raise ValueError("boom: the second line\nsays more")
        if folder.name == "memory":
            (folder.parent / KILLED_FOR_MEMORY).touch()
        if folder.name in ("lost", "memory"):
            os.kill(os.getpid(), signal.SIGKILL)
        if folder.name == "stops":
            _stop_after_an_epoch(folder, report)
    return pretend(pack)


def attempts(folder: Path) -> list[str]:
    """Return the parts of every attempt at the packs of a results folder."""
    return (folder / "begun").read_text().split()


def _wait_for_pending(expected: int, seconds: float = 60.0) -> int:
    """Wait until so many workers wait for a place; returns how many do."""
    from ray.util import placement_group_table

    until = time.monotonic() + seconds
    while True:
        states = [group["state"] for group in placement_group_table().values()]
        if states.count("PENDING") == expected or time.monotonic() > until:
            return states.count("PENDING")
        time.sleep(0.1)


def _stop_after_an_epoch(folder: Path, report: Callable[[EpochReport], None]) -> None:
    for done in range(1, 13):  # one report a second is handed on, and an epoch is short
        time.sleep(0.1)
        report(EpochReport(Phase("joint", 0), done, 20, None))
    (folder.parent / STOPPED).touch()
    os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True)
class StoppingNeeds(Needs):
    """Stops the first process that looks at them, before it says anything."""

    folder: str = ""

    def __getattribute__(self, name: str) -> Any:
        if name == "checked_nodes":
            with suppress(FileExistsError):
                (Path(self.folder) / "hung").touch(exist_ok=False)
                (Path(self.folder) / STOPPED).touch()
                os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getattribute__(name)
