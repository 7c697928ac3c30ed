"""The network of a pack: its parameters, its layers and its output loss.

Every array has a leading member dimension P. The parameters of one kind (forward or feedback) of a whole pack lie in
one buffer with a named view per array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod, sqrt
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from tpbench.engine.convolution import (
    PoolingMemory,
    channels_last,
    largest_of_windows,
    pool,
    pooled_change,
    send_to_winners,
)
from tpbench.engine.parts import Architecture, Convolution, Map
from tpbench.engine.precision import EXACT_MATMUL, MatmulPolicy, Workspace, tanh_, tanh_difference_

# Offsets of the arrays in a buffer are multiples of this many elements, so that vector loads stay aligned.
_ALIGNMENT = 16


class Parameters:
    """Named arrays of a pack in one buffer: ``self[name]`` has the shape (P, ...) and is contiguous.

    The buffer is ordered by array, not by member: the products that write gradients run 10 to 20 % faster into
    contiguous arrays (``benchmarks/layout.py``), and the fused optimiser takes a member's arrays as a list.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], members: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shapes, self.members = dict(shapes), members
        offsets, total = [], 0
        for shape in self.shapes.values():
            offsets.append(total)
            total += -(-members * prod(shape) // _ALIGNMENT) * _ALIGNMENT
        self.flat = torch.zeros(total, dtype=dtype, device=device)
        self._views = {
            name: self.flat[start : start + members * prod(shape)].view(members, *shape)
            for start, (name, shape) in zip(offsets, self.shapes.items(), strict=True)
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def largest(self) -> Tensor:
        """Return the largest magnitude of every member (P,); not finite if one of its numbers is not."""
        rows = [view.flatten(1) for view in self._views.values()]
        # On a CPU in a quarter of the time that the norm takes.
        largest = [torch.maximum(row.amax(dim=1), -row.amin(dim=1)) for row in rows]
        return torch.stack(largest).sum(dim=0)

    def like(self, names: Iterable[str] | None = None) -> Parameters:
        """Return a buffer of the same layout filled with zeros; of the named arrays only, if some are named."""
        shapes = {name: self.shapes[name] for name in names or self.shapes}
        return Parameters(shapes, self.members, dtype=self.flat.dtype, device=self.flat.device)

    def select(self, members: list[int]) -> Parameters:
        """Return a new buffer that holds a copy of the named members only."""
        chosen = Parameters(self.shapes, len(members), dtype=self.flat.dtype, device=self.flat.device)
        chosen.copy_members(self, members)
        return chosen

    def copy_members(self, other: Parameters, members: list[int]) -> None:
        """Copy some members of another buffer, as many as this one has."""
        for name, view in self._views.items():
            view.copy_(other[name][members])


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return the random stream of one seed for one purpose (and one epoch).

    Streams are made anew from (seed, purpose, index), never carried along: the numbers of a seed depend neither on its
    pack nor on an interruption.
    """
    words = [seed & 0xFFFFFFFF, seed >> 32, index, *purpose.encode()]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def xavier_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw Xavier-normal weights (n', n) or kernels (C', C, k, k), in float64 so that all precisions start alike."""
    fans = sum(shape[:2]) * prod(shape[2:])
    return torch.randn(shape, generator=generator, dtype=torch.float64) * sqrt(2.0 / fans)


@dataclass(frozen=True)
class _Layer:
    """The place of a layer in a network.

    It holds no numbers: its methods get the parameters of a pack, and find ``W{i}`` and ``b{i}`` in them by name.
    """

    index: int
    inputs: int
    units: int
    squash: bool
    """tanh after the affine map."""

    @property
    def weight(self) -> str:
        return f"W{self.index}"

    @property
    def bias(self) -> str:
        return f"b{self.index}"


@dataclass(frozen=True)
class Dense(_Layer):
    """Layer i of a network, ``h_i = f(W_i h_{i-1} + b_i)`` with f tanh or, at the output, the identity."""

    loss_weight: ClassVar[float] = 1.0
    """Weight of each unit in the local loss."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters by name, without the member dimension."""
        return {self.weight: (self.units, self.inputs), self.bias: (self.units,)}

    def initialise(self, parameters: Parameters, member: int, generator: torch.Generator) -> None:
        """Draw the parameters of one member: Xavier-normal weights and zero biases (section B.1)."""
        parameters[self.weight][member] = xavier_normal((self.units, self.inputs), generator)
        parameters[self.bias][member] = 0.0

    def forward(
        self,
        parameters: Parameters,
        x: Tensor,
        out: Tensor,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> None:
        """Write the activities (P, B, n_i) of inputs (P, B, n_{i-1}) to ``out`` (equation 1)."""
        matmul.linear(x, parameters[self.weight], parameters[self.bias], out)
        if self.squash:
            tanh_(out)

    def gradient(
        self,
        error: Tensor,
        slope: Tensor | None,
        x: Tensor,
        into: Parameters,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> None:
        """Write the gradients of ``W{i}`` and ``b{i}`` for a given error at the layer's output.

        Args:
            error: derivative of the local loss with respect to h_i (P, B, n_i); changed in place.
            slope: of f at h_i (P, B, n_i); None where f is the identity.
            x: the layer's inputs (P, B, n_{i-1}).
            into: receives the gradients.
            matmul: multiplies.
            pooling: of the forward pass, for layers that pool.
        """
        if slope is not None:
            error *= slope
        matmul.weight_gradient(error, x, into[self.weight])
        torch.sum(error, dim=1, out=into[self.bias])

    def difference(
        self,
        parameters: Parameters,
        change: Tensor,
        h: Tensor,
        slope: Tensor | None,
        out: Tensor,
        workspace: Workspace,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> Tensor:
        """Write the changes of the layer's output to ``out`` when its inputs change, without cancellation.

        Args:
            parameters: of the pack.
            change: m changes of the inputs, (P, m, B, n_{i-1}).
            h: the layer's activities (P, B, n_i).
            slope: of f at h_i (P, B, n_i); None where f is the identity.
            out: receives the changes of the activities, (P, m, B, n_i).
            workspace: working memory.
            matmul: multiplies.
            pooling: of the forward pass, for layers that pool.
        """
        matmul.linear_difference(change, parameters[self.weight], out)
        if slope is not None:
            tanh_difference_(h.unsqueeze(1), slope.unsqueeze(1), out, workspace("tanh difference", *out.shape))
        return out

    def backward(
        self,
        parameters: Weights,
        error: Tensor,
        matmul: MatmulPolicy | None = None,
        pooling: PoolingMemory | None = None,
    ) -> Tensor:
        """Return the error of the inputs (P, R, n_{i-1}) of an error of the pre-activations (P, R, n_i).

        Args:
            parameters: of the pack, by name.
            error: a row for each sample, or several.
            matmul: multiplies; None: exactly.
            pooling: of the forward pass, for layers that pool.
        """
        return (matmul or EXACT_MATMUL).backward(error, parameters[self.weight])


@dataclass(frozen=True)
class ConvolutionLayer(_Layer):
    """Layer i of a network: convolution, max-pooling and tanh; h_i are the maps after the pooling.

    The activities of all layers are vectors: maps in the order channel, row, column, but for the inputs, which are
    images as data sets store them (row, column, channel). Its methods are those of :class:`Dense`; where they speak of
    pre-activations, these are the pooled ones. Members are done one by one: no exact form of convolution over a whole
    pack is faster on a CPU.
    """

    declared: Convolution
    source: Map
    """Channels, rows and columns of the inputs."""

    @property
    def before(self) -> Map:
        """The shape before the pooling."""
        return self.declared.channels, *self.source[1:]

    @property
    def output(self) -> Map:
        """The shape of the activities."""
        return self.declared.output(self.source)

    @property
    def loss_weight(self) -> float:
        """Weight of each unit in the local loss, which is a mean over units here (as in the authors' code)."""
        return 1.0 / self.units

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters by name, without the member dimension."""
        size = self.declared.kernel
        channels = self.declared.channels
        return {self.weight: (channels, self.source[0], size, size), self.bias: (channels,)}

    def initialise(self, parameters: Parameters, member: int, generator: torch.Generator) -> None:
        """Draw the parameters of one member: Xavier-normal kernels and zero biases."""
        parameters[self.weight][member] = xavier_normal(self.shapes[self.weight], generator)
        parameters[self.bias][member] = 0.0

    def forward(
        self,
        parameters: Parameters,
        x: Tensor,
        out: Tensor,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> None:
        """Write the activities; ``pooling`` gets what gradients and differences need afterwards."""
        weights, biases = parameters[self.weight], parameters[self.bias]
        pools = pooling is not None and self.declared.pool > 1
        if pooling and pools:
            winners = pooling.winners(self.index, x.shape[0], x.shape[1], self.output)
            # Nothing changes the inputs of the network.
            pooling.before[self.index] = []
        for p in range(len(x)):
            maps = matmul.convolve(self._maps(x[p]), weights[p], biases[p])
            if pooling and pools:
                pooled = pool(maps, self.declared, winners[p], pooling.maps)
                if self.index > 1:
                    pooling.before[self.index].append(maps)
            else:
                pooled = largest_of_windows(maps, self.declared)
            out[p].view(-1, *self.output).copy_(pooled)
        tanh_(out)

    def gradient(
        self,
        error: Tensor,
        slope: Tensor | None,
        x: Tensor,
        into: Parameters,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> None:
        """Write the gradients of the kernels and biases: the error goes to the winners of the pooling alone."""
        if slope is not None:
            error *= slope
        for p in range(len(x)):
            sent = self._before_pooling(error[p], p, pooling)
            matmul.kernel_gradient(sent, self._maps(x[p]), into[self.weight][p])
        torch.sum(error.view(len(error), -1, self.output[0], prod(self.output[1:])), dim=(1, 3), out=into[self.bias])

    def difference(
        self,
        parameters: Parameters,
        change: Tensor,
        h: Tensor,
        slope: Tensor | None,
        out: Tensor,
        workspace: Workspace,
        matmul: MatmulPolicy = EXACT_MATMUL,
        pooling: PoolingMemory | None = None,
    ) -> Tensor:
        """Write the changes of the activities when the inputs change; the winners of the pooling may change too.

        Raises:
            ValueError: it is the first layer and pools: no rule changes the inputs, and its maps are not kept.
        """
        if self.index == 1 and self.declared.pool > 1:
            raise ValueError("a change of the inputs cannot be sent through the pooling of the first layer")
        weights = parameters[self.weight]
        for p in range(len(change)):
            for given, result in zip(change[p], out[p], strict=True):
                changed = matmul.convolve(self._maps(given), weights[p])
                if self.declared.pool > 1:
                    memory = _required(pooling)
                    winners, before = memory.winners_of(self.index)[p], memory.before[self.index][p]
                    changed = pooled_change(before, winners, changed, self.declared, memory.maps)
                result.view(-1, *self.output).copy_(changed)
        assert slope is not None
        return tanh_difference_(h.unsqueeze(1), slope.unsqueeze(1), out, workspace("tanh difference", *out.shape))

    def backward(
        self,
        parameters: Weights,
        error: Tensor,
        matmul: MatmulPolicy | None = None,
        pooling: PoolingMemory | None = None,
    ) -> Tensor:
        """Return the error of the inputs of an error of the pooled pre-activations (P, R, n_i), in new memory.

        With R a multiple of the batch size, the rows of a sample follow each other.
        """
        products, weights = matmul or EXACT_MATMUL, parameters[self.weight]
        result = error.new_empty(*error.shape[:2], self.inputs)
        for p in range(len(error)):
            sent = self._before_pooling(error[p], p, pooling)
            x = sent.new_empty(len(sent), *self.source[1:], self.source[0]).permute(0, 3, 1, 2)
            maps = products.convolve_back(sent, weights[p], x)
            if self.index == 1:
                maps = maps.permute(0, 2, 3, 1)
            result[p].view(maps.shape).copy_(maps)
        return result

    def _maps(self, rows: Tensor) -> Tensor:
        """Return a member's inputs (B, n_{i-1}) as maps (B, C, H, W), channels last in memory."""
        channels, height, width = self.source
        if self.index == 1:
            return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return channels_last(rows.view(-1, *self.source))

    def _before_pooling(self, error: Tensor, p: int, pooling: PoolingMemory | None) -> Tensor:
        """Return the error (R, C, H, W) before the pooling of a member's after it (R, n_i)."""
        maps = error.view(-1, *self.output)
        if self.declared.pool == 1:
            return channels_last(maps)
        memory = _required(pooling)
        winners = memory.winners_of(self.index)[p]
        if len(maps) > len(winners):
            winners = channels_last(winners.repeat_interleave(len(maps) // len(winners), dim=0))
        scratch = Workspace(error.dtype, error.device) if error.dtype != memory.maps.dtype else memory.maps
        return send_to_winners(maps, winners, self.declared, self.before, scratch)


def _required(pooling: PoolingMemory | None) -> PoolingMemory:
    if pooling is None:
        raise ValueError("a layer that pools needs the memory of the forward pass")
    return pooling


Layer = Dense | ConvolutionLayer
Weights = Mapping[str, Tensor] | Parameters
"""Arrays of a pack by name."""


@lru_cache(maxsize=64)
def network_layers(architecture: Architecture) -> tuple[Layer, ...]:
    """Return the layers 1 .. L of a network, entry i - 1 layer i."""
    sizes, depth, maps = architecture.sizes, architecture.depth, architecture.maps
    convolutions = [
        ConvolutionLayer(i, sizes[i - 1], sizes[i], True, declared, maps[i - 1])
        for i, declared in enumerate(architecture.convolutions, 1)
    ]
    dense = architecture.layers[len(convolutions) :]
    return (*convolutions, *(Dense(i, sizes[i - 1], sizes[i], squash=i < depth) for i in dense))


def forward_parameters(
    layers: Sequence[Layer], members: int, *, dtype: torch.dtype, device: torch.device | str
) -> Parameters:
    """Return the parameters of a network's layers, all zero; :meth:`Dense.initialise` draws them."""
    shapes = {name: shape for layer in layers for name, shape in layer.shapes.items()}
    return Parameters(shapes, members, dtype=dtype, device=device)


def forward(
    layers: Sequence[Layer],
    parameters: Parameters,
    activities: Sequence[Tensor],
    matmul: MatmulPolicy = EXACT_MATMUL,
    pooling: PoolingMemory | None = None,
) -> None:
    """Propagate ``activities[0]`` (P, B, n_0) through the layers, writing ``activities[1..L]`` in place.

    Args:
        layers: of the network.
        parameters: of the pack.
        activities: h_0 .. h_L, (P, B, n_i).
        matmul: multiplies.
        pooling: gets what gradients and differences of convolutional layers need; None: there will be none.
    """
    for layer in layers:
        layer.forward(parameters, activities[layer.index - 1], activities[layer.index], matmul, pooling)


class Loss(Protocol):
    """An output loss: what the network is trained on and what counts as an error."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses, errors and output gradient, as :func:`cross_entropy` does."""


def cross_entropy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute softmax and cross-entropy as one output loss (equation 161).

    The gradient ``p - l`` is formed as ``-(sum of the other probabilities)`` for the labelled class, because ``p - 1``
    loses all digits once the network is sure of its answer.

    Args:
        outputs: linear outputs ``h_L`` of shape (P, B, n_L).
        labels: class labels of shape (P, B), int64.

    Returns:
        The loss of every sample (P, B), whether each is misclassified (P, B), and the gradient of the *mean* loss over
        the batch with respect to ``h_L`` (P, B, n_L).
    """
    index = labels.unsqueeze(-1)
    log_probabilities = torch.log_softmax(outputs, dim=-1)
    losses = -log_probabilities.gather(-1, index).squeeze(-1)
    gradient = log_probabilities.exp()
    gradient.scatter_(-1, index, 0.0)
    gradient.scatter_(-1, index, -gradient.sum(-1, keepdim=True))
    gradient.div_(outputs.shape[-2])
    wrong = outputs.argmax(-1) != labels
    return losses, wrong, gradient


def squared_error(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute half the squared L2 distance to the label vector, the regression loss of the toy experiments (B.3).

    Args:
        outputs: linear outputs ``h_L`` of shape (P, B, n_L).
        labels: target vectors of shape (P, B, n_L).

    Returns:
        As :func:`cross_entropy`; the "error" of a sample is its squared distance, since nothing is classified.
    """
    difference = outputs - labels
    squared = difference.square().sum(-1)
    return squared / 2, squared, difference / outputs.shape[-2]
