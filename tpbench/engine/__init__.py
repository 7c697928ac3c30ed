"""The learning rules of "A Theoretical Framework for Target Propagation", trained as batched packs.

Imports torch and numpy and nothing else, so it runs where Ray is not installed; and torch only when a name that needs
it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpbench.engine.configuration import HYPERPARAMETERS, SCHEDULE, Configuration, Hyperparameter, check_configuration
from tpbench.engine.errors import RuleError, TpbenchError, UsageError, unknown
from tpbench.engine.methods import (
    METHODS,
    Method,
    Minibatch,
    all_methods,
    example_configuration,
    get_method,
    installed_source,
    method_names,
    method_source,
    method_title,
)
from tpbench.engine.parts import Architecture
from tpbench.engine.protocol import (
    CURVES,
    PRECISIONS,
    PROTOCOL_VERSION,
    MemberHistory,
    check_device_precision,
    check_precision,
)
from tpbench.engine.startup import lazily

if TYPE_CHECKING:
    from tpbench.engine.problem import Problem
    from tpbench.engine.protocol import EpochReport
    from tpbench.engine.trainer import Trainer, load_checkpoint, save_checkpoint

_CHECKPOINTS = "tpbench.engine.trainer"

__getattr__ = lazily(
    globals(),
    {
        "Problem": "tpbench.engine.problem",
        "EpochReport": "tpbench.engine.protocol",
        "Trainer": "tpbench.engine.trainer",
        "load_checkpoint": _CHECKPOINTS,
        "save_checkpoint": _CHECKPOINTS,
    },
)

__all__ = [
    "CURVES",
    "HYPERPARAMETERS",
    "METHODS",
    "PRECISIONS",
    "PROTOCOL_VERSION",
    "SCHEDULE",
    "Architecture",
    "Configuration",
    "EpochReport",
    "Hyperparameter",
    "MemberHistory",
    "Method",
    "Minibatch",
    "Problem",
    "RuleError",
    "TpbenchError",
    "Trainer",
    "UsageError",
    "all_methods",
    "check_configuration",
    "check_device_precision",
    "check_precision",
    "example_configuration",
    "get_method",
    "installed_source",
    "load_checkpoint",
    "method_names",
    "method_source",
    "method_title",
    "save_checkpoint",
    "unknown",
]
