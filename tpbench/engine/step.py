"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from tpbench.engine.adam import Adam, AdamSettings
from tpbench.engine.configuration import Configuration
from tpbench.engine.errors import RuleError, place_of
from tpbench.engine.feedback import FeedbackState, feedback_gradients, fixed_arrays
from tpbench.engine.methods import METHODS, Method, Minibatch
from tpbench.engine.network import Parameters, forward, initialise, stream
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import EXACT, Lasting, Loss, Products, Scratch, cross_entropy, tanh_slope

PHASES = ("batches", "forward", "targets", "gradients", "feedback", "adam")
"""batches: gathering and noise; forward: activities and loss; targets: hhat; gradients: of the forward parameters;
feedback: reconstruction losses and their gradients; adam: both optimisers."""


class Clock:
    """Measures phases where it is asked to; costs nothing where it is not.

    Args:
        device: of the pack; a GPU is waited for at the end of each phase.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[phase] += time.perf_counter() - started

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """A ``with`` block that counts towards a phase."""
        return self._measured(phase) if self.device else nullcontext()


# What a target rule must keep to: checks that cost nothing at every step, and one look at its first results.


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


# One training step of a pack: forward, targets, local gradients, feedback gradients, two Adam steps.


def forward_adam(configuration: Configuration) -> AdamSettings:
    """The forward optimiser of a configuration: its learning rate is lr, or lr_eta / eta (section B.1)."""
    lr = configuration["lr"] if "lr" in configuration else configuration["lr_eta"] / configuration["eta"]
    return AdamSettings(lr, configuration["beta1"], configuration["beta2"], configuration["epsilon"])


def feedback_adam(configuration: Configuration) -> AdamSettings:
    """The feedback optimiser of a configuration, with weight decay as L2 in the gradient."""
    names = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "wd_fb")
    return AdamSettings(*(configuration[name] for name in names))


@dataclass
class StepRecord:
    """What one step computed, for the fixtures and for logging; all tensors lead with the member dimension."""

    losses: Tensor
    wrong: Tensor
    activities: list[Tensor]
    targets: list[Tensor] = field(default_factory=list)
    """Differences hhat_i - h_i of the layers 1 .. L."""
    reconstruction_losses: Tensor | None = None


Observer = Callable[[Minibatch, Parameters], None]
"""Sees a joint step's minibatch and its local gradients, before any parameter changes."""


