"""What Ray reads from the environment: set for the length of a sweep, and afterwards as it was."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# No loggers of Tune's own, and Ctrl-C reaches us.
_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Tune imports MLflow, where it is installed, though nobody asked for it.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Ray chooses this by itself where it starts a cluster, but not where it joins one.
_AUTHENTICATION = {"RAY_AUTH_MODE": "token"}
# Where a Ray finds its token: a local one has its own.
_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# What Ray itself sets when it starts and leaves behind.
_BY_RAY = ("RAY_USAGE_STATS_ENABLED", "PYTHONBREAKPOINT")
# Ray's processes need their docstrings, which 2 takes away. Without it they also find their modules compiled.
_OPTIMIZE = "PYTHONOPTIMIZE"


def prepare_environment() -> None:
    """Settings that Ray reads; what the user has set stays, and so does a Ray that this process is connected to."""
    wanted = _TUNE if _connected() else {**_TUNE, **_AUTHENTICATION}
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})
    _read_again()


@contextmanager
def kept_environment(*names: str) -> Iterator[None]:
    """Whatever becomes of variables within: afterwards they are as they were."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ray_environment(token: Path | None = None) -> Iterator[None]:
    """Set the environment of a sweep (:func:`prepare_environment`), which may be one of several in its process.

    Args:
        token: the file with the token of a Ray that is started for it; None: it joins one.
    """
    try:
        with kept_environment(*_TUNE, *_AUTHENTICATION, *_TOKEN, *_BY_RAY, _OPTIMIZE):
            if token:
                os.environ.pop("RAY_AUTH_TOKEN", None)
                os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
                if os.environ.get(_OPTIMIZE, "").strip() not in ("", "0", "1"):
                    del os.environ[_OPTIMIZE]
            prepare_environment()
            yield
    finally:
        _read_again()


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def _read_again() -> None:
    """Ray reads how to authenticate when it is imported, which may be long ago, and keeps the token that it found.

    A Ray that is started now reads the environment: both must say the same, or they never find each other.
    """
    if "ray" in sys.modules and not _connected():
        core: Any = importlib.import_module("ray._raylet")
        core.Config.initialize("")  # as Ray itself does where it switches authentication on
        core.AuthenticationTokenLoader.instance().reset_cache()
