"""One training step of a pack: forward pass, targets, local gradients, feedback gradients, two Adam steps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from tpbench.engine.adam import Adam, feedback_settings, forward_settings
from tpbench.engine.configuration import Configuration, is_list
from tpbench.engine.convolution import PoolingMemory
from tpbench.engine.errors import RuleError, place_of
from tpbench.engine.feedback import FeedbackState, feedback_gradients, fixed_arrays, initialise_arrays
from tpbench.engine.field_rules import modulated_input_update, relaxed_update
from tpbench.engine.methods import METHODS, Method, Minibatch, Update
from tpbench.engine.network import Loss, Parameters, cross_entropy, forward, forward_parameters, network_layers, stream
from tpbench.engine.parts import AFTER, BEFORE, Architecture, FeedbackPhase, of_layer
from tpbench.engine.precision import EXACT_MATMUL, LARGE, MatmulPolicy, Workspace, tanh_slope

PHASES = ("batches", "forward", "targets", "gradients", "feedback", "adam")
"""batches: gathering and noise; forward: activities and loss; targets: hhat; gradients: of the forward parameters;
feedback: reconstruction losses and their gradients; adam: both optimisers."""

# The rules that compute with the inputs themselves.
_READ_INPUTS = (modulated_input_update, relaxed_update)


class Clock:
    """Measures the phases of steps (:data:`PHASES`) where a device is given; costs nothing otherwise.

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
        """Return a context that counts towards a phase."""
        return self._measured(phase) if self.device else nullcontext()


@dataclass
class StepRecord:
    """The results of one step, for golden files and curves; all tensors lead with the member dimension."""

    losses: Tensor
    """(P, B)."""
    wrong: Tensor
    """(P, B)."""
    activities: list[Tensor]
    """h_0 .. h_L, (P, B, n_i)."""
    targets: list[Tensor] = field(default_factory=list)
    """Differences hhat_i - h_i of the layers 1 .. L, (P, B, n_i); empty for a rule that returns an Update."""
    reconstruction_losses: Tensor | None = None
    """(P, L-1); of a rule's own phase (P, n)."""


