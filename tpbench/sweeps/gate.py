"""The gate at which workers wait for their packs.

A worker is a trial of Tune's that lasts: it says where it is, and waits here for one pack after the other. So the
scheduler knows the place before it chooses the pack, and a process that has imported torch is used again.
"""

from __future__ import annotations

import time
from typing import Any

_POLL = 0.2
END = ""
"""What a worker is handed that shall end."""


class Gate:
    """Runs as an actor of Ray: holds what workers shall do next until they take it."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def hand(self, worker: str, job: str) -> None:
        """Keep a job for a worker."""
        self.jobs[worker] = job

    def take(self, worker: str) -> str | None:
        """Give a worker its job; None while there is none."""
        return self.jobs.pop(worker, None)


def open_gate() -> Any:
    """Make the gate of a connected Ray, a handle that travels to workers; it is where the driver is."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Gate).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def take(gate: Any, worker: str) -> str | None:
    """Wait for a job in a worker; :data:`END` if it shall end, None if the gate was lost with what it held."""
    import ray

    while True:
        try:
            job: str | None = ray.get(gate.take.remote(worker))
        except ray.exceptions.RayActorError:
            time.sleep(1.0)
            return None
        if job is not None:
            return job
        time.sleep(_POLL)
