"""Declarations that networks and methods are made of: sizes, feedback maps, reconstruction losses and schedules.

:mod:`tpbench.engine.network` and :mod:`tpbench.engine.feedback` compute with them. Imports no torch, so that lists of
workloads and methods need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from tpbench.engine.configuration import Configuration
    from tpbench.engine.methods import Minibatch
    from tpbench.engine.network import Parameters


Map = tuple[int, int, int]
"""Channels, rows and columns of an image or of what a convolutional layer makes of it."""


@dataclass(frozen=True)
class Convolution:
    """A convolutional layer: convolution with stride 1 and zeros around the image, tanh, max-pooling.

    Raises:
        ValueError: a size is not valid.
    """

    channels: int
    """Of its output."""
    kernel: int = 5
    """Rows and columns of the kernel, odd."""
    pool: int = 3
    """Rows and columns of the pooling window; 1: no pooling."""
    stride: int = 2
    """Of the pooling window."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"a convolution needs at least one channel, got {self.channels}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if not 1 <= self.stride <= self.pool:
            raise ValueError(f"the pooling stride must be from 1 to the window's {self.pool}, got {self.stride}")

    @property
    def padding(self) -> int:
        """Zeros on each side: the map keeps its rows and columns."""
        return self.kernel // 2

    @property
    def pool_padding(self) -> int:
        """Positions on each side that never win."""
        return (self.pool - 1) // 2

    @staticmethod
    def largest_kernel(source: Map) -> int:
        """Return the largest kernel for a map: 2 n - 1, with n the fewer of its rows and columns.

        The outer numbers of a larger one meet nothing but the zeros around the map.
        """
        return 2 * min(source[1:]) - 1

    def output(self, source: Map) -> Map:
        """Return the shape of the layer's activities, after the pooling, of a map of its inputs."""
        rows, columns = (
            (n + 2 * self.pool_padding - self.pool) // self.stride + 1 if self.pool > 1 else n for n in source[1:]
        )
        return self.channels, rows, columns


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network: ``sizes[0]`` inputs, tanh hidden layers, ``sizes[-1]`` linear outputs.

    ``random_hidden`` is the width of the fixed random hidden feedback layer of the DDTP-RHL methods (section B.1).

    The first hidden layers may be convolutions over the inputs as an image; :func:`convolutional` makes the sizes of
    such a network. Activities stay vectors everywhere: those of a convolutional layer are its maps after the pooling,
    in the order channel, row, column. Inputs are images as data sets store them: row, column, channel.
    """

    sizes: tuple[int, ...]
    random_hidden: int = 0
    convolutions: tuple[Convolution, ...] = ()
    """The layers 1, 2, ... that are convolutions; the others are fully connected."""
    image: Map | None = None
    """Channels, rows and columns of the inputs; None for a network without convolutions."""

    def __post_init__(self) -> None:
        if len(self.sizes) < 3 or min(self.sizes) < 1:
            raise ValueError(f"a network needs an input, at least one hidden and an output layer, got {self.sizes}")
        if self.random_hidden < 0:
            raise ValueError(f"random_hidden must not be negative, got {self.random_hidden}")
        if not self.convolutions:
            return
        if not self.image or len(self.convolutions) > len(self.sizes) - 2:
            raise ValueError("convolutions need the shape of an image, and a fully connected layer after them")
        units = tuple(prod(shape) for shape in self.maps)
        if units != self.sizes[: len(units)]:
            raise ValueError(f"the convolutions give {units} units, not {self.sizes[: len(units)]}")

    @property
    def maps(self) -> tuple[Map, ...]:
        """The shapes of the image and of the activities of each convolutional layer; empty without convolutions."""
        if not self.image:
            return ()
        maps = [self.image]
        for convolution in self.convolutions:
            maps.append(convolution.output(maps[-1]))
        return tuple(maps)

    @property
    def depth(self) -> int:
        """L, the number of layers with parameters; layer L is the output."""
        return len(self.sizes) - 1

    @property
    def hidden(self) -> range:
        """The hidden layers 1 .. L-1."""
        return range(1, self.depth)

    @property
    def layers(self) -> range:
        """The layers 1 .. L."""
        return range(1, self.depth + 1)

    def __str__(self) -> str:
        """Return the layers in a word: ``784-256-10``, ``32x32x3-conv32-conv64-512-10``."""
        if not self.image:
            return "-".join(map(str, self.sizes))
        channels, rows, columns = self.image
        first = [f"{rows}x{columns}x{channels}", *(f"conv{layer.channels}" for layer in self.convolutions)]
        return "-".join([*first, *map(str, self.sizes[len(first) :])])

    def is_convolution(self, layer: int) -> bool:
        """Return whether a layer (from 1) is a convolution."""
        return layer <= len(self.convolutions)


def convolutional(
    image: Map, convolutions: Sequence[Convolution], widths: Sequence[int], random_hidden: int = 0
) -> Architecture:
    """Return a network of convolutions over an image and fully connected layers after them.

    Args:
        image: channels, rows and columns of the inputs.
        convolutions: the first hidden layers.
        widths: of the fully connected layers; the last is the output.
        random_hidden: as of :class:`Architecture`.

    Raises:
        ValueError: the layers make no network.

    Example:
        ``convolutional((3, 32, 32), [Convolution(32), Convolution(64)], [512, 10])``
    """
    maps = [image]
    for convolution in convolutions:
        maps.append(convolution.output(maps[-1]))
    sizes = (*(prod(shape) for shape in maps), *widths)
    return Architecture(sizes, random_hidden, tuple(convolutions), image if convolutions else None)


def of_layer(values: Tensor, layer: int) -> Tensor:
    """Return the numbers of a layer (P,), of a hyperparameter's (P,) or of one for each layer from 1 on, (P, n)."""
    return values if values.dim() == 1 else values[:, layer - 1]


