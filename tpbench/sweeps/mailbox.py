"""The mailbox from which workers take their jobs. Its process imports this module alone, and so no torch."""

from __future__ import annotations

import time
from typing import Any

# Ray reads its environment when it is imported, which is set later than this is: it is imported in functions.

# Seconds between two looks of a worker into the mailbox.
_POLL = 0.2
END = b""
"""The job that ends a worker."""


class Mailbox:
    """An actor of Ray that holds the next job of each worker until the worker takes it."""

    def __init__(self) -> None:
        self.jobs: dict[str, bytes] = {}

    def put(self, worker: str, job: bytes) -> None:
        """Keep a job for a worker: a pickled pack, which this process need not import, or another word."""
        self.jobs[worker] = job

    def take(self, worker: str) -> bytes | None:
        """Return a worker's job and forget it; None while there is none."""
        return self.jobs.pop(worker, None)


def open_mailbox() -> Any:
    """Make the mailbox of a connected Ray where the driver is; returns a handle that travels to workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def wait_for_job(mailbox: Any, worker: str) -> bytes | None:
    """Wait for the next job of a worker; :data:`END` ends it, None: the mailbox was lost with its contents."""
    import ray

    while True:
        try:
            job: bytes | None = ray.get(mailbox.take.remote(worker))
        except ray.exceptions.RayActorError:
            time.sleep(1.0)
            return None
        if job is not None:
            return job
        time.sleep(_POLL)
