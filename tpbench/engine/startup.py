"""Imports and processes: names imported when they are used, moved modules, threads, and the garbage collector."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "architecture": ("parts",),
    "checkpoints": ("trainer",),
    "curvature": ("gauss_newton",),
    "numerics": ("precision", "network"),
    "reconstruction": ("feedback",),
    "schedule": ("protocol",),
    "sources": ("plugins",),
    "training": ("trainer",),
}
"""Modules of ``tpbench.engine`` in version 0.2.0 that a rule may import, and the modules that hold their names now."""

_ENGINE = "tpbench.engine."

# The number that libgomp takes itself where it knows of more threads than cores, instead of 300,000.
_FEW = "1000"
SPINS = "GOMP_SPINCOUNT"
"""The environment variable that says how often a waiting thread looks before it sleeps."""

# Python's own limit of 700 new objects would have importing torch and Ray search a thousand times in vain.
_THRESHOLDS = (100_000, 50, 100)


def lazily(package: dict[str, Any], modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported when they are used (PEP 562).

    Not every command needs torch.

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


class _MovedModules:
    """Finds the modules of :data:`MOVED` under their old names, with a warning that names the new ones."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for an old name; Python asks here last."""
        moved = name.startswith(_ENGINE) and name.removeprefix(_ENGINE) in MOVED
        return ModuleSpec(name, self) if moved else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Look the names of a module up in the new ones."""
        old = module.__name__
        places = [_ENGINE + name for name in MOVED[old.removeprefix(_ENGINE)]]

        def find(name: str) -> Any:
            for place in places:
                if hasattr(import_module(place), name):
                    return getattr(import_module(place), name)
            raise AttributeError(f"module {old!r} has no attribute {name!r}; it is now {' and '.join(places)}")

        module.__getattr__ = find  # type: ignore[method-assign]
        message = f"{old} is now {' and '.join(places)}; what a rule needs can be imported from tpbench.engine"
        warnings.warn(message, DeprecationWarning, stacklevel=2)


def find_moved_modules() -> None:
    """Let modules be imported under the names of version 0.2.0, with a ``DeprecationWarning``."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


def collect_rarely() -> None:
    """Search for cycles of garbage rarely, and not when the process ends: a second or so where torch is imported.

    For processes of tpbench's own alone: a program that imports tpbench keeps its settings. Training frees its tensors
    by counting references; where memory is short, the trainer's caller searches.
    """
    gc.set_threshold(*_THRESHOLDS)
    # The interpreter passes over frozen objects when it ends; the system takes the memory back anyway.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def wait_briefly() -> None:
    """Let OpenMP's threads spin only briefly for each other before they sleep; to be called before torch is imported.

    A thread that spins for one that another process has displaced takes its core away, so that a step takes many times
    as long beside busy processes. A variable that the user has set stays. For processes of tpbench's own alone.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", SPINS}:
        os.environ[SPINS] = _FEW
