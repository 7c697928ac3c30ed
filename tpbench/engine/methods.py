"""The table of methods: target rule x feedback map x reconstruction loss x training schedule.

A new rule is one feedback map, target rule or loss, and one line in :data:`METHODS`. Installed packages add methods
through the entry-point group ``tpbench.methods``: each entry point is a :class:`Method`. Imports no torch before a rule
is used, so that lists of methods need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench.engine import field_rules
from tpbench.engine.configuration import HYPERPARAMETERS, SCHEDULE, Configuration, Hyperparameter, is_list
from tpbench.engine.errors import RuleError, TpbenchError, unknown
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
    NEEDS,
    NOISE,
    SCHEDULES,
    SECOND_PASS,
    SIGNS,
    SLEEP,
    SYMMETRIC,
    WEIGHT_TRANSPORT,
    Feedback,
    FeedbackPhase,
    Initialise,
    Reconstruction,
    RuleArray,
    of_layer,
)
from tpbench.engine.plugins import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from tpbench.engine.convolution import PoolingMemory
    from tpbench.engine.feedback import FeedbackState
    from tpbench.engine.network import Layer, Parameters
    from tpbench.engine.parts import Architecture
    from tpbench.engine.precision import MatmulPolicy, Workspace

# The smallest number that float32 holds with all its digits.
_SMALLEST_DAMPING = 1.2e-38
FORWARD_ADAM = ("beta1", "beta2", "epsilon")
FEEDBACK_TRAINING = ("lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb", "sigma", "wd_fb")
FEEDBACK_ADAM = tuple(name for name in FEEDBACK_TRAINING if name != "sigma")

# Valid numbers for measuring or checking a rule; the time of a step does not depend on them.
_EXAMPLES = {
    "lr": 1e-3,
    "lr_eta": 3e-5,
    "eta": 0.05,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-8,
    "lr_fb": 1e-4,
    "beta1_fb": 0.9,
    "beta2_fb": 0.999,
    "epsilon_fb": 1e-8,
    "sigma": 0.05,
    "wd_fb": 1e-5,
    "wd": 1e-5,
    "clip": 1.0,
    "clip_fb": 1.0,
    "damping": 0.1,
}


@dataclass
class Minibatch:
    """A pack after the forward pass of one minibatch: the inputs of a target rule.

    ``activities[i]`` is h_i (P, B, n_i), ``slopes[i]`` is ``1 - h_i^2`` of the hidden layers (entry 0 is unused),
    ``output_gradient`` is dL/dh_L of the mean loss over the batch (P, B, n_L), ``hyperparameters`` holds a (P,) tensor
    for every hyperparameter of the method (one number for each layer, (P, n), where a member has a list;
    :meth:`of_layer` reads both), and ``labels`` are (P, B) or, for regression, (P, B, n_L). A rule changes none of them
    in place; the feedback parameters are its own to change, and are part of a checkpoint.
    """

    architecture: Architecture
    forward_parameters: Parameters
    activities: list[Tensor]
    slopes: list[Tensor]
    output_gradient: Tensor
    hyperparameters: dict[str, Tensor]
    feedback: FeedbackState | None = None
    labels: Tensor | None = None
    generators: Sequence[Generator] = ()
    """One per member: its own random stream, which depends on its seed and the epoch and not on the pack, as long as
    the member draws as often as it would alone (:meth:`draw`). None for a method that a GPU may replay as a CUDA graph:
    that would draw the same numbers for ever."""
    configurations: Sequence[Configuration] = ()
    """One per member, as numbers of the host: a rule branches on these without reading anything from the device."""

    matmul: MatmulPolicy | None = None
    """Multiplies matrices as the pack does; None: exactly."""

    arrays: Parameters | None = None
    """The arrays of the feedback map (``Q{i}``, ``c{i}``) and of the rule's own, (P, ...) each; None: it has none."""

    workspace: Workspace | None = None
    """Named working memory, which is used again in the next step; None: a rule makes its own."""

    pooling: PoolingMemory | None = None
    """What the convolutional layers kept of the forward pass; None: there are none."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers 1 .. L of the network, entry i - 1 layer i."""
        from tpbench.engine.network import network_layers

        return network_layers(self.architecture)

    def of_layer(self, name: str, layer: int = 1) -> Tensor:
        """Return a hyperparameter of every member (P, 1, 1), where members may have lists that of a layer (from 1)."""
        return of_layer(self.hyperparameters[name], layer).view(-1, 1, 1)

    def product(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return ``values`` (P, B, n) times ``weight`` (P, n, k), a parameter, as the pack multiplies."""
        return values.bmm(weight) if self.matmul is None else self.matmul.backward(values, weight)

    def difference(self, i: int, change: Tensor) -> Tensor:
        """Return the change of h_i (P, B, n_i) when layer i's inputs change by ``change`` (P, B, n_{i-1}).

        It is ``tanh(a_i + W_i change) - tanh(a_i)`` without cancellation, linear at the output, in new memory.
        """
        from tpbench.engine.precision import EXACT_MATMUL, Workspace

        layer, h = self.layers[i - 1], self.activities[i]
        slope = self.slopes[i] if layer.squash else None
        workspace, matmul = self.workspace or Workspace(h.dtype, h.device), self.matmul or EXACT_MATMUL
        out = h.new_empty(h.shape).unsqueeze(1)
        layer.difference(self.forward_parameters, change.unsqueeze(1), h, slope, out, workspace, matmul, self.pooling)
        return out[:, 0]

    def jacobians(self) -> list[Tensor]:
        """Return ``dh_L/dh_i`` of every sample for the hidden layers, entry i - 1 (P, B, n_L, n_i), in float64."""
        from tpbench.engine.gauss_newton import output_jacobians

        def send_back(i: int, error: Tensor) -> Tensor:
            layer = self.layers[i - 1]
            weights = {layer.weight: self.forward_parameters[layer.weight].double()}
            return layer.backward(weights, error, pooling=self.pooling)

        return output_jacobians(self.forward_parameters, self.slopes, self.architecture.depth, send_back)

    def draw(self, *shape: int, members: Sequence[bool] | Tensor | None = None) -> Tensor:
        """Draw standard-normal numbers (P, ...), each member's from its own stream.

        They come from the host, so that a method that uses them is declared ``capturable=False``.

        Args:
            shape: of one member's numbers.
            members: one truth value each: whether it draws; None: all draw. The others get zeros and their streams
                stand still. This is needed where members draw different numbers of times: the draws of one must not
                depend on the others of its pack.

        Raises:
            RuleError: the method is not declared so, or ``members`` is no such mask.
        """
        import torch

        if not self.generators:
            raise RuleError("a rule that draws random numbers must be declared capturable=False")

        drawing = [True] * len(self.generators) if members is None else _mask(members, len(self.generators))
        numbers = [
            torch.randn(shape, generator=generator) if draws else torch.zeros(shape)
            for generator, draws in zip(self.generators, drawing, strict=True)
        ]
        return torch.stack(numbers).to(self.output_gradient)


def _mask(given: Sequence[bool] | Tensor, members: int) -> list[bool]:
    """Return a mask over the members of a pack as truth values of the host.

    Raises:
        RuleError: it is not one truth value per member; numbers of members, above all, are none.
    """
    values = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(values, Sequence) or len(values) != members or not all(isinstance(v, bool) for v in values):
        raise RuleError(f"draw(members=...) needs {members} truth values, one for each member, got {given!r}")
    return list(values)


@dataclass
class Update:
    """The updates of a rule that has no targets: errors of the pre-activations, and what they are multiplied by.

    The gradients of layer i are ``dW_i = sum over the batch of errors_i^T inputs_i`` and ``db_i = sum of errors_i``,
    without a slope and without another factor: errors of the mean loss's gradient hold 1/B.
    """

    errors: list[Tensor]
    """Of the layers 1 .. L, entry i - 1 of shape (P, B, n_i); a step lowers what they are the derivatives of."""
    inputs: list[Tensor] | None = None
    """The presynaptic values of the layers 1 .. L, entry i - 1 of shape (P, B, n_{i-1}); None: the activities
    h_{i-1}."""


TargetRule = Callable[[Minibatch], "list[Tensor] | Update"]
"""Returns ``hhat_i - h_i`` of the layers 1 .. L, entry i - 1 of shape (P, B, n_i); or an :class:`Update`."""


def _output_change(batch: Minibatch) -> Tensor:
    """Return the output target of equation 2 minus the output; the stepsize is 1 where the method has none."""
    change = -batch.output_gradient
    return change * batch.of_layer("eta") if "eta" in batch.hyperparameters else change


def feedback_of(batch: Minibatch) -> FeedbackState:
    """Return the feedback maps of a minibatch.

    Raises:
        ValueError: the method has none.
    """
    if batch.feedback is None:
        raise ValueError("the target rule needs a feedback map")
    return batch.feedback


def propagated_targets(batch: Minibatch) -> list[Tensor]:
    """Send the output target of equation 2 back through the feedback maps, with the difference correction."""
    change = _output_change(batch)
    return [*feedback_of(batch).targets(change), change]


def generalised_targets(batch: Minibatch) -> list[Tensor]:
    """Send the output target ``h_L - eta K_L^{-1} e_L`` (equation 195) back as :func:`propagated_targets` does.

    The output layer itself keeps the target of equation 2: K_L belongs to the feedback path alone.
    """
    from tpbench.engine.gauss_newton import apply_inverse_factor, root_probabilities

    plain = _output_change(batch)
    change = apply_inverse_factor(root_probabilities(batch.activities[-1]), plain)
    return [*feedback_of(batch).targets(change), plain]


def uncorrected_targets(batch: Minibatch) -> list[Tensor]:
    """Propagate targets plainly: ``hhat_i = g_i(hhat_{i+1})`` without the difference correction (equation 3)."""
    change = _output_change(batch)
    return [*feedback_of(batch).uncorrected_targets(change), change]


def _send_error_back(batch: Minibatch, send: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    """Return ``-(B/2)`` times the error of every layer, for which the local loss has the gradient of that error.

    Where the local loss weighs its units, as that of convolutional layers, the error is divided by the weight.

    Args:
        batch: the minibatch.
        send: returns the error of layer i - 1 (P, B, n_{i-1}) of i and the error of layer i's pre-activations.
    """
    import torch

    differences = [batch.output_gradient * (-batch.output_gradient.shape[1] / 2)]
    for i in range(batch.architecture.depth, 1, -1):
        error = differences[0]
        if i < batch.architecture.depth:
            # In memory that is used again: fresh memory is slow.
            out = batch.workspace(f"error {i}", *error.shape) if batch.workspace else None
            error = torch.mul(error, batch.slopes[i], out=out)
        differences.insert(0, send(i, error))
    for layer in batch.layers:
        if layer.loss_weight != 1.0:
            differences[layer.index - 1] = differences[layer.index - 1] / layer.loss_weight
    return differences


def gradient_targets(batch: Minibatch) -> list[Tensor]:
    """Write backpropagation as targets: ``hhat_i - h_i = -(B/2) dL/dh_i`` gives the local loss BP's gradient."""
    layers, parameters = batch.layers, batch.forward_parameters
    return _send_error_back(
        batch, lambda i, error: layers[i - 1].backward(parameters, error, batch.matmul, batch.pooling)
    )


def aligned_targets(batch: Minibatch) -> list[Tensor]:
    """Send errors back as backpropagation does, by a fixed random matrix for each W_i^T (Lillicrap et al. 2016)."""
    parameters = feedback_of(batch).parameters
    return _send_error_back(batch, lambda i, error: batch.product(error, parameters[f"Q{i - 1}"].mT))


def cross_entropy_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of every member (P,), of outputs (P, B, n_L) and labels (P, B); for autograd."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)


def _is_damped(configuration: Configuration) -> bool:
    """Return whether the damping is more than 0 in float32 too."""
    return bool(configuration["damping"] >= _SMALLEST_DAMPING)


def gauss_newton_targets(batch: Minibatch) -> list[Tensor]:
    """Take Gauss-Newton targets (Conditions 2 and S3) with stepsize 1; at the output J is the identity."""
    from tpbench.engine.gauss_newton import gauss_newton_change

    damping = batch.hyperparameters["damping"]
    undamped = [not _is_damped(configuration) for configuration in batch.configurations] or None
    changes = [gauss_newton_change(j, batch.output_gradient, damping, undamped) for j in batch.jacobians()]
    return [*changes, -batch.output_gradient / (1 + damping).view(-1, 1, 1)]


@dataclass(frozen=True)
class Method:
    """A learning rule, declared.

    Example:
        ``Method("My rule", "a line about it", my_targets, ("lr", "beta1", "beta2", "epsilon"))``

    Raises:
        ValueError: its parts do not fit together.
    """

    title: str
    """Its name in tables; no two methods have the same."""
    summary: str
    """A line for lists."""
    targets: TargetRule
    hyperparameters: tuple[str | Hyperparameter, ...]
    """Names of :data:`tpbench.engine.HYPERPARAMETERS`, and the rule's own."""
    feedback: Feedback | None = None
    reconstruction: Reconstruction | None = None
    schedule: str = JOINT
    """One of :data:`tpbench.engine.parts.SCHEDULES`."""
    capturable: bool | Callable[[Configuration], bool] = True
    """A step can become a CUDA graph: the target rule reads nothing back to the host. Where that depends on the
    hyperparameters, a function of a member's configuration."""
    descends: Callable[[Tensor, Tensor], Tensor] | None = None
    """The loss that the updates descend, where they are the gradient of one: of outputs (P, B, n_L) and labels, one
    number per member, for autograd (``tpbench verify method``)."""
    arrays: Callable[[Architecture], Mapping[str, RuleArray]] | None = None
    """The rule's own arrays, by name, of an architecture."""
    feedback_phase: FeedbackPhase | None = None
    """Trains the feedback map's and the rule's own arrays."""
    initialise_feedback: Initialise | None = None
    """Draws the matrices of the feedback map; None: Xavier-normal (section B.1)."""
    fixed_feedback: bool = False
    """Its feedback is random and stays so: the forward weights must come to fit it, so that it cannot learn where
    layers are frozen."""
    needs_all_layers: bool = False
    """It makes no sense where layers are frozen, for another reason."""
    convolutions: bool | None = None
    """It works in networks with convolutions. None: where its feedback maps go from the output to each hidden layer
    at once, without arrays that grow with the square of a layer; others would pass through a convolution and its
    pooling, for which no published form exists."""
    one_number: tuple[str, ...] = ()
    """Hyperparameters that are one number for all layers, though the table says that a list is valid: the rule reads
    them itself, without a layer."""
    formula: str = ""
    """The rule in a line of plain text, for ``tpbench methods NAME``; hhat_i is the target of the activity h_i."""
    needs: str = ""
    """One of :data:`tpbench.engine.parts.NEEDS`; empty: not declared."""
    settings: str | Path | None = None
    """The ``.yaml`` file with its search space, published configurations and reference numbers
    (:mod:`tpbench.results.rule_files`), for a package: ``Path(__file__).with_name("mine.yaml")``."""

    def __post_init__(self) -> None:
        if not (isinstance(self.title, str) and self.title.strip()):
            raise ValueError(f"a method needs a title, got {self.title!r}")
        if self.needs and self.needs not in NEEDS:
            raise ValueError(f"{self.title}: {unknown('need', self.needs, NEEDS)}")
        self._check_hyperparameters()
        self._check_schedule()
        if self.settings is not None and not Path(self.settings).is_absolute():
            raise ValueError(
                f"{self.title}: '{self.settings}' depends on the folder of the process; write "
                f"Path(__file__).with_name('{Path(self.settings).name}')"
            )
        if self.reconstruction and not self.feedback:
            raise ValueError(f"{self.title}: a reconstruction loss needs a feedback map")
        if self.reconstruction and self.feedback_phase:
            raise ValueError(f"{self.title}: has a reconstruction loss and a feedback phase; one of them trains it")
        if self.feedback_phase:
            self._check_phase(self.feedback_phase)
        if self.feedback and self.feedback.direct and self.reconstruction and not self.reconstruction.through_output:
            raise ValueError(f"{self.title}: a direct feedback map cannot be trained with a layer-wise loss")

    def _check_schedule(self) -> None:
        """Refuse epochs of pure feedback training where nothing trains the feedback."""
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{self.title}: {unknown('schedule', self.schedule, SCHEDULES)}")
        if self.trains_feedback and not self.trains_with_weights:
            return
        if self.schedule != JOINT:
            raise ValueError(f"{self.title}: the schedule '{self.schedule}' needs feedback that is trained by itself")
        if idle := [name for name in SCHEDULE if name in self.names]:
            raise ValueError(f"{self.title}: the hyperparameter {idle[0]} needs feedback that is trained by itself")

    def _check_phase(self, phase: FeedbackPhase) -> None:
        """Require what a feedback phase is made of."""
        if not (self.feedback or self.arrays):
            raise ValueError(f"{self.title}: a feedback phase needs a feedback map or arrays of the rule's own")
        if phase.when not in (BEFORE, AFTER):
            raise ValueError(f"{self.title}: {unknown('time of a feedback phase', phase.when, (BEFORE, AFTER))}")
        for count in filter(None, (phase.steps, phase.draws)):
            if not (count in self.names and self.hyperparameter_specs[count].whole):
                raise ValueError(f"{self.title}: its phase counts by '{count}', which is no whole hyperparameter of it")
        if phase.steps and phase.draws:
            raise ValueError(f"{self.title}: a phase of several steps draws its noise once in each")

    def _check_hyperparameters(self) -> None:
        """Require the hyperparameters that the engine itself reads."""
        given = [h if isinstance(h, str) else h.name for h in self.hyperparameters]
        for h in self.hyperparameters:
            if isinstance(h, str) and h not in HYPERPARAMETERS:
                raise ValueError(f"{self.title}: {unknown('hyperparameter', h, HYPERPARAMETERS)}")
            if not isinstance(h, str) and h.name in HYPERPARAMETERS:
                raise ValueError(f"{self.title}: the hyperparameter {h.name} exists; name it, or call yours otherwise")
        needed = ["lr"] if "lr" in given else ["lr_eta", "eta"]
        needed += [*FORWARD_ADAM, *(FEEDBACK_TRAINING if self.reconstruction else ())]
        needed += FEEDBACK_ADAM if self.feedback_phase and not self.feedback_phase.own_step else ()
        for name in given:
            whole, _, end = name.rpartition("_")
            if end.isdigit() and whole in given and self.hyperparameter_specs[whole].layers:
                raise ValueError(f"{self.title}: the hyperparameter {name} has the name of a number of {whole}'s list")
        missing = [name for name in needed if name not in given]
        if missing or len(set(given)) < len(given):
            what = f"needs {', '.join(missing)} besides" if missing else "has one twice"
            raise ValueError(f"{self.title}: of hyperparameters it {what}")

    def refusal(self, architecture: Architecture) -> str:
        """Return the reason why the method cannot train a network, in a line; empty if it can."""
        return self.convolution_refusal if architecture.convolutions else ""

    @property
    def convolution_refusal(self) -> str:
        """The reason why it trains no network with convolutions, in a line; empty if it does.

        Methods refused for the same reason have the same line.
        """
        if self.convolutions:
            return ""
        if self.convolutions is False:
            return "declared not to work in networks with convolutions"
        if self.feedback and self.feedback.recurrent:
            return "the feedback has a matrix of n x n numbers for a layer of n units: too many for a convolution"
        if self.feedback and self.feedback.direct and not self.arrays:
            return ""
        if self.feedback and not self.feedback.direct:
            return "the feedback would pass through a convolution and its pooling: no rule is published"
        return (
            "not declared to work in networks with convolutions (Method.convolutions): most rules use each layer's "
            "weights as a matrix"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its hyperparameters."""
        return tuple(self.hyperparameter_specs)

    @cached_property
    def hyperparameter_specs(self) -> dict[str, Hyperparameter]:
        """Its hyperparameters by name."""
        specs = (HYPERPARAMETERS[h] if isinstance(h, str) else h for h in self.hyperparameters)
        return {h.name: h for h in specs}

    def entries(self, architecture: Architecture) -> dict[str, int]:
        """Return how many numbers each hyperparameter has as a list; those that are always one number are left out."""
        sizes = {"all": len(architecture.layers), "hidden": len(architecture.hidden)}
        alone = set(self.one_number)
        if self.arrays and any(array.trained for array in self.arrays(architecture).values()):
            # An array of the rule's own belongs to no layer.
            alone |= {*FEEDBACK_ADAM, "clip_fb", *([self.feedback_phase.steps] if self.feedback_phase else ())}
        specs = self.hyperparameter_specs.values()
        return {h.name: sizes[h.layers] for h in specs if h.layers and h.name not in alone}

    def array_layers(self, architecture: Architecture) -> dict[str, int]:
        """Return the layer of each array of :meth:`array_shapes`; 0 for those of the rule's own."""
        own = self.arrays(architecture) if self.arrays else {}
        return {name: 0 if name in own else int(name[1:]) for name in self.array_shapes(architecture)}

    def allows_cuda_graph(self, configurations: Sequence[Configuration]) -> bool:
        """Return whether the step of a pack of these members can become a CUDA graph."""
        if isinstance(self.capturable, bool):
            return self.capturable
        return all(self.capturable(configuration) for configuration in configurations)

    @property
    def trains_feedback(self) -> bool:
        """A reconstruction loss or a phase of its own trains its feedback."""
        return self.reconstruction is not None or self.feedback_phase is not None

    @property
    def trains_with_weights(self) -> bool:
        """Its feedback trains in joint epochs alone, together with the weights."""
        return self.feedback_phase is not None and not self.feedback_phase.alone

    @property
    def measures_feedback(self) -> bool:
        """The training of its feedback has losses, the curve ``reconstruction_loss``."""
        return self.reconstruction is not None or (self.feedback_phase is not None and self.feedback_phase.losses)

    def noise_widths(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the widths of the standard-normal draws of one step of its feedback training, (P, B, width) each."""
        if self.reconstruction:
            return tuple(architecture.sizes[i] for i in architecture.hidden)
        phase = self.feedback_phase
        return phase.noise(architecture) if phase and phase.noise else ()

    def noise_repeats(self, configuration: Configuration) -> int:
        """Return the number of times that a minibatch of a member draws the noise of :meth:`noise_widths`."""
        phase = self.feedback_phase
        count = (phase.steps or phase.draws) if phase else ""
        value: Any = configuration[count] if count else 1
        return max(map(int, value)) if is_list(value) else int(value)

    def array_shapes(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the feedback map's trained arrays and of the rule's own, by name."""
        shapes = self.feedback.shapes(architecture) if self.feedback else {}
        return shapes | {
            name: array.shape for name, array in (self.arrays(architecture) if self.arrays else {}).items()
        }


def example_configuration(method: Method) -> dict[str, Any]:
    """Return a valid configuration for measuring or checking a rule; it need not learn well."""
    return {name: _EXAMPLES.get(name, h.example) for name, h in method.hyperparameter_specs.items()}


def _target_propagation(
    title: str,
    summary: str,
    feedback: Feedback,
    loss: Reconstruction,
    schedule: str = SLEEP,
    targets: TargetRule = propagated_targets,
    needs: str = NOISE,
) -> Method:
    hyperparameters = ("lr_eta", *FORWARD_ADAM, *FEEDBACK_TRAINING, "eta")
    formula = _UNCORRECTED if targets is uncorrected_targets else _DIRECT if feedback.direct else _LAYERWISE
    if feedback.direct and feedback.squash:
        own = " + S_i h_i" if feedback.recurrent else ""
        formula = f"{_DIRECT_MAP}, g_i = tanh(Q_i tanh(R h_L + d){own} + c_i)"
    output = _OUTPUT if targets is not generalised_targets else f"{_OUTPUT}; g_i gets K_L^-1 times that change"
    return Method(
        title, summary, targets, hyperparameters, feedback, loss, schedule, formula=f"{formula}; {output}", needs=needs
    )


_OUTPUT = "hhat_L = h_L - eta dL/dh_L"
_UNCORRECTED = "hhat_i = g_i(hhat_i+1)"
_LAYERWISE = "hhat_i = h_i + g_i(hhat_i+1) - g_i(h_i+1)"
_DIRECT = "hhat_i = h_i + Q_i (hhat_L - h_L)"
_DIRECT_MAP = "hhat_i = h_i + g_i(hhat_L) - g_i(h_L)"


_ERRORS = ("lr", *FORWARD_ADAM, "wd")
_KP_DECAY = Hyperparameter("kp_decay", "share that B - W^T loses in each step", upper=1.0, open=False, layers="hidden")
_WM_RATE = Hyperparameter("wm_rate", "rate of the mirror's steps", layers="hidden")
_WM_DECAY = Hyperparameter(
    "wm_decay", "share that the feedback matrices lose in each step", upper=1.0, open=False, layers="hidden"
)
_FB_SCALE = Hyperparameter("fb_scale", "bound of the uniform numbers of the feedback matrices")
_FB_STEPS = Hyperparameter("fb_steps", "feedback steps per minibatch", upper=1000, whole=True, layers="hidden")
_TARGETS = ("lr_eta", *FORWARD_ADAM, "eta")
_DFC = (
    Hyperparameter("damping_dfc", "leak of the controller at its steady state", example=0.1),
    Hyperparameter("leak_fb", "leak of the controller while the feedback is trained", open=False),
    Hyperparameter("k_p_fb", "proportional part of the controller while the feedback is trained", open=False),
    Hyperparameter("dt_fb", "time step of the simulation that trains the feedback", upper=1.0, example=0.1),
    Hyperparameter("tau_fb", "time constant of the units in that simulation"),
    Hyperparameter("tau_apical_fb", "time constant of the feedback's input in that simulation"),
    Hyperparameter("times_fb", "time points of that simulation", lower=1, upper=10_000, whole=True, example=8),
    Hyperparameter("sigma_output_fb", "standard deviation of the noise at the output in that simulation", open=False),
    Hyperparameter("hwd_fb", "homeostatic weight decay of the feedback", open=False, example=1e-3),
    Hyperparameter(
        "frozen_output_fb", "1: the output's feedback matrix stays the identity", upper=2, open=False, whole=True
    ),
)
_PC_STEPS = Hyperparameter("pc_steps", "relaxation steps per minibatch", upper=1000, whole=True, example=5)
_PC_RATE = Hyperparameter("pc_rate", "rate of the relaxation", upper=1.0, layers="hidden", example=0.1)
_PEPITA_SCALE = Hyperparameter("pepita_scale", "bound of the uniform numbers of F over that of He's initialisation")

METHODS: dict[str, Method] = {
    "bp": Method(
        "BP",
        "backpropagation",
        gradient_targets,
        ("lr", *FORWARD_ADAM),
        convolutions=True,
        descends=cross_entropy_loss,
        formula="hhat_i = h_i - (B/2) dL/dh_i, with B samples in a batch: W_i descends dL/dW_i",
        needs=WEIGHT_TRANSPORT,
    ),
    "fa": Method(
        "FA",
        "feedback alignment: fixed random layer-wise feedback of the error",
        aligned_targets,
        ("lr", *FORWARD_ADAM),
        LAYERWISE_LINEAR,
        fixed_feedback=True,
        formula="as BP, with a fixed random matrix Q_i in place of the transpose of W_i+1",
        needs=FIXED,
    ),
    "dfa": Method(
        "DFA",
        "direct feedback alignment: fixed random direct feedback",
        propagated_targets,
        ("lr", *FORWARD_ADAM),
        DIRECT_LINEAR,
        fixed_feedback=True,
        formula="hhat_i = h_i - Q_i dL/dh_L, with a fixed random matrix Q_i",
        needs=FIXED,
    ),
    "tp": _target_propagation(
        "TP",
        "target propagation without the difference correction",
        LAYERWISE_TANH,
        LAYERWISE,
        JOINT,
        uncorrected_targets,
    ),
    "dtp": _target_propagation(
        "DTP", "difference target propagation, layer-wise loss", LAYERWISE_TANH, LAYERWISE, JOINT
    ),
    "dtp-pretrained": _target_propagation(
        "DTP (pre-trained)", "DTP with the feedback schedule of the new methods", LAYERWISE_TANH, LAYERWISE
    ),
    "dtpdrl": _target_propagation(
        "DTPDRL", "DTP trained with the difference reconstruction loss", LAYERWISE_TANH, DIFFERENCE
    ),
    "ddtp-linear": _target_propagation(
        "DDTP-linear", "direct linear feedback, difference reconstruction loss", DIRECT_LINEAR, DIFFERENCE
    ),
    "ddtp-rhl": _target_propagation(
        "DDTP-RHL", "direct feedback through a random hidden layer", DIRECT_RANDOM_HIDDEN, DIFFERENCE
    ),
    "ddtp-rhl-extra-fb": _target_propagation(
        "DDTP-RHL (extra FB)", "DDTP-RHL with extra feedback epochs", DIRECT_RANDOM_HIDDEN, DIFFERENCE, EXTRA
    ),
    "ddtp-rhl-rec": _target_propagation(
        "DDTP-RHL (rec.)", "DDTP-RHL with recurrent feedback", DIRECT_RECURRENT, DIFFERENCE
    ),
    "ddtp-rhl-rec-extra-fb": _target_propagation(
        "DDTP-RHL (rec. and extra FB)",
        "DDTP-RHL (rec.) with extra feedback epochs",
        DIRECT_RECURRENT,
        DIFFERENCE,
        EXTRA,
    ),
    "ddtp-control": _target_propagation(
        "DDTP-control", "DDTP-linear without the difference correction in its loss", DIRECT_LINEAR, CONTROL
    ),
    "dtpdrl-ggn": _target_propagation(
        "DTPDRL (GGN)",
        "DTPDRL with generalised Gauss-Newton targets",
        LAYERWISE_TANH,
        GENERALISED,
        SLEEP,
        generalised_targets,
    ),
    "ddtp-linear-ggn": _target_propagation(
        "DDTP-linear (GGN)",
        "DDTP-linear with generalised Gauss-Newton targets",
        DIRECT_LINEAR,
        GENERALISED,
        SLEEP,
        generalised_targets,
    ),
    "ddtp-rhl-ggn": _target_propagation(
        "DDTP-RHL (GGN)",
        "DDTP-RHL with generalised Gauss-Newton targets",
        DIRECT_RANDOM_HIDDEN,
        GENERALISED,
        SLEEP,
        generalised_targets,
    ),
    "gnt": Method(
        "GNT",
        "Gauss-Newton targets, damped or not",
        gauss_newton_targets,
        ("lr", *FORWARD_ADAM, "damping"),
        # torch's pseudo-inverse looks whether its SVD has converged.
        capturable=_is_damped,
        formula="hhat_i = h_i - J_i^T (J_i J_i^T + damping I)^-1 dL/dh_L, with J_i = dh_L/dh_i",
        needs=WEIGHT_TRANSPORT,
    ),
    "kp": Method(
        "Kolen-Pollack",
        "feedback matrices that take the steps of the weights",
        field_rules.kolen_pollack_update,
        (*_ERRORS, _KP_DECAY),
        arrays=field_rules.kolen_pollack_arrays,
        feedback_phase=FeedbackPhase(field_rules.decay_differences, AFTER, own_step=True, alone=False),
        needs_all_layers=True,
        needs=SYMMETRIC,
        formula="delta_i = (B_i delta_i+1) * slope_i, where B_i - W_i+1^T loses the share kp_decay in each step",
    ),
    "wm": Method(
        "Weight mirror",
        "feedback matrices that learn the weights from noise",
        field_rules.layerwise_update,
        (*_ERRORS, _WM_RATE, _WM_DECAY),
        LAYERWISE_LINEAR,
        feedback_phase=FeedbackPhase(field_rules.mirror_weights, AFTER, field_rules.hidden_widths, own_step=True),
        needs=NOISE,
        formula="delta_i = (Q_i delta_i+1) * slope_i; Q_i += wm_rate x z^T, with noise x and z = tanh(W_i+1 x + b_i+1)",
    ),
    "usf": Method(
        "uSF",
        "errors sent back by the signs of the weights",
        field_rules.uniform_sign_update,
        _ERRORS,
        needs=SIGNS,
        formula="delta_i = (sqrt(2 / (n_i + n_i+1)) sign(W_i+1)^T delta_i+1) * slope_i",
    ),
    "frsf": Method(
        "frSF",
        "errors sent back by the weights' signs with fixed random magnitudes",
        field_rules.fixed_sign_update,
        _ERRORS,
        arrays=field_rules.sign_arrays,
        needs=SIGNS,
        formula="delta_i = ((M_i+1 * sign(W_i+1))^T delta_i+1) * slope_i, with fixed random magnitudes M",
    ),
    "brsf": Method(
        "brSF",
        "as frSF, with magnitudes drawn for each minibatch",
        field_rules.fixed_sign_update,
        _ERRORS,
        capturable=False,
        arrays=field_rules.sign_arrays,
        feedback_phase=FeedbackPhase(field_rules.draw_magnitudes, BEFORE, own_step=True),
        needs=SIGNS,
        formula="as frSF, with magnitudes M that each minibatch draws anew",
    ),
    "drtp": Method(
        "DRTP",
        "direct random target projection: the label sent to each hidden layer",
        field_rules.direct_random_target_update,
        _ERRORS,
        DIRECT_LINEAR,
        fixed_feedback=True,
        needs=FIXED,
        formula="delta_i = (Q_i y) * slope_i, with the one-hot label y and a fixed random matrix Q_i",
    ),
    "dkp": Method(
        "DKP",
        "direct Kolen-Pollack: direct feedback trained by the output's error",
        field_rules.direct_update,
        (*_ERRORS, *FEEDBACK_ADAM),
        DIRECT_LINEAR,
        feedback_phase=FeedbackPhase(field_rules.train_direct_feedback, AFTER),
        needs=SYMMETRIC,
        formula="delta_i = (Q_i e) * slope_i; Q_i descends along h_i e^T, with weight decay",
    ),
    "fw-dtp": Method(
        "FW-DTP",
        "difference target propagation with fixed random feedback",
        propagated_targets,
        (*_TARGETS, _FB_SCALE),
        LAYERWISE_TANH,
        initialise_feedback=field_rules.uniform_feedback,
        fixed_feedback=True,
        needs=FIXED,
        formula="hhat_i = h_i + tanh(Q_i hhat_i+1) - tanh(Q_i h_i+1), Q_i fixed; hhat_L = h_L - eta dL/dh_L",
    ),
    "dtp-lee": _target_propagation(
        "DTP (Lee)",
        "DTP with the gradient at the last hidden layer",
        LAYERWISE_TANH,
        LAYERWISE,
        JOINT,
        field_rules.lee_targets,
        WEIGHT_TRANSPORT,
    ),
    "l-drl": Method(
        "L-DRL",
        "DTP whose feedback learns the transposed Jacobian of the next layer",
        propagated_targets,
        (*_TARGETS, *FEEDBACK_TRAINING, _FB_STEPS),
        LAYERWISE_TANH,
        feedback_phase=FeedbackPhase(
            field_rules.train_local_difference, BEFORE, field_rules.local_difference_widths, "fb_steps", losses=True
        ),
        needs=NOISE,
        formula="hhat_i = h_i + g_i(hhat_i+1) - g_i(h_i+1); g_i learns the transposed Jacobian of layer i + 1",
    ),
    "dfc-ssa": Method(
        "DFC-SSA",
        "deep feedback control at its steady state, with trained feedback",
        field_rules.controlled_update,
        ("lr_eta", *FORWARD_ADAM, "eta", *FEEDBACK_TRAINING, "clip", *_DFC),
        schedule=SLEEP,
        arrays=field_rules.controller_arrays,
        feedback_phase=FeedbackPhase(
            field_rules.train_controller, BEFORE, field_rules.controlled_widths, draws="times_fb"
        ),
        one_number=("clip", *FEEDBACK_TRAINING),
        needs=NOISE,
        formula="dW_i = -(2/B) (r_i - tanh(v_i - Q_i u)) r_i-1^T; the control u brings the output to its target",
    ),
    "pepita": Method(
        "PEPITA",
        "a second forward pass with the error added to the input",
        field_rules.modulated_input_update,
        (*_ERRORS, _PEPITA_SCALE),
        arrays=field_rules.modulation_arrays,
        fixed_feedback=True,
        needs=SECOND_PASS,
        formula="dW_i = (h_i - herr_i) herr_i-1^T / B, with herr the activities of the input x + F e",
    ),
    "pc": Method(
        "Predictive coding",
        "activities relax, then layers learn from their errors",
        field_rules.relaxed_update,
        (*_ERRORS, _PC_STEPS, _PC_RATE),
        needs=WEIGHT_TRANSPORT,
        formula="x_i relaxes for pc_steps steps; dW_i = -(x_i - h(x_i-1)) * slope x_i-1^T / B",
    ),
}


FIELD_METHODS = (
    *("kp", "wm", "usf", "frsf", "brsf", "drtp", "dkp"),
    *("fw-dtp", "dtp-lee", "l-drl", "dfc-ssa", "pepita", "pc"),
)
"""The built-in rules of later and neighbouring papers."""


def _read_plugin(name: str, plugin: object) -> Method:
    if not isinstance(plugin, Method):
        raise ValueError("is not a tpbench.engine.Method")
    return plugin


REGISTRY = Registry("tpbench.methods", "method", METHODS, _read_plugin, lambda method: method.title)
"""The built-in methods and those that installed packages add."""


def method_names() -> list[str]:
    """Return the names of all methods, the built-in ones first; imports none of the packages that add some."""
    return REGISTRY.names()


def all_methods() -> dict[str, Method]:
    """Return the built-in methods and those that installed packages add (entry-point group ``tpbench.methods``).

    A package that is broken costs a line on standard error.
    """
    return REGISTRY.all()


def method_title(name: str) -> str:
    """Return the title of a method; of one that is not installed here, or broken, the name itself."""
    try:
        return get_method(name).title
    except TpbenchError:
        return name


def get_method(name: str) -> Method:
    """Return the method of that name; for a built-in one, none of the packages that add methods is imported.

    Raises:
        UsageError: there is none; the message names the nearest.
        TpbenchError: it is that of an installed package, which is broken or has the title of another method.
    """
    return REGISTRY.get(name)


def method_source(name: str) -> str:
    """Return the source of a method: empty for a built-in one, else :func:`tpbench.engine.plugins.plugin_source`.

    Raises:
        UsageError: there is no such method.
        TpbenchError: the source of its package cannot be found.
    """
    get_method(name)
    return REGISTRY.source(name)


def installed_source(name: str) -> str | None:
    """Return the source of the method of that name, as :func:`method_source`; imports no package.

    None where no such method is installed, or the source of its package cannot be found.
    """
    try:
        return REGISTRY.source(name) if name in REGISTRY else None
    except TpbenchError:
        return None
