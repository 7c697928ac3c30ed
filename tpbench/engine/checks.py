"""What a target rule must keep to: checks that cost nothing at every step, and one look at its first results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tpbench.engine.callers import place_of
from tpbench.engine.errors import RuleError
from tpbench.engine.methods import METHODS, Method, Minibatch


def _given(batch: Minibatch) -> list[Tensor]:
    """What a rule is given and must leave as it is."""
    given = [batch.forward_parameters.flat, batch.output_gradient, *batch.activities, *batch.slopes[1:]]
    given += batch.hyperparameters.values()
    return given if batch.labels is None else [*given, batch.labels]


def _names(batch: Minibatch) -> list[str]:
    """What :func:`_given` gives, in words."""
    names = ["the forward parameters", "the output gradient", "the inputs"]
    names += [f"the activities of layer {i}" for i in batch.architecture.layers]
    names += [f"the slopes of layer {i}" for i in batch.architecture.hidden]
    return [*names, *(f"the hyperparameter {name}" for name in batch.hyperparameters), "the labels"]


class Watched:
    """The tensors of a minibatch, and how often each had been changed when the rule got them.

    torch counts that by itself, so nothing is read or copied. A rule that changed its minibatch would train by what it
    made of it, and be measured by that too.
    """

    def __init__(self, batch: Minibatch) -> None:
        self.batch, self._tensors = batch, _given(batch)
        self._versions = [tensor._version for tensor in self._tensors]

    def require_unchanged(self, method: Method) -> None:
        """Raises:
        RuleError: the rule changed one of them in place.
        """
        found = [tensor._version for tensor in self._tensors]
        if found == self._versions:
            return
        pairs = zip(found, self._versions, strict=True)
        what = next(name for name, (now, then) in zip(_names(self.batch), pairs, strict=False) if now != then)
        raise RuleError(f"{method.title}: the rule changes {what} of its minibatch in place: let it work on a copy")


def targets_of(method: Method, batch: Minibatch) -> list[Tensor]:
    """What a rule makes of a minibatch.

    Raises:
        RuleError: the rule of a package raised something; where, in its own code.
        MemoryError, torch.OutOfMemoryError, RuntimeError: there is not enough memory.
    """
    if is_built_in(method):
        return method.targets(batch)
    try:
        return method.targets(batch)
    except (Exception, SystemExit) as error:
        if isinstance(error, (RuleError, MemoryError, torch.OutOfMemoryError)) or "can't allocate" in str(error):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split()) or '-'}"
        place = place_of(error) or "in tpbench's own code"
        raise RuleError(f"{method.title}: the rule raised {what} ({place})") from error


def is_built_in(method: Method) -> bool:
    """Whether a rule is one of tpbench's own."""
    return any(method is known for known in METHODS.values())


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
        if target.requires_grad:
            raise RuleError(f"{where}: requires a gradient, which nobody follows: make it without, or detach it")
        if (target.dtype, target.device) != (batch.output_gradient.dtype, batch.output_gradient.device):
            kind = f"{batch.output_gradient.dtype} on {batch.output_gradient.device}"
            raise RuleError(f"{where}: must be {kind}, got {target.dtype} on {target.device}")
    return targets


def not_finite(batch: Minibatch, targets: Sequence[Tensor]) -> str:
    """Which layer's target holds numbers that are not finite in every member; empty if none does."""
    for i, target in zip(batch.architecture.layers, targets, strict=True):
        if not bool(torch.isfinite(target).flatten(1).all(dim=1).any()):
            return f"target of layer {i} holds numbers that are not finite"
    return ""
