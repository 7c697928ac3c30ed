"""A learning rule from outside tpbench: direct feedback alignment that sends the sign of the output error."""

from __future__ import annotations

import torch
from torch import Tensor

from tpbench.engine import Method, Minibatch
from tpbench.engine.parts import DIRECT_LINEAR


def sign_targets(batch: Minibatch) -> list[Tensor]:
    """``hhat_i - h_i = -Q_i sign(e_L) / B`` for the hidden layers; the output layer keeps its own gradient."""
    assert batch.feedback is not None
    error = batch.output_gradient
    sign = -torch.sign(error) / error.shape[1]
    return [*batch.feedback.targets(sign), -error]


SIGN_DFA = Method(
    "Sign-DFA",
    "direct feedback alignment with the sign of the output error",
    sign_targets,
    ("lr", "beta1", "beta2", "epsilon"),
    DIRECT_LINEAR,
)
