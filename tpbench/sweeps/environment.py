"""Settings that Ray reads from the environment when it is imported."""

from __future__ import annotations

import os

# Read by Ray when it is imported: no loggers of its own, and Ctrl-C reaches us.
_RAY_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Ray chooses this by itself where it starts a cluster, but not where it joins one.
    "RAY_AUTH_MODE": "token",
}


def prepare_environment() -> None:
    """Settings that Ray reads when it is imported; what the user has set stays."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_ENVIRONMENT.items()})