# Schedules of section B.1: a workload says how many epochs SLEEP and EXTRA are.
JOINT = "joint"
"""Feedback parameters, if trained, are trained in the joint epochs alone."""
SLEEP = "sleep"
"""Feedback pretraining, and pure feedback epochs between the joint epochs."""
EXTRA = "extra"
"""The longer pretraining and pure feedback epochs of the "extra FB" methods."""
SCHEDULES = (JOINT, SLEEP, EXTRA)


@dataclass(frozen=True)
class Feedback:
    """A feedback map g_i: which layer it reads and what it is made of."""

    direct: bool
    """Reads the output layer; otherwise the next layer."""
    squash: bool
    """tanh around the affine map."""
    random_hidden: bool = False
    """A fixed tanh layer (R, d) between the output and Q_i; the last hidden layer is reached without it."""
    recurrent: bool = False
    """S_i h_i is added, except for the last hidden layer."""

    def through_random(self, i: int, architecture: Architecture) -> bool:
        """Return whether g_i reads the random hidden layer.

        The authors' DDTP-RHL sends the output target to the last hidden layer directly, and the published numbers were
        made with that, so the map of layer L-1 is ``tanh(Q h_L + c)``.
        """
        return self.random_hidden and i < architecture.depth - 1

    def shapes(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the trained arrays ``Q{i}``, ``c{i}`` and, if recurrent, ``S{i}``.

        The map to a convolutional layer has no bias, as in the authors' code.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for i in architecture.hidden:
            size = architecture.sizes[i]
            shapes[f"Q{i}"] = (size, self.source_size(i, architecture))
            if self.has_bias(i, architecture):
                shapes[f"c{i}"] = (size,)
            if self.has_recurrence(i, architecture):
                shapes[f"S{i}"] = (size, size)
        return shapes

    def fixed_shapes(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the fixed arrays ``R`` and ``d`` of a random hidden layer."""
        if not self.random_hidden:
            return {}
        return {"R": (architecture.random_hidden, architecture.sizes[-1]), "d": (architecture.random_hidden,)}

    def has_bias(self, i: int, architecture: Architecture) -> bool:
        """Return whether g_i has the bias c_i."""
        return not architecture.is_convolution(i)

    def has_recurrence(self, i: int, architecture: Architecture) -> bool:
        """Return whether g_i has the recurrent matrix S_i."""
        return self.recurrent and i < architecture.depth - 1

    def source_size(self, i: int, architecture: Architecture) -> int:
        """Return the width of what Q_i multiplies."""
        if self.through_random(i, architecture):
            return architecture.random_hidden
        return architecture.sizes[-1] if self.direct else architecture.sizes[i + 1]


LAYERWISE_LINEAR = Feedback(direct=False, squash=False)
LAYERWISE_TANH = Feedback(direct=False, squash=True)
DIRECT_LINEAR = Feedback(direct=True, squash=False)
DIRECT_RANDOM_HIDDEN = Feedback(direct=True, squash=True, random_hidden=True)
DIRECT_RECURRENT = Feedback(direct=True, squash=True, random_hidden=True, recurrent=True)


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction loss: ``scale(sigma) * mean over batch and units of (reconstruction - corrupted)^2``."""

    through_output: bool
    """The corrupted activity goes to the output layer (equation 9); otherwise to the next layer (equation 4)."""
    corrected: bool
    """The reconstruction has the difference correction ``+ h_i - g_i(s)``."""
    scale: Callable[[Tensor], Tensor]
    """Scale of the loss as a function of sigma, (P,) or (P, L-1)."""
    curvature: bool = False
    """The loop passes the factor K_L of the loss's Hessian (equation 192)."""


LAYERWISE = Reconstruction(
    through_output=False, corrected=False, scale=lambda sigma: 1 / sigma.clamp_min(0.02).square()
)
"""DTP's loss (equation 4, Algorithm 1); the authors' code bounds the scale at sigma = 0.02."""
DIFFERENCE = Reconstruction(through_output=True, corrected=True, scale=lambda sigma: 1 / sigma.square())
"""The difference reconstruction loss (equation 9, Algorithms 2-4), its regulariser replaced by weight decay."""
GENERALISED = Reconstruction(
    through_output=True, corrected=True, scale=lambda sigma: 1 / sigma.square(), curvature=True
)
"""The difference reconstruction loss with K_L at the output, for generalised Gauss-Newton targets (equation 192)."""
CONTROL = Reconstruction(through_output=True, corrected=False, scale=lambda sigma: sigma.new_ones(sigma.shape))
"""DDTP-control's loss (Algorithm 5): a loop through the output, no difference correction."""


@dataclass(frozen=True)
class Draw:
    """The inputs of an initialiser: one array of one member."""

    shape: tuple[int, ...]
    """Of the array, without the member dimension."""
    generator: Generator
    """The member's own random stream for this array."""
    configuration: Configuration
    arrays: Mapping[str, Tensor]
    """The member's initial forward parameters by name, ``W1`` (n_1, n_0) and so on, and its arrays drawn before, in
    float64."""


Initialise = Callable[[Draw], "Tensor"]
"""Returns the initial values of an array, in its shape; in float64, so that all precisions start alike."""


@dataclass(frozen=True)
class RuleArray:
    """An array of a rule's own: one for every member, drawn from its seed; in checkpoints and exported networks.

    Example:
        ``Method(..., arrays=lambda architecture: {"F": RuleArray((architecture.sizes[0], architecture.sizes[-1]))})``
    """

    shape: tuple[int, ...]
    """Without the member dimension."""
    initialise: Initialise | None = None
    """None: Xavier-normal numbers for a matrix, zeros for anything else."""
    trained: bool = False
    """The feedback phase's Adam steps train it."""


WEIGHT_TRANSPORT = "weight transport"
SIGNS = "signs of the weights"
SYMMETRIC = "symmetric updates"
NOISE = "noise"
SECOND_PASS = "second pass"
FIXED = "fixed feedback"
NEEDS = (WEIGHT_TRANSPORT, SIGNS, SYMMETRIC, NOISE, SECOND_PASS, FIXED)
"""What a rule needs to learn its feedback, the most demanding first: the transposed weights (or inverses made of them);
their signs; equal steps of two matrices; noise that trains the feedback; another pass or relaxation of the network;
nothing beyond random matrices that stay fixed."""

BEFORE = "before"
"""A feedback phase that runs before the rule gets the minibatch, which then sees the changed arrays."""
AFTER = "after"
"""A feedback phase that runs after the step of the forward parameters."""


@dataclass(frozen=True)
class FeedbackPhase:
    """Training of the feedback map's and the rule's own arrays by a function, once or more per minibatch.

    It runs in joint steps and, unless it is declared otherwise, in the epochs of pure feedback training.
    """

    train: Callable[[Minibatch, list[Tensor], Parameters], Tensor | None]
    """Gets the minibatch, the noise of one step and the arrays' gradients, all zero: it writes gradients into them. It
    may return losses of every member (P, n)."""
    when: str = BEFORE
    """:data:`BEFORE` or :data:`AFTER`."""
    noise: Callable[[Architecture], tuple[int, ...]] | None = None
    """Widths of the standard-normal draws of one step, each (P, B, width); None: it needs none."""
    steps: str = ""
    """The hyperparameter that is the number of steps per minibatch; empty: one. Where it is a list, the arrays of each
    hidden layer's feedback map take part in their own number of steps, and losses are (P, L-1)."""
    draws: str = ""
    """The hyperparameter that is the number of times that one step draws this noise, one after the other; empty: once.
    A phase of several steps draws once in each."""
    own_step: bool = False
    """The function changes the arrays itself, and there is no optimiser; the gradients are then empty."""
    alone: bool = True
    """It also runs in epochs of pure feedback training, without a step of the weights."""
    losses: bool = False
    """The function returns losses: they become the curve ``reconstruction_loss``."""
