"""Python's search for garbage, in processes that are tpbench's own."""

from __future__ import annotations

import atexit
import gc

# Python's own 700 new objects would have importing torch and Ray search a thousand times what is no garbage.
_THRESHOLDS = (100_000, 50, 100)


def collect_rarely() -> None:
    """Search for cycles of garbage rarely, and not at all as the process ends: a second or so where torch is imported.

    For processes that nobody else's program runs in: one that imports tpbench keeps its own settings. Training frees
    its tensors by counting references; where memory is short, what trains searches by itself.
    """
    gc.set_threshold(*_THRESHOLDS)
    # What is frozen the interpreter passes over when it ends; the system takes it all back anyway.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
