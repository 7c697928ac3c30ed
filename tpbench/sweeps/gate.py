"""A gate at which workers wait: until all of them have started, and while there is nothing to train yet.

Tune stops the process of a worker for which it has no trial, and starting another one costs many seconds. So a worker
that would be idle is handed a trial that waits here.
"""

from __future__ import annotations

import time
from typing import Any

_POLL = 0.2
# Seconds for which those that are there wait for those that still start: nodes of a cluster may come much later.
_WARM_UP = 60.0
# A trial that waits ends after so long, and another one follows: Tune's own time-outs never meet it.
_LONGEST = 600.0


class Gate:
    """Runs as an actor of Ray; holds some numbers. Should it be started anew, it learns them again."""

    def __init__(self) -> None:
        self.round, self.arrived = 0, 0
        self.first = 0.0

    def arrive(self) -> None:
        """A worker has started."""
        self.first = self.first or time.monotonic()
        self.arrived += 1

    def open(self, round_now: int) -> None:
        """There is something to train, for the so-manieth time: who waits goes."""
        self.round = max(self.round, round_now)

    def state(self) -> tuple[int, int, float]:
        """How often the gate was opened, how many workers have arrived, and for how long the first has waited."""
        return self.round, self.arrived, time.monotonic() - self.first if self.first else 0.0


def open_gate() -> Any:
    """The gate of a connected Ray, as a handle that travels to workers."""
    import ray

    return ray.remote(Gate).options(num_cpus=0, max_restarts=-1).remote()


def wait(gate: Any, *, workers: int | None, round_seen: int) -> None:
    """Wait at a gate in a worker.

    Args:
        gate: its handle.
        workers: wait until so many have arrived; None: until the gate is opened.
        round_seen: how often it had been opened when the trial was handed out.
    """
    import ray

    until = time.monotonic() + (_LONGEST if workers is None else _WARM_UP)
    try:
        if workers is not None:
            ray.get(gate.arrive.remote())
        while time.monotonic() < until:
            opened, arrived, waited = ray.get(gate.state.remote())
            if workers is None and opened > round_seen:
                return
            if workers is not None and (arrived >= workers or waited > _WARM_UP):
                return
            time.sleep(_POLL)
    except ray.exceptions.RayActorError:
        time.sleep(_POLL)  # the gate's node is gone: nobody waits any more
