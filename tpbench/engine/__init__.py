"""The learning rules of "A Theoretical Framework for Target Propagation", trained as batched packs.

Everything that a rule of a package needs can be imported from here. The engine imports torch and numpy and nothing
else, so it runs where Ray is not installed; and torch only when a name that needs it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpbench.engine.configuration import HYPERPARAMETERS, SCHEDULE, Configuration, Hyperparameter, check_configuration
from tpbench.engine.errors import RuleError, TpbenchError, UsageError, unknown
from tpbench.engine.field_rules import errors_sent_back
from tpbench.engine.methods import (
    FIELD_METHODS,
    METHODS,
    Method,
    Minibatch,
    Update,
    aligned_targets,
    all_methods,
    cross_entropy_loss,
    example_configuration,
    gauss_newton_targets,
    generalised_targets,
    get_method,
    gradient_targets,
    installed_source,
    method_names,
    method_source,
    method_title,
    propagated_targets,
    uncorrected_targets,
)
from tpbench.engine.parts import (
    AFTER,
    BEFORE,
    CONTROL,
    DIFFERENCE,
    DIRECT_LINEAR,
    DIRECT_RANDOM_HIDDEN,
    DIRECT_RECURRENT,
    EXTRA,
    FIXED,
    GENERALISED,
    JOINT,
    LAYERWISE,
    LAYERWISE_LINEAR,
    LAYERWISE_TANH,
    NOISE,
    SECOND_PASS,
    SIGNS,
    SLEEP,
    SYMMETRIC,
    WEIGHT_TRANSPORT,
    Architecture,
    Convolution,
    Draw,
    Feedback,
    FeedbackPhase,
    Initialise,
    Reconstruction,
    RuleArray,
    convolutional,
)
from tpbench.engine.protocol import (
    CURVES,
    PRECISIONS,
    PROTOCOL_VERSION,
    EpochReport,
    MemberHistory,
    check_device_precision,
    check_precision,
)
from tpbench.engine.startup import find_moved_modules, lazily

if TYPE_CHECKING:
    from tpbench.engine.feedback import FeedbackState
    from tpbench.engine.gauss_newton import output_jacobians
    from tpbench.engine.network import Parameters, stream
    from tpbench.engine.precision import tanh_difference_, tanh_slope
    from tpbench.engine.problem import Problem
    from tpbench.engine.step import clip_together
    from tpbench.engine.trainer import Trainer, load_checkpoint, save_checkpoint

_LAZY = {
    "feedback": ("FeedbackState",),
    "network": ("Parameters", "stream"),
    "gauss_newton": ("output_jacobians",),
    "precision": ("tanh_difference_", "tanh_slope"),
    "problem": ("Problem",),
    "step": ("clip_together",),
    "trainer": ("Trainer", "load_checkpoint", "save_checkpoint"),
}

__getattr__ = lazily(globals(), {name: f"tpbench.engine.{module}" for module, names in _LAZY.items() for name in names})

find_moved_modules()

__all__ = [
    "AFTER",
    "BEFORE",
    "CONTROL",
    "CURVES",
    "DIFFERENCE",
    "DIRECT_LINEAR",
    "DIRECT_RANDOM_HIDDEN",
    "DIRECT_RECURRENT",
    "EXTRA",
    "FIELD_METHODS",
    "FIXED",
    "GENERALISED",
    "HYPERPARAMETERS",
    "JOINT",
    "LAYERWISE",
    "LAYERWISE_LINEAR",
    "LAYERWISE_TANH",
    "METHODS",
    "NOISE",
    "PRECISIONS",
    "PROTOCOL_VERSION",
    "SCHEDULE",
    "SECOND_PASS",
    "SIGNS",
    "SLEEP",
    "SYMMETRIC",
    "WEIGHT_TRANSPORT",
    "Architecture",
    "Configuration",
    "Convolution",
    "Draw",
    "EpochReport",
    "Feedback",
    "FeedbackPhase",
    "FeedbackState",
    "Hyperparameter",
    "Initialise",
    "MemberHistory",
    "Method",
    "Minibatch",
    "Parameters",
    "Problem",
    "Reconstruction",
    "RuleArray",
    "RuleError",
    "TpbenchError",
    "Trainer",
    "Update",
    "UsageError",
    "aligned_targets",
    "all_methods",
    "check_configuration",
    "check_device_precision",
    "check_precision",
    "clip_together",
    "convolutional",
    "cross_entropy_loss",
    "errors_sent_back",
    "example_configuration",
    "gauss_newton_targets",
    "generalised_targets",
    "get_method",
    "gradient_targets",
    "installed_source",
    "load_checkpoint",
    "method_names",
    "method_source",
    "method_title",
    "output_jacobians",
    "propagated_targets",
    "save_checkpoint",
    "stream",
    "tanh_difference_",
    "tanh_slope",
    "uncorrected_targets",
    "unknown",
]
