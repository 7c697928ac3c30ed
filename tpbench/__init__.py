"""tpbench: is this learning rule really better than that one?

The command line is ``tpbench``; from Python, stores are read as data frames and runs are trained:

    import tpbench

    tpbench.run("mnist", "bp", seeds=range(3))
    tpbench.leaderboard("results")

A name is imported when it is used, so that importing this takes no time.
"""

from __future__ import annotations

__version__ = "0.3.0"

# Type checkers know it by its name; typing itself takes longer to import than this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from tpbench.api import (
        compare,
        compare_runs,
        leaderboard,
        load_curves,
        load_network,
        load_predictions,
        load_runs,
        load_trials,
        load_tuning,
        run,
        sweep,
        table,
    )
    from tpbench.engine.errors import TpbenchError, UsageError

_API, _ERRORS = "tpbench.api", "tpbench.engine.errors"
_MODULES = {
    "TpbenchError": _ERRORS,
    "UsageError": _ERRORS,
    "compare": _API,
    "compare_runs": _API,
    "leaderboard": _API,
    "load_curves": _API,
    "load_network": _API,
    "load_predictions": _API,
    "load_runs": _API,
    "load_trials": _API,
    "load_tuning": _API,
    "run": _API,
    "sweep": _API,
    "table": _API,
}

__all__ = [
    "TpbenchError",
    "UsageError",
    "__version__",
    "compare",
    "compare_runs",
    "leaderboard",
    "load_curves",
    "load_network",
    "load_predictions",
    "load_runs",
    "load_trials",
    "load_tuning",
    "run",
    "sweep",
    "table",
]


def __getattr__(name: str) -> object:
    # Not at the top: the engine's package is read then, which takes longer than all of this.
    from tpbench.engine.startup import lazily

    found: object = lazily(globals(), _MODULES)(name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
