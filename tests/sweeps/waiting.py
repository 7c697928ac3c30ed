"""A command of tpbench whose packs last two seconds at least, and that looks at its cluster each second. Not a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tpbench.cli import main
from tpbench.engine import EpochReport
from tpbench.sweeps import driver, sharing
from tpbench.sweeps.sweep import QueuedPack
from tpbench.sweeps.trainable import train_job
from tpbench.training.plan import Outcome

SECONDS = 2.0
"""Length of a pack."""


def train(pack: QueuedPack, report: Callable[[EpochReport], None]) -> list[Outcome]:
    """Train a pack, wait for its time to pass, and note when it began and ended."""
    begun = time.time()
    outcomes = train_job(pack, report)
    time.sleep(max(0.0, begun + SECONDS - time.time()))
    with Path(pack.settings.results, "packs").open("a") as file:
        print(pack.key, begun, time.time(), file=file)
    return outcomes


if __name__ == "__main__":
    from tests.sweeps import waiting

    sharing.INTERVAL = driver._LOOK = 1.0
    # Workers find it by the name of its module.
    driver.run_queue = partial(driver.run_queue, train=waiting.train)  # type: ignore[assignment]
    main()
