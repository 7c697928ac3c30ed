"""tpbench: is this learning rule really better than that one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.2.0"

# What follows asks for the version.
from tpbench.engine.lazy import lazily

if TYPE_CHECKING:
    from tpbench.results.modules import load_network

__getattr__ = lazily(globals(), {"load_network": "tpbench.results.modules"})

__all__ = ["__version__", "load_network"]