Output = TypeVar("Output")
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
        matmul: multiplies the matrices of steps; :meth:`propagate` is exact by default.
        initialise: draw the initial weights; False: all arrays are zero until they are copied or restored.

    Raises:
        ValueError: the method has the curvature of cross-entropy in it, and the loss is another one.
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
        matmul: MatmulPolicy = EXACT_MATMUL,
        initialise: bool = True,
    ) -> None:
        if method.reconstruction and method.reconstruction.curvature and loss is not cross_entropy:
            raise ValueError(f"{method.title}: its targets hold the curvature of cross-entropy, not of another loss")
        self.method, self.architecture, self.loss = method, architecture, loss
        self.layers = network_layers(architecture)
        # Read-only: the optimisers and the tensors of hyperparameters are made of them once.
        self.configurations = tuple(MappingProxyType(dict(c)) for c in configurations)
        self.seeds = list(seeds)
        self.trained = tuple(trained or architecture.layers)
        self.dtype, self.device = dtype, torch.device(device)
        self.workspace, self.clock, self.matmul = Workspace(dtype, device), Clock(), matmul
        self.pooling = PoolingMemory(dtype, device) if architecture.convolutions else None
        self.observer: Observer | None = None
        self.hyperparameters = {
            name: torch.tensor(self._rows(name), dtype=dtype, device=device) for name in method.names
        }
        """By name, (P,), or (P, n) where a member has a list."""
        self.generators = [stream(seed, "rule") for seed in self.seeds]
        """The random streams of a target rule; the trainer makes them anew for each epoch."""
        self.allows_cuda_graph = method.allows_cuda_graph(self.configurations)
        """A GPU may replay its steps; decided once, also for the members that remain when others leave."""
        self.validated = False
        """The rule's first targets were checked."""
        self.non_finite = ""
        """The first target among them that had numbers that are not finite in every member; empty if there is none."""
        self._layer_of = {name: layer.index for layer in self.layers for name in layer.shapes}
        self._layer_of |= method.array_layers(architecture)
        # The weights of every step of the feedback phase in each member's mean over its steps, (P, 1) or (P, L-1). Made
        # here: a CUDA graph takes no numbers from the host.
        phase = method.feedback_phase
        counts: list[Any] = self._rows(phase.steps) if phase and phase.steps else [1] * self.members
        rows = [count if is_list(count) else [count] for count in counts]
        self._phase_weights = [
            torch.tensor([[1 / n if k < n else 0.0 for n in row] for row in rows], dtype=dtype, device=device)
            for k in range(max(self.phase_steps, default=0))
        ]
        self._allocate()
        if initialise:
            self._initialise()

    def _rows(self, name: str) -> list[Any]:
        """Return a hyperparameter of every member: numbers, or where one of them has a list, lists.

        Raises:
            UsageError: a list is not valid, or has not as many numbers as there are layers.
        """
        values = [c[name] for c in self.configurations]
        if not any(map(is_list, values)):
            return values
        entries = self.method.entries(self.architecture).get(name, 0)
        spec = self.method.hyperparameter_specs[name]
        return [spec.check(v, "configuration", entries) if is_list(v) else [v] * entries for v in values]

    def _allocate(self) -> None:
        """Make all arrays, and the optimisers on them."""
        self.forward = forward_parameters(self.layers, self.members, dtype=self.dtype, device=self.device)
        self._forward_gradients = self.forward.like()
        self.matmul.keep(_arrays_of(self.forward), _arrays_of(self._forward_gradients))
        names = [name for layer in self.layers if layer.index in self.trained for name in layer.shapes]
        settings = [[forward_settings(c, self._layer_of[name]) for name in names] for c in self.configurations]
        self.forward_adam = Adam(self.forward, self._forward_gradients, settings, names, self.matmul)
        self.feedback: Parameters | None = None
        """The arrays of the feedback map and of the rule's own."""
        self.fixed: dict[str, Tensor] = {}
        self._feedback_gradients: Parameters | None = None
        self.feedback_adam: Adam | None = None
        shapes = self.method.array_shapes(self.architecture)
        if not shapes:
            return
        self._require_own_names()
        self.feedback = Parameters(shapes, self.members, dtype=self.dtype, device=self.device)
        fixed_shapes = self.method.feedback.fixed_shapes(self.architecture) if self.method.feedback else {}
        self.fixed = {
            name: torch.zeros(self.members, *shape, dtype=self.dtype, device=self.device)
            for name, shape in fixed_shapes.items()
        }
        self.matmul.keep([*_arrays_of(self.feedback), *self.fixed.values()])
        trained = self._trained_arrays()
        if trained:
            self._feedback_gradients = self.feedback.like(trained)
            if self.method.reconstruction:
                # A phase of a rule's own may write its gradients as it likes.
                self.matmul.keep((), _arrays_of(self._feedback_gradients))
            settings = [[feedback_settings(c, self._layer_of[name]) for name in trained] for c in self.configurations]
            self.feedback_adam = Adam(self.feedback, self._feedback_gradients, settings, trained, self.matmul)

    def _require_own_names(self) -> None:
        """Refuse an array of the rule's own that has the name of another one."""
        feedback, sizes = self.method.feedback, self.architecture
        others = {**feedback.shapes(sizes), **feedback.fixed_shapes(sizes)} if feedback else {}
        for name in self.method.arrays(sizes) if self.method.arrays else ():
            if name in self.forward.shapes or name in others:
                whose = "a forward parameter" if name in self.forward.shapes else "an array of its feedback map"
                raise RuleError(f"{self.method.title}: its array {name} has the name of {whose}")

    def _trained_arrays(self) -> list[str]:
        """Return the arrays that the feedback optimiser trains."""
        method, phase = self.method, self.method.feedback_phase
        if not method.trains_feedback or (phase and phase.own_step):
            return []
        of_map = list(method.feedback.shapes(self.architecture)) if method.feedback else []
        own = method.arrays(self.architecture) if method.arrays else {}
        return of_map + [name for name, array in own.items() if array.trained]

    def _initialise(self) -> None:
        """Draw the initial weights of every member from its own streams."""
        for member, seed in enumerate(self.seeds):
            generator = stream(seed, "forward weights")
            for layer in self.layers:
                layer.initialise(self.forward, member, generator)
        if self.feedback:
            initialise_arrays(
                self.feedback, self.method, self.architecture, self.seeds, self.configurations, self.forward
            )
        if self.method.feedback:
            for name, values in fixed_arrays(self.method.feedback, self.architecture, self.seeds).items():
                self.fixed[name].copy_(values)

    @property
    def members(self) -> int:
        """The number of members."""
        return len(self.seeds)

    def takes_rounded_inputs(self, batch: int) -> bool:
        """Return whether all that a step of ``batch`` samples does with the inputs are large products of bfloat16.

        It then needs the inputs in bfloat16 alone. An observer, and the rule of a package, may read them in float32.
        """
        if not self.matmul.keeps_copies or self.observer or self.architecture.convolutions:
            return False
        if not is_built_in(self.method) or self.method.targets in _READ_INPUTS:
            return False
        return min(batch, *self.architecture.sizes[:2]) >= LARGE

    @property
    def forward_gradients(self) -> Parameters:
        """The gradients of the forward parameters in the last step."""
        self.matmul.complete(_arrays_of(self._forward_gradients))
        return self._forward_gradients

    @property
    def feedback_gradients(self) -> Parameters | None:
        """The gradients of the arrays that the feedback optimiser trains, in the last step; None: it trains none."""
        if self._feedback_gradients:
            self.matmul.complete(_arrays_of(self._feedback_gradients))
        return self._feedback_gradients

    def select(self, members: list[int]) -> PackState:
        """Return a pack of the named members only, with their parameters and optimiser states."""
        chosen = PackState(
            self.method,
            self.architecture,
            [self.configurations[p] for p in members],
            [self.seeds[p] for p in members],
            trained=self.trained,
            loss=self.loss,
            dtype=self.dtype,
            device=self.device,
            matmul=self.matmul.clone(),
            initialise=False,
        )
        chosen.clock, chosen.observer = self.clock, self.observer
        chosen.generators = [self.generators[p] for p in members]
        chosen.allows_cuda_graph = self.allows_cuda_graph
        chosen.validated, chosen.non_finite = self.validated, self.non_finite
        chosen.forward.copy_members(self.forward, members)
        chosen.forward_adam.select(self.forward_adam, members)
        if chosen.feedback and self.feedback:
            chosen.feedback.copy_members(self.feedback, members)
        for name, values in self.fixed.items():
            chosen.fixed[name].copy_(values[members])
        if chosen.feedback_adam and self.feedback_adam:
            chosen.feedback_adam.select(self.feedback_adam, members)
        return chosen

    def member(self, row: int) -> dict[str, Tensor]:
        """Return a copy of one member's arrays in the host's memory: ``W1``, ``b1``; of the feedback ``Q1``, ``R``."""
        trained = [parameters for parameters in (self.forward, self.feedback) if parameters]
        arrays = {name: parameters[name] for parameters in trained for name in parameters} | self.fixed
        return {name: values[row].to("cpu", copy=True) for name, values in arrays.items()}

    def propagate(
        self, x: Tensor, matmul: MatmulPolicy = EXACT_MATMUL, pooling: PoolingMemory | None = None
    ) -> list[Tensor]:
        """Return the activities h_0 .. h_L of inputs (P, B, n_0), in memory that the next pass uses again."""
        activities = [x, *(self.workspace(f"h{layer.index}", *x.shape[:2], layer.units) for layer in self.layers)]
        forward(self.layers, self.forward, activities, matmul, pooling)
        return activities

    def joint_step(self, x: Tensor, y: Tensor, noise: list[Tensor] | None) -> StepRecord:
        """Train both kinds of parameters on one minibatch (Algorithms 1-5).

        Args:
            x: inputs (P, B, n_0); in bfloat16 where the step :meth:`takes_rounded_inputs`.
            y: labels (P, B).
            noise: standard-normal draws: of hidden layer i at index i - 1, (P, B, n_i), or those of all steps of the
                rule's own phase; None if no feedback is trained.

        Raises:
            RuleError: the method's rule gives what cannot be trained.
        """
        with self.clock("forward"):
            activities = self._forward_pass(x)
            losses, wrong, output_gradient = self.loss(activities[-1], y)
            batch = self._minibatch(activities, output_gradient, y)
        record = StepRecord(losses, wrong, activities)
        phase = self.method.feedback_phase
        if phase and phase.when == BEFORE:
            record.reconstruction_losses = self._run_phase(phase, batch, noise)
        with self.clock("targets"):
            update = self._rule_output(batch)
        with self.clock("gradients"):
            if isinstance(update, Update):
                self.error_gradients(activities, update)
            else:
                record.targets = update
                self.local_gradients(activities, batch.slopes, update)
        if self.observer:
            self.observer(batch, self.forward_gradients)
        if self.method.reconstruction and batch.feedback and noise is not None:
            record.reconstruction_losses = self._train_feedback(batch.feedback, batch.slopes, noise)
        with self.clock("adam"):
            self._clip(self._forward_gradients, "clip", self.forward_adam.first_moment)
            self.forward_adam.step()
        if phase and phase.when == AFTER:
            record.reconstruction_losses = self._run_phase(phase, batch, noise)
        return record

    def feedback_step(self, x: Tensor, noise: list[Tensor] | None, y: Tensor | None = None) -> Tensor | None:
        """Train the feedback parameters alone on one minibatch (section B.1).

        Args:
            x, noise: as of :meth:`joint_step`.
            y: labels, which a phase of the rule's own needs.

        Returns:
            The reconstruction losses, (P, L-1), or those of the rule's own phase.
        """
        phase = self.method.feedback_phase
        if phase and not phase.alone:
            return None
        if phase and y is not None:
            with self.clock("forward"):
                batch = self.minibatch(x, y)
            return self._run_phase(phase, batch, noise)
        with self.clock("forward"):
            activities = self._forward_pass(x)
            slopes = self._slopes(activities)
        return self._train_feedback(self._feedback_state(activities), slopes, noise)

    def minibatch(self, x: Tensor, y: Tensor) -> Minibatch:
        """Return what a target rule is given of inputs (P, B, n_0) and labels (P, B)."""
        activities = self._forward_pass(x)
        return self._minibatch(activities, self.loss(activities[-1], y)[2], y)

    def local_gradients(self, activities: list[Tensor], slopes: list[Tensor], targets: list[Tensor]) -> None:
        """Compute the gradients of the local losses ``(1/B) sum_b |hhat_i - h_i|^2``, the targets held fixed.

        The local loss of a convolutional layer is the mean over its units instead of their sum.

        Args:
            activities: h_0 .. h_L, (P, B, n_i).
            slopes: ``1 - h_i^2`` of the hidden layers, indexed by layer.
            targets: ``hhat_i - h_i`` of layer i at index i - 1, (P, B, n_i) (Algorithm 1).
        """
        for i in self.trained:
            layer, target = self.layers[i - 1], targets[i - 1]
            scale = -2 / target.shape[1] * layer.loss_weight
            error = torch.mul(target, scale, out=self.workspace("local error", *target.shape))
            slope = slopes[i] if layer.squash else None
            layer.gradient(error, slope, activities[i - 1], self._forward_gradients, self.matmul, self.pooling)

    def error_gradients(self, activities: list[Tensor], update: Update) -> None:
        """Compute the gradients of a rule that gives errors of the pre-activations.

        Args:
            activities: h_0 .. h_L, (P, B, n_i).
            update: errors, and presynaptic values where they are not the activities.
        """
        inputs = activities if update.inputs is None else update.inputs
        for i in self.trained:
            layer = self.layers[i - 1]
            error = update.errors[i - 1]
            layer.gradient(error, None, inputs[i - 1], self._forward_gradients, self.matmul, self.pooling)

    def _run_phase(self, phase: FeedbackPhase, batch: Minibatch, noise: list[Tensor] | None) -> Tensor | None:
        """Train the arrays by the rule's own phase, each member as often as it says.

        Returns:
            The mean of the losses of all steps, (P, n); None where the phase measures none.
        """
        draws, widths = noise or [], len(self.method.noise_widths(self.architecture)) * self._draws_per_step
        into = self._feedback_gradients or Parameters({}, self.members, dtype=self.dtype, device=self.device)
        total: Tensor | None = None
        for k in range(max(self.phase_steps)):
            with self.clock("feedback"):
                # The maps at the arrays as they are now.
                batch.feedback = self._feedback_state(batch.activities)
                into.flat.zero_()
                kept = [(view, view.clone()) for view in self._idle_arrays(phase, k)]
                losses = self._train_phase(phase, batch, draws[k * widths : (k + 1) * widths], into)
                for values, before in kept:
                    values.copy_(before)
            if self.feedback_adam:
                names = self.feedback_adam.names
                with self.clock("adam"):
                    self._clip(into, "clip_fb", into)
                    self.feedback_adam.step(
                        [[name for name in names if k < self._phase_count(phase, c, name)] for c in self.configurations]
                        if phase.steps
                        else None
                    )
            if phase.own_step or not is_built_in(self.method):
                self._forget_feedback()
            if losses is not None:
                losses = losses * self._phase_weights[k]
                total = losses if total is None else total + losses
        batch.feedback = self._feedback_state(batch.activities)
        return total

    def _idle_arrays(self, phase: FeedbackPhase, k: int) -> list[Tensor]:
        """Return the arrays of members that take no part in step k of a phase that changes the arrays itself."""
        if not (phase.own_step and phase.steps and self.feedback):
            return []
        return [
            self.feedback[name][p]
            for p, configuration in enumerate(self.configurations)
            for name in self.feedback
            if k >= self._phase_count(phase, configuration, name)
        ]

    def _phase_count(self, phase: FeedbackPhase, configuration: Configuration, name: str) -> int:
        """Return how many steps of a phase an array of a member takes part in; those of no layer in all."""
        counts, layer = configuration[phase.steps], self._layer_of[name]
        if is_list(counts):
            return int(counts[layer - 1] if layer else max(counts))
        return int(counts)

    def _clip(self, gradients: Parameters, name: str, names: Iterable[str]) -> None:
        """Bound the norm of each named gradient of every member by a hyperparameter, where the method has it."""
        if name not in self.hyperparameters:
            return
        for array in names:
            self.matmul.complete([gradients[array]])
            clip_together([gradients[array]], of_layer(self.hyperparameters[name], self._layer_of[array]))

    def _train_phase(
        self, phase: FeedbackPhase, batch: Minibatch, noise: list[Tensor], into: Parameters
    ) -> Tensor | None:
        """Call the rule's phase.

        Raises:
            RuleError: it raised something, or gives no losses though it is declared so.
        """
        guard = MutationGuard(batch)
        losses = call_rule(self.method, lambda: phase.train(batch, noise, into))
        guard.require_unchanged(self.method)
        if phase.losses and not (isinstance(losses, Tensor) and losses.dim() == 2 and len(losses) == self.members):
            raise RuleError(f"{self.method.title}: its feedback phase must return losses (members, n)")
        return losses if phase.losses else None

    def _forget_feedback(self) -> None:
        if self.feedback:
            self.matmul.forget([*_arrays_of(self.feedback), *self.fixed.values()])

    def _forward_pass(self, x: Tensor) -> list[Tensor]:
        self.matmul.begin_step()
        if not is_built_in(self.method):
            # A package's rule may have changed its arrays in a way that torch does not count.
            self._forget_feedback()
        if x.dtype == torch.bfloat16:
            x = self.matmul.stand_in(x)
        return self.propagate(x, self.matmul, self.pooling)

    def _slopes(self, activities: list[Tensor]) -> list[Tensor]:
        """Return ``1 - h_i^2`` of the hidden layers, indexed by layer; entry 0 is a placeholder."""
        hidden = [activities[i] for i in self.architecture.hidden]
        slopes = [tanh_slope(h, out=self.workspace(f"slope {i}", *h.shape)) for i, h in enumerate(hidden, 1)]
        return [activities[0], *slopes]

    def _minibatch(self, activities: list[Tensor], output_gradient: Tensor, y: Tensor) -> Minibatch:
        return Minibatch(
            architecture=self.architecture,
            forward_parameters=self.forward,
            activities=activities,
            slopes=self._slopes(activities),
            output_gradient=output_gradient,
            hyperparameters=self.hyperparameters,
            feedback=self._feedback_state(activities),
            labels=y,
            generators=() if self.allows_cuda_graph else self.generators,
            configurations=self.configurations,
            matmul=self.matmul,
            arrays=self.feedback,
            workspace=self.workspace,
            pooling=self.pooling,
        )

    @property
    def _draws_per_step(self) -> int:
        """The number of times that one step of the feedback phase draws noise, in the member that needs most."""
        phase = self.method.feedback_phase
        return max(self.noise_repeats) if phase and phase.draws else 1

    @property
    def noise_repeats(self) -> list[int]:
        """The number of times that each member draws the noise of a minibatch; empty: all once."""
        phase = self.method.feedback_phase
        if not phase or not (phase.steps or phase.draws):
            return []
        return [self.method.noise_repeats(c) for c in self.configurations]

    @property
    def phase_steps(self) -> list[int]:
        """The number of steps of each member's feedback phase in a minibatch; empty for a method without one."""
        phase = self.method.feedback_phase
        if not phase:
            return []
        return [self.method.noise_repeats(c) if phase.steps else 1 for c in self.configurations]

    def _feedback_state(self, activities: list[Tensor]) -> FeedbackState | None:
        if not (self.feedback and self.method.feedback):
            return None
        return FeedbackState(
            self.method.feedback,
            self.architecture,
            self.feedback,
            self.fixed,
            activities,
            self.workspace,
            self.matmul,
            self.pooling,
        )

    def _rule_output(self, batch: Minibatch) -> list[Tensor] | Update:
        """Return the rule's targets or update, with the checks that cost nothing; the first ones are validated."""
        guard = MutationGuard(batch)
        output = compute_update(self.method, batch)
        guard.require_unchanged(self.method)
        if not self.validated:
            require_shapes(self.method, batch, output)
            # Overflow of a built-in rule is due to its hyperparameters: that member diverges. A package's is reported.
            if not is_built_in(self.method):
                self.non_finite = find_non_finite(batch, output)
            self.validated = True
        return output

    def _train_feedback(self, state: FeedbackState | None, slopes: list[Tensor], noise: list[Tensor] | None) -> Tensor:
        loss, into, adam = self.method.reconstruction, self._feedback_gradients, self.feedback_adam
        if not (state and loss and into and adam and noise):
            raise ValueError(f"{self.method.title} does not train its feedback parameters")
        with self.clock("feedback"):
            losses = feedback_gradients(
                loss, state, self.forward, slopes, noise, sigma=self.hyperparameters["sigma"], into=into
            )
        with self.clock("adam"):
            adam.step()
        return losses

    @property
    def idle_layers(self) -> list[int]:
        """Hidden layers that train and that no minibatch so far has given any update, in any member."""
        moments = self.forward_adam.second_moment
        trained = [self.layers[i - 1] for i in self.trained if i in self.architecture.hidden]
        return [layer.index for layer in trained if not any(bool(moments[name].any()) for name in layer.shapes)]

    def largest(self) -> Tensor:
        """Return the largest parameters of each member (P,), float64; not finite if one of its parameters is not."""
        largest = [parameters.largest().double() for parameters in (self.forward, self.feedback) if parameters]
        return torch.stack(largest).sum(dim=0)

    def state(self) -> dict[str, object]:
        """Return everything that changes in training, for a checkpoint."""
        state: dict[str, object] = {"forward": self.forward.flat, "forward_adam": self.forward_adam.state()}
        if self.feedback:
            # A rule may change feedback that no loss trains.
            state |= {"feedback": self.feedback.flat, "fixed": self.fixed}
        if self.feedback_adam:
            state["feedback_adam"] = self.feedback_adam.state()
        return state

    def restore(self, state: Mapping[str, object]) -> None:
        """Copy a state of :meth:`state`."""
        self.forward.flat.copy_(state["forward"])  # type: ignore[arg-type]
        self.forward_adam.restore(state["forward_adam"])  # type: ignore[arg-type]
        # Checkpoints of older versions lack feedback that no loss trains.
        if self.feedback and "feedback" in state:
            self.feedback.flat.copy_(state["feedback"])  # type: ignore[arg-type]
        for name, values in state.get("fixed", {}).items():  # type: ignore[attr-defined]
            self.fixed[name].copy_(values)
        if self.feedback_adam:
            self.feedback_adam.restore(state["feedback_adam"])  # type: ignore[arg-type]


