"""What can be told of a learning rule without training it (``tpbench verify method``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.configuration import SCHEDULE, Hyperparameter
from tpbench.engine.errors import RuleError, UsageError
from tpbench.engine.methods import Method, Minibatch, example_configuration
from tpbench.engine.network import Parameters, stream
from tpbench.engine.parts import Architecture
from tpbench.engine.problem import Problem
from tpbench.engine.rehearsal import READ_BACK, NeedsGpu, rehearse
from tpbench.engine.step import MutationGuard, PackState, compute_targets, find_non_finite, require_shapes

_NETWORK = Architecture((12, 10, 8, 6, 4), random_hidden=9)
_SEEDS, _BATCH, _STEPS = (0, 1, 2), 5, 3
# In float64 what differs by more is another computation, not another order of adding up.
_EQUAL = 1e-9
_OR_DRAWS = ", or draws numbers without batch.draw"
_HINT = f": it keeps a state of its own{_OR_DRAWS}"


class _NotTold(Exception):  # noqa: N818 (no error of the rule's)
    """Why a check cannot be made on this machine."""


@dataclass(frozen=True)
class RuleCheck:
    """One check and how it ended."""

    name: str
    found: str
    passed: bool | None
    """None where it cannot be told on this machine."""

    @property
    def verdict(self) -> str:
        return "not told" if self.passed is None else "ok" if self.passed else "FAILED"


def verify_method(method: Method) -> Iterator[RuleCheck]:
    """All checks of a rule on a small network in float64; those that need valid targets come last."""
    for name, check in _FIRST:
        result = _ended(name, check, method)
        yield result
        if result.passed is False:
            return
    for name, check in _FURTHER:
        yield _ended(name, check, method)


def _ended(name: str, check: Callable[[Method], str], method: Method) -> RuleCheck:
    """A check that raises has failed: the rule is somebody else's code."""
    try:
        return RuleCheck(name, check(method), True)
    except _NotTold as reason:
        return RuleCheck(name, str(reason), None)
    except RuleError as error:
        found = str(error).removeprefix(f"{method.title}: ").removeprefix(f"{method.title}, ")
    except Exception as error:
        found = f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}"
    return RuleCheck(name, found, False)


def _varied(hyperparameter: Hyperparameter, value: float, member: int, share: float) -> float:
    """Return the value of a hyperparameter that a member of the test pack has; member 0 has ``value`` itself.

    Args:
        hyperparameter: its range is kept.
        value: a valid one.
        member: its number; each goes further, a whole number by a step each.
        share: of ``value`` (or of the way to the end of the range, where that is nearer), how far a member goes.
    """
    if hyperparameter.whole:
        near = [value + step for step in (0, 1, 2, -1, -2) if _is_valid(hyperparameter, value + step)]
        return near[member % len(near)]
    end = min(hyperparameter.upper, value + (abs(value) or 1.0))
    other = value + member * share * (end - value)
    return other if _is_valid(hyperparameter, other) else value


def _is_valid(hyperparameter: Hyperparameter, value: float) -> bool:
    try:
        hyperparameter.check(value, hyperparameter.name)
    except UsageError:
        return False
    return True


def _configurations(method: Method) -> list[dict[str, float]]:
    """Return what the members of the test pack are made of: no two share a value of any hyperparameter that may differ.

    A rule that takes one member's value for the whole pack is found by that. The shares differ too, so that a quotient
    such as lr_eta / eta does. The feedback schedule is one for all members of a pack.
    """
    configurations = [example_configuration(method) for _ in _SEEDS]
    names = [name for name in method.names if name not in SCHEDULE]
    for k, name in enumerate(names):
        share = 0.1 * (1 - k / (2 * len(names)))
        for member, values in enumerate(configurations):
            values[name] = _varied(method.hyperparameter_specs[name], values[name], member, share)
    return configurations


def _pack(method: Method, seeds: tuple[int, ...] = _SEEDS) -> PackState:
    """A pack of the test members with these seeds, or of one of them alone."""
    configurations = _configurations(method)
    chosen = [configurations[_SEEDS.index(seed)] for seed in seeds]
    return PackState(method, _NETWORK, chosen, list(seeds), dtype=torch.float64)


def _data(seeds: tuple[int, ...], step: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Inputs, labels and noise, each member's from its seed alone."""
    generators = [stream(seed, "verify method", step) for seed in seeds]

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])

    x = draw(_BATCH, _NETWORK.sizes[0])
    labels = [torch.randint(0, _NETWORK.sizes[-1], (_BATCH,), generator=g) for g in generators]
    return x, torch.stack(labels), [draw(_BATCH, _NETWORK.sizes[i]) for i in _NETWORK.hidden]


def _step(pack: PackState, seeds: tuple[int, ...] = _SEEDS, step: int = 0) -> None:
    """The next minibatch of an epoch: what members draw goes on where the last one stopped."""
    x, y, noise = _data(seeds, step)
    pack.joint_step(x, y, noise if pack.method.trains_feedback else None)


def _new_epoch(pack: PackState, epoch: int) -> None:
    pack.generators = [stream(seed, "rule", epoch) for seed in pack.seeds]


def _minibatch(method: Method) -> Minibatch:
    x, y, _ = _data(_SEEDS)
    return _pack(method).minibatch(x, y)


def _shapes(method: Method) -> str:
    batch = _minibatch(method)
    require_shapes(method, batch, compute_targets(method, batch))
    return f"{_NETWORK.depth} targets, each (members, batch, units)"


def _finite(method: Method) -> str:
    batch = _minibatch(method)
    if found := find_non_finite(batch, compute_targets(method, batch)):
        raise RuleError(found)
    return "all numbers are finite"


