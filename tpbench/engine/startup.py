"""Names that a package offers and imports only when they are used (PEP 562): not every command needs torch."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: dict[str, Any], modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``globals()``; a name is looked up once and then kept there.
        modules: the module of each name.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        package[name] = getattr(import_module(modules[name]), name)
        return package[name]

    return find


# Python's search for garbage, in processes that are tpbench's own.


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
