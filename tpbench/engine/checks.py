"""What a target rule must keep to: checks that cost nothing at every step, and one look at its first results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tpbench.engine.errors import RuleError
from tpbench.engine.methods import METHODS, Method, Minibatch


def _given(batch: Minibatch) -> Iterator[tuple[str, Tensor]]:
    """What a rule is given and must leave as it is."""
    yield "the forward parameters", batch.forward_parameters.flat
    yield "the output gradient", batch.output_gradient
    for i in batch.architecture.layers:
        yield f"the activities of layer {i}", batch.activities[i]
    yield "the inputs", batch.activities[0]
    for i in batch.architecture.hidden:
        yield f"the slopes of layer {i}", batch.slopes[i]
    for name, values in batch.hyperparameters.items():
        yield f"the hyperparameter {name}", values
    if batch.labels is not None:
        yield "the labels", batch.labels


class Watched:
    """The tensors of a minibatch, and how often each had been changed when the rule got them.

    torch counts that by itself, so nothing is read or copied. A rule that changed its minibatch would train by what it
    made of it, and be measured by that too.
    """

    def __init__(self, batch: Minibatch) -> None:
        self._versions = [(what, tensor, tensor._version) for what, tensor in _given(batch)]

    def require_unchanged(self, method: Method) -> None:
        """Raises:
        RuleError: the rule changed one of them in place.
        """
        for what, tensor, version in self._versions:
            if tensor._version != version:
                raise RuleError(
                    f"{method.title}: the rule changes {what} of its minibatch in place: let it work on a copy"
                )


def check_targets(method: Method, batch: Minibatch, targets: object) -> None:
    """The first targets of a pack.

    Raises:
        RuleError: their number, kind or shape is not as it must be, or they are finite in no member.
    """
    found = require_shapes(method, batch, targets)
    # A built-in rule whose numbers overflow has hyperparameters that make it diverge, which is no fault of the rule.
    if not any(method is known for known in METHODS.values()):
        require_finite(method, batch, found)


def require_shapes(method: Method, batch: Minibatch, targets: object) -> Sequence[Tensor]:
    """The targets of a minibatch, if they are some.

    Raises:
        RuleError: their number, kind or shape is not as it must be.
    """
    depth, sizes = batch.architecture.depth, batch.architecture.sizes
    if not isinstance(targets, (list, tuple)) or len(targets) != depth:
        found = f"{len(targets)} of them" if isinstance(targets, (list, tuple)) else f"a {type(targets).__name__}"
        raise RuleError(f"{method.title}: the rule must give {depth} targets, one for each layer, and gave {found}")
    members, samples, _ = batch.output_gradient.shape
    for i, target in zip(batch.architecture.layers, targets, strict=True):
        where, expected = f"{method.title}, target of layer {i}", (members, samples, sizes[i])
        if not isinstance(target, Tensor):
            raise RuleError(f"{where}: must be a tensor, got a {type(target).__name__}")
        if tuple(target.shape) != expected:
            raise RuleError(
                f"{where}: must have the shape {expected} (members, batch, units), got {tuple(target.shape)}"
            )
        if (target.dtype, target.device) != (batch.output_gradient.dtype, batch.output_gradient.device):
            kind = f"{batch.output_gradient.dtype} on {batch.output_gradient.device}"
            raise RuleError(f"{where}: must be {kind}, got {target.dtype} on {target.device}")
    return targets


def require_finite(method: Method, batch: Minibatch, targets: Sequence[Tensor]) -> None:
    """Raises:
    RuleError: the targets of a layer are finite in no member.
    """
    for i, target in zip(batch.architecture.layers, targets, strict=True):
        if not bool(torch.isfinite(target).flatten(1).all(dim=1).any()):
            raise RuleError(f"{method.title}, target of layer {i}: holds numbers that are not finite in every member")