def _arrays_of(parameters: Parameters) -> list[Tensor]:
    return [parameters[name] for name in parameters]


def clip_together(gradients: Sequence[Tensor], bound: Tensor) -> None:
    """Scale gradients so that the norm of all of them together is at most ``bound``, as the authors of DFC do.

    The factor is ``min(1, bound / (norm + 1e-6))``, one for every member.

    Args:
        gradients: (P, ...) each; changed in place.
        bound: (P,).
    """
    squares = [torch.linalg.vector_norm(values.flatten(1), dim=1).square() for values in gradients]
    factor = (bound / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
    for values in gradients:
        values.mul_(factor.view(-1, *[1] * (values.dim() - 1)))


class MutationGuard:
    """Notices when a rule changes its minibatch in place: it would train by its own change and be measured by it too.

    torch counts the changes of every tensor by itself, so nothing is read or copied.

    Args:
        batch: the minibatch, before the rule gets it.
    """

    def __init__(self, batch: Minibatch) -> None:
        self._tensors = {"the forward parameters": batch.forward_parameters.flat}
        self._tensors["the output gradient"] = batch.output_gradient
        activities = [f"the activities of layer {i}" for i in batch.architecture.layers]
        self._tensors |= zip(["the inputs", *activities], batch.activities, strict=True)
        self._tensors |= {f"the slopes of layer {i}": batch.slopes[i] for i in batch.architecture.hidden}
        self._tensors |= {f"the hyperparameter {name}": values for name, values in batch.hyperparameters.items()}
        if batch.labels is not None:
            self._tensors["the labels"] = batch.labels
        if batch.feedback:
            self._tensors |= {f"the fixed array {name}": values for name, values in batch.feedback.fixed.items()}
        self._versions = {name: tensor._version for name, tensor in self._tensors.items()}

    def require_unchanged(self, method: Method) -> None:
        """Compare with the versions that the rule got.

        Raises:
            RuleError: the rule changed one of them in place.
        """
        for name, tensor in self._tensors.items():
            if tensor._version != self._versions[name]:
                raise RuleError(
                    f"{method.title}: the rule changes {name} of its minibatch in place: let it work on a copy"
                )


def compute_update(method: Method, batch: Minibatch) -> list[Tensor] | Update:
    """Return a rule's targets of a minibatch, or its update.

    Raises:
        RuleError: the rule of a package raised something; the message names the line of its own code.
        MemoryError, torch.OutOfMemoryError, RuntimeError: there is not enough memory.
    """
    return call_rule(method, lambda: method.targets(batch))


def call_rule(method: Method, call: Callable[[], Output]) -> Output:
    """Return what a function of a rule returns.

    Raises:
        RuleError: the function of a package raised something; the message names the line of its own code.
        MemoryError, torch.OutOfMemoryError, RuntimeError: there is not enough memory.
    """
    if is_built_in(method):
        return call()
    try:
        return call()
    except (Exception, SystemExit) as error:
        if isinstance(error, (RuleError, MemoryError, torch.OutOfMemoryError)) or "can't allocate" in str(error):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split()) or '-'}"
        place = place_of(error) or "in tpbench's own code"
        raise RuleError(f"{method.title}: the rule raised {what} ({place})") from error


