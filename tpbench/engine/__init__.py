"""The learning rules of "A Theoretical Framework for Target Propagation", trained as batched packs.

Imports torch and numpy and nothing else, so it runs where Ray is not installed.
"""

from tpbench.engine.configuration import HYPERPARAMETERS, SCHEDULE, Configuration, check_configuration
from tpbench.engine.errors import TpbenchError, UsageError, unknown
from tpbench.engine.methods import METHODS, Method, Minibatch, all_methods, get_method, method_source, method_title
from tpbench.engine.network import Architecture
from tpbench.engine.problem import Problem
from tpbench.engine.training import (
    CURVES,
    PRECISIONS,
    PROTOCOL_VERSION,
    EpochReport,
    MemberHistory,
    Trainer,
    load_checkpoint,
    save_checkpoint,
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
    "MemberHistory",
    "Method",
    "Minibatch",
    "Problem",
    "TpbenchError",
    "Trainer",
    "UsageError",
    "all_methods",
    "check_configuration",
    "get_method",
    "load_checkpoint",
    "method_source",
    "method_title",
    "save_checkpoint",
    "unknown",
]