class PackState:
    """Parameters, gradients and optimisers of a pack, and the step that trains them.

    Args:
        method: the learning rule.
        architecture: the network.
        configurations: one per member, with every hyperparameter of the method.
        seeds: one per member; they set the initial weights.
        trained: layers whose forward parameters train, a run of consecutive layers.
        loss: the output loss.
        dtype, device: of all tensors.
        products: how a step multiplies matrices; :meth:`propagate` is exact unless it is told otherwise.
    """

    def __init__(
        self,
        method: Method,
        architecture: Architecture,
        configurations: Sequence[Configuration],
        seeds: Sequence[int],
        *,
        trained: Sequence[int] | None = None,
        loss: Loss = cross_entropy,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        products: Products = EXACT,
    ) -> None:
        self.method, self.architecture, self.loss = method, architecture, loss
        # Read-only: the optimisers and the tensors of hyperparameters are made of them once.
        self.configurations = tuple(MappingProxyType(dict(c)) for c in configurations)
        self.seeds = list(seeds)
        self.trained = tuple(trained or architecture.layers)
        self.dtype, self.device = dtype, torch.device(device)
        self.scratch, self.clock, self.products = Scratch(dtype, device), Clock(), products
        self.observer: Observer | None = None
        self.generators = [stream(seed, "rule") for seed in self.seeds]
        """What a target rule draws from; whoever drives the epochs makes them anew for each."""
        self.capturable = method.can_capture(self.configurations)
        """Whether a GPU may replay its steps; decided once, also for what is left when members leave."""
        self.targets_checked = False
        """Whether the rule's first results were looked at."""
        self.not_finite = ""
        """Which of them held numbers that are not finite, in every member."""
        members = len(self.seeds)
        self.forward = Parameters(architecture.forward_shapes(), members, dtype=dtype, device=device)
        initialise(self.forward, self.seeds, "forward weights")
        self.feedback: Parameters | None = None
        self.fixed: dict[str, Tensor] = {}
        if method.feedback:
            self.feedback = Parameters(method.feedback.shapes(architecture), members, dtype=dtype, device=device)
            initialise(self.feedback, self.seeds, "feedback weights")
            fixed = fixed_arrays(method.feedback, architecture, self.seeds)
            self.fixed = {name: values.to(self.forward.flat) for name, values in fixed.items()}
        self._build_optimisers()

    def _build_optimisers(self) -> None:
        self.forward_gradients = self.forward.like()
        names = [f"{kind}{i}" for i in self.trained for kind in "Wb"]
        self.forward_adam = Adam(
            self.forward, self.forward_gradients, [forward_adam(c) for c in self.configurations], names
        )
        self.feedback_gradients: Parameters | None = None
        self.feedback_adam: Adam | None = None
        if self.feedback and self.method.trains_feedback:
            self.feedback_gradients = self.feedback.like()
            self.feedback_adam = Adam(
                self.feedback, self.feedback_gradients, [feedback_adam(c) for c in self.configurations]
            )
        self.hyperparameters = {
            name: torch.tensor([c[name] for c in self.configurations], dtype=self.dtype, device=self.device)
            for name in self.method.names
        }

    @property
    def members(self) -> int:
        return len(self.seeds)

    def select(self, members: list[int]) -> PackState:
        """A pack of the named members only, with their parameters and optimiser states."""
        chosen = PackState.__new__(PackState)
        chosen.__dict__.update(self.__dict__)
        chosen.scratch, chosen.products = Scratch(self.dtype, self.device), self.products.anew()
        chosen.configurations = tuple(self.configurations[p] for p in members)
        chosen.seeds = [self.seeds[p] for p in members]
        chosen.generators = [self.generators[p] for p in members]
        chosen.forward = self.forward.select(members)
        chosen.feedback = self.feedback.select(members) if self.feedback else None
        chosen.fixed = {name: values[members] for name, values in self.fixed.items()}
        chosen._build_optimisers()
        chosen.forward_adam.select(self.forward_adam, members)
        if chosen.feedback_adam and self.feedback_adam:
            chosen.feedback_adam.select(self.feedback_adam, members)
        return chosen

    def member(self, row: int) -> dict[str, Tensor]:
        """A copy of one member's arrays in the host's memory: ``W1``, ``b1``; of the feedback ``Q1``, ``R``."""
        trained = [parameters for parameters in (self.forward, self.feedback) if parameters]
        arrays = {name: parameters[name] for parameters in trained for name in parameters} | self.fixed
        return {name: values[row].to("cpu", copy=True) for name, values in arrays.items()}

    def propagate(self, x: Tensor, products: Products = EXACT) -> list[Tensor]:
        """Forward pass of inputs (P, B, n_0): the activities h_0 .. h_L, in memory that the next pass uses again."""
        sizes = self.architecture.sizes
        activities = [x, *(self.scratch(f"h{i}", *x.shape[:2], sizes[i]) for i in self.architecture.layers)]
        forward(self.forward, activities, self.architecture.depth, products)
        return activities

    def _begin(self, x: Tensor) -> list[Tensor]:
        """The forward pass of a step."""
        self.products.begin()
        return self.propagate(x, self.products)

    def _slopes(self, activities: list[Tensor]) -> list[Tensor]:
        """``1 - h_i^2`` of the hidden layers, indexed by layer; entry 0 is a placeholder."""
        slopes = [
            tanh_slope(activities[i], out=self.scratch(f"slope {i}", *activities[i].shape))
            for i in self.architecture.hidden
        ]
        return [activities[0], *slopes]

    def joint_step(self, x: Tensor, y: Tensor, noise: list[Tensor] | None) -> StepRecord:
        """One minibatch of Algorithms 1-5: both kinds of parameters are trained.

        Args:
            x: inputs (P, B, n_0).
            y: labels (P, B).
            noise: standard-normal draws of hidden layer i at index i - 1, (P, B, n_i); None if no feedback is trained.
        """
        with self.clock("forward"):
            activities = self._begin(x)
            losses, wrong, output_gradient = self.loss(activities[-1], y)
            batch = self._minibatch(activities, output_gradient, y)
        with self.clock("targets"):
            targets = self._targets(batch)
        slopes, state = batch.slopes, batch.feedback
        with self.clock("gradients"):
            self.local_gradients(activities, slopes, targets)
        if self.observer:
            self.observer(batch, self.forward_gradients)
        record = StepRecord(losses, wrong, activities, targets)
        if state and noise is not None:
            record.reconstruction_losses = self._train_feedback(state, slopes, noise)
        with self.clock("adam"):
            self.forward_adam.step()
        return record

    def minibatch(self, x: Tensor, y: Tensor) -> Minibatch:
        """What a target rule is given of inputs (P, B, n_0) and labels (P, B)."""
        activities = self._begin(x)
        return self._minibatch(activities, self.loss(activities[-1], y)[2], y)

    def _minibatch(self, activities: list[Tensor], output_gradient: Tensor, y: Tensor) -> Minibatch:
        return Minibatch(
            self.architecture,
            self.forward,
            activities,
            self._slopes(activities),
            output_gradient,
            self.hyperparameters,
            self._feedback_state(activities),
            y,
            () if self.capturable else self.generators,
            self.configurations,
            self.products,
        )

    def _targets(self, batch: Minibatch) -> list[Tensor]:
        """What the rule makes of a minibatch, looked at where that costs nothing; its results once per pack."""
        watched = Watched(batch)
        targets = targets_of(self.method, batch)
        watched.require_unchanged(self.method)
        if not self.targets_checked:
            require_shapes(self.method, batch, targets)
            # Numbers that overflow may be the hyperparameters' fault: that member diverges. Of a package's it is said.
            if not is_built_in(self.method):
                self.not_finite = not_finite(batch, targets)
            self.targets_checked = True
        return targets

    def feedback_step(self, x: Tensor, noise: list[Tensor]) -> Tensor:
        """One minibatch of pure feedback training (section B.1); returns the reconstruction losses (P, L-1)."""
        with self.clock("forward"):
            activities = self._begin(x)
            slopes = self._slopes(activities)
        state = self._feedback_state(activities)
        if state is None:
            raise ValueError(f"{self.method.title} has no feedback parameters to train")
        return self._train_feedback(state, slopes, noise)

    def _feedback_state(self, activities: list[Tensor]) -> FeedbackState | None:
        if not (self.feedback and self.method.feedback):
            return None
        return FeedbackState(
            self.method.feedback, self.architecture, self.feedback, self.fixed, activities, self.scratch, self.products
        )

    def _train_feedback(self, state: FeedbackState, slopes: list[Tensor], noise: list[Tensor]) -> Tensor:
        loss, into, adam = self.method.reconstruction, self.feedback_gradients, self.feedback_adam
        if not (loss and into and adam):
            raise ValueError(f"{self.method.title} does not train its feedback parameters")
        sigma = self.hyperparameters["sigma"]
        with self.clock("feedback"):
            losses = feedback_gradients(loss, state, self.forward, slopes, noise, sigma, into)
        with self.clock("adam"):
            adam.step()
        return losses

    def local_gradients(self, activities: list[Tensor], slopes: list[Tensor], targets: list[Tensor]) -> None:
        """Gradients of the local losses ``(1/B) sum_b |hhat_i - h_i|^2``, the targets held fixed (Algorithm 1)."""
        for i in self.trained:
            scale = -2 / targets[i - 1].shape[1]
            error = torch.mul(targets[i - 1], scale, out=self.scratch("local error", *targets[i - 1].shape))
            if i < self.architecture.depth:
                error *= slopes[i]
            self.products.bmm(error.mT, Lasting(activities[i - 1]), self.forward_gradients[f"W{i}"])
            torch.sum(error, dim=1, out=self.forward_gradients[f"b{i}"])

    @property
    def idle_layers(self) -> list[int]:
        """Hidden layers that train and that no minibatch so far has given any update, in any member."""
        moments = self.forward_adam.second_moment
        return [
            i
            for i in self.trained
            if i in self.architecture.hidden and not any(bool(moments[f"{kind}{i}"].any()) for kind in "Wb")
        ]

    def largest(self) -> Tensor:
        """The largest parameters of each member (P,), float64; not finite if one of its parameters is not."""
        found = [parameters.largest().double() for parameters in (self.forward, self.feedback) if parameters]
        return torch.stack(found).sum(dim=0)

    def state(self) -> dict[str, object]:
        """Everything that changes in training, for a checkpoint."""
        state: dict[str, object] = {"forward": self.forward.flat, "forward_adam": self.forward_adam.state()}
        if self.feedback:
            # Feedback that no loss trains a rule may change by itself.
            state |= {"feedback": self.feedback.flat, "fixed": self.fixed}
        if self.feedback_adam:
            state["feedback_adam"] = self.feedback_adam.state()
        return state

    def restore(self, state: Mapping[str, object]) -> None:
        """Take over a state of :meth:`state`."""
        self.forward.flat.copy_(state["forward"])  # type: ignore[arg-type]
        self.forward_adam.restore(state["forward_adam"])  # type: ignore[arg-type]
        # Checkpoints of older versions lack what no loss trains.
        if self.feedback and "feedback" in state:
            self.feedback.flat.copy_(state["feedback"])  # type: ignore[arg-type]
        for name, values in state.get("fixed", {}).items():  # type: ignore[attr-defined]
            self.fixed[name].copy_(values)
        if self.feedback_adam:
            self.feedback_adam.restore(state["feedback_adam"])  # type: ignore[arg-type]