def is_built_in(method: Method) -> bool:
    """Return whether a rule is one of tpbench's own."""
    return any(method is known for known in METHODS.values())


def require_shapes(method: Method, batch: Minibatch, output: object) -> None:
    """Require a target, or an error, of the right kind for each layer.

    Raises:
        RuleError: their number, kind or shape is not as it must be.
    """
    sizes, layers = batch.architecture.sizes, batch.architecture.layers
    if not isinstance(output, Update):
        _require_arrays(method, batch, "target", output, [sizes[i] for i in layers])
        return
    _require_arrays(method, batch, "error", output.errors, [sizes[i] for i in layers])
    if output.inputs is not None:
        _require_arrays(method, batch, "input", output.inputs, [sizes[i - 1] for i in layers])


def _require_arrays(method: Method, batch: Minibatch, kind: str, given: object, widths: Sequence[int]) -> None:
    if not isinstance(given, (list, tuple)) or len(given) != len(widths):
        what = f"{len(given)} of them" if isinstance(given, (list, tuple)) else f"a {type(given).__name__}"
        raise RuleError(
            f"{method.title}: the rule must give {len(widths)} {kind}s, one for each layer, and gave {what}"
        )
    members, samples, _ = batch.output_gradient.shape
    for i, values, width in zip(batch.architecture.layers, given, widths, strict=True):
        where, expected = f"{method.title}, {kind} of layer {i}", (members, samples, width)
        if not isinstance(values, Tensor):
            raise RuleError(f"{where}: must be a tensor, got a {type(values).__name__}")
        if tuple(values.shape) != expected:
            raise RuleError(
                f"{where}: must have the shape {expected} (members, batch, units), got {tuple(values.shape)}"
            )
        if values.requires_grad:
            raise RuleError(f"{where}: requires a gradient, which nothing follows: make it without, or detach it")
        if (values.dtype, values.device) != (batch.output_gradient.dtype, batch.output_gradient.device):
            wanted = f"{batch.output_gradient.dtype} on {batch.output_gradient.device}"
            raise RuleError(f"{where}: must be {wanted}, got {values.dtype} on {values.device}")


def find_non_finite(batch: Minibatch, output: Sequence[Tensor] | Update) -> str:
    """Name the first layer whose target has a number that is not finite in every member; empty if there is none."""
    kind, values = ("error", output.errors) if isinstance(output, Update) else ("target", output)
    for i, array in zip(batch.architecture.layers, values, strict=True):
        if not bool(torch.isfinite(array).flatten(1).all(dim=1).any()):
            return f"{kind} of layer {i} holds numbers that are not finite"
    return ""