def _unchanged(method: Method) -> str:
    batch = _minibatch(method)
    watched = MutationGuard(batch)
    compute_targets(method, batch)
    watched.require_unchanged(method)
    return "nothing of the minibatch is changed in place"


def _repeatable(method: Method) -> str:
    batch = _minibatch(method)
    kept = batch.feedback.parameters.flat.clone() if batch.feedback else None
    first = compute_targets(method, batch)
    copies = [target.clone() for target in first]
    if batch.feedback and kept is not None:
        batch.feedback.parameters.flat.copy_(kept)
    batch.generators = [stream(seed, "rule") for seed in _SEEDS]
    second = compute_targets(method, batch)
    for i, (copy, mine, other) in enumerate(zip(copies, first, second, strict=True), start=1):
        if not torch.equal(copy, other):
            raise RuleError(f"the second call gives another target of layer {i}{_HINT}")
        if not torch.equal(copy, mine):
            raise RuleError(f"the second call changes the first one's target of layer {i}")
    return "the same minibatch gives the same targets"


def _difference(found: Parameters, expected: Parameters) -> float:
    """The largest difference relative to the largest number of each array."""
    worst = 0.0
    for name in expected:
        scale = float(expected[name].abs().max())
        if scale:
            worst = max(worst, float((found[name] - expected[name]).abs().max()) / scale)
        elif bool(found[name].any()):
            worst = float("inf")
    return worst


def _members(method: Method) -> str:
    """Every member's gradients and feedback after some steps, in a pack and alone."""
    pack = _pack(method)
    for step in range(_STEPS):
        _step(pack, step=step)
    worst, drawn_alike = 0.0, True
    for row, seed in enumerate(_SEEDS):
        alone = _pack(method, (seed,))
        for step in range(_STEPS):
            _step(alone, (seed,), step)
        drawn_alike &= torch.equal(pack.generators[row].get_state(), alone.generators[0].get_state())
        worst = max(worst, _difference(pack.forward_gradients.select([row]), alone.forward_gradients))
        if pack.feedback and alone.feedback:
            worst = max(worst, _difference(pack.feedback.select([row]), alone.feedback))
    if not drawn_alike:
        raise RuleError("a member draws other numbers than alone: let only those draw that need it (draw(members=...))")
    if not worst <= _EQUAL:
        raise RuleError(f"members differ from runs alone by {worst:.1e}: one depends on its pack{_OR_DRAWS}")
    return f"a pack of {len(_SEEDS)} is {len(_SEEDS)} runs alone (to {worst:.0e})"


def _updates(method: Method) -> str:
    pack = _pack(method)
    for step in range(_STEPS):
        _step(pack, step=step)
    if pack.idle_layers:
        which = f"layer{'s' * (len(pack.idle_layers) > 1)} {', '.join(map(str, pack.idle_layers))}"
        raise RuleError(f"no update of hidden {which}")
    return "every hidden layer is updated"


def _problem() -> Problem:
    """Three minibatches, of which nothing but the shapes is looked at."""
    count = 3 * _BATCH
    x, y = torch.zeros(count, _NETWORK.sizes[0]), torch.zeros(count, dtype=torch.int64)
    return Problem(_NETWORK, x, y, x, y, validation_size=_BATCH, batch_size=_BATCH)


def _read_backs(method: Method) -> str:
    if not method.allows_cuda_graph([example_configuration(method)]):
        return "declared not capturable: a GPU runs it step by step"
    try:
        rehearse(method, _problem(), len(_SEEDS))
    except READ_BACK as error:
        raise RuleError(f"needs the host in the middle of a step ({error}): declare capturable=False") from error
    except NeedsGpu as error:
        raise _NotTold(str(error)) from error
    return "nothing is read back to the host, so a GPU can replay a step"


def _continues(method: Method) -> str:
    straight, broken = _pack(method), _pack(method)
    for step in range(_STEPS):
        _new_epoch(straight, step)
        _step(straight, step=step)
    _new_epoch(broken, 0)
    _step(broken)
    resumed = _pack(method)
    resumed.restore(broken.state())
    for step in range(1, _STEPS):
        _new_epoch(resumed, step)
        _step(resumed, step=step)
    if not torch.equal(straight.forward.flat, resumed.forward.flat):
        raise RuleError(f"continued from a checkpoint it trains otherwise{_HINT}")
    return "continued from a checkpoint it trains the same"


def _descends(method: Method) -> str:
    loss = method.descends
    if loss is None:
        return "declares no loss that it descends"
    pack = _pack(method)
    x, y, _ = _data(_SEEDS)
    arrays = {name: pack.forward[name].clone().requires_grad_() for name in pack.forward}
    h = x
    for i in _NETWORK.layers:
        h = torch.baddbmm(arrays[f"b{i}"].unsqueeze(1), h, arrays[f"W{i}"].mT)
        h = h.tanh() if i < _NETWORK.depth else h
    gradients = torch.autograd.grad(loss(h, y).sum(), list(arrays.values()))
    expected = pack.forward.like()
    for name, gradient in zip(arrays, gradients, strict=True):
        expected[name].copy_(gradient)
    _step(pack)
    worst = _difference(pack.forward_gradients, expected)
    if not worst <= _EQUAL:
        raise RuleError(f"its updates differ from the gradient of the loss by {worst:.1e}")
    return f"its updates are the gradient of the loss (to {worst:.0e})"


_FIRST = (("targets", _shapes), ("finite", _finite), ("minibatch", _unchanged))
_FURTHER = (
    ("second call", _repeatable),
    ("members", _members),
    ("updates", _updates),
    ("read-backs", _read_backs),
    ("checkpoint", _continues),
    ("gradient", _descends),
)
