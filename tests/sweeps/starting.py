"""Ray for tests of sweeps. Not a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tpbench.engine import TpbenchError
from tpbench.sweeps.cluster import Resources, ray_running


@contextmanager
def ray_started(resources: Resources) -> Iterator[None]:
    """Ray on this machine; it gives its processes 30 s to start, which a busy machine may exceed twice."""
    with ExitStack() as stack:
        for attempts_left in (2, 1, 0):
            try:
                stack.enter_context(ray_running(resources))
                break
            except TpbenchError:
                if not attempts_left:
                    raise
        yield
