"""Work that a person, a batch system or a closed terminal may end at any time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tpbench.engine.errors import InterruptedWork


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM (which SLURM sends before its limit) end the work with the command that continues it.

    Raises:
        InterruptedWork: one of the two came.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedWork(f"interrupted; what was finished is stored. To continue: {command}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)
