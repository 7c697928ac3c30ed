"""The problem that a pack is trained on: the data as one tensor per split, the network and the protocol's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tpbench.engine.network import Loss, cross_entropy, stream
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import Workspace
from tpbench.engine.splits import first_of_each_class, loses_class

# Samples that are rounded at once.
_ROWS = 1000


@dataclass(frozen=True)
class Problem:
    """Data, network and protocol of a workload, in the engine's terms.

    Inputs stay as they were stored (uint8 images take a quarter of the memory) and become ``x * scale + shift`` when a
    minibatch is gathered.
    """

    architecture: Architecture
    x_train: Tensor
    """(N, n_0), any dtype."""
    y_train: Tensor
    """(N,) int64 labels, or (N, n_L) label vectors."""
    x_test: Tensor
    y_test: Tensor
    validation_size: int
    """Samples that are kept from training to select an epoch; 0: all samples train."""
    batch_size: int
    scale: float = 1.0
    shift: float = 0.0
    loss: Loss = cross_entropy
    trained_layers: tuple[int, ...] | None = None
    """Layers whose forward parameters train; None: all."""
    keeps_classes: bool = False
    """A seed whose random validation samples would be all of a class draws them class by class instead."""

    def __post_init__(self) -> None:
        for what, x, y in (("training", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if len(x) != len(y) or x.shape[1:].numel() != self.architecture.sizes[0]:
                raise ValueError(
                    f"{what} samples {tuple(x.shape)} and labels {tuple(y.shape)} of a network with "
                    f"{self.architecture.sizes[0]} inputs"
                )
        if not 0 <= self.validation_size < len(self.x_train):
            raise ValueError(f"validation_size {self.validation_size} leaves no samples of {len(self.x_train)}")

    @property
    def trained(self) -> tuple[int, ...]:
        """Layers whose forward parameters train."""
        return self.trained_layers or tuple(self.architecture.layers)

    @property
    def training_size(self) -> int:
        """Samples of the training split."""
        return len(self.x_train) - self.validation_size

    def to(self, device: torch.device | str) -> Problem:
        """Return the same problem with its data on a device."""
        names = ("x_train", "y_train", "x_test", "y_test")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return training and validation sample numbers of a seed (section B.1), which depend on nothing else."""
        order = torch.randperm(len(self.x_train), generator=stream(seed, "split"))
        if self.keeps_classes:
            labels, drawn = self.y_train.cpu().numpy(), order.numpy()
            if loses_class(labels, drawn[self.validation_size :]):
                order = torch.from_numpy(first_of_each_class(drawn, labels))
        return order[self.validation_size :], order[: self.validation_size]

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return stored rows as network inputs."""
        values = rows.to(dtype)
        if values is rows:
            values = rows.clone()
        return values.mul_(self.scale).add_(self.shift)

    def rounded_inputs(self, dtype: torch.dtype) -> Tensor:
        """Return the inputs of all training-set samples (N, n_0) in bfloat16, rounded from ``dtype``."""
        rounded = torch.empty(self.x_train.shape, dtype=torch.bfloat16, device=self.x_train.device)
        for rows, out in zip(torch.split(self.x_train, _ROWS), torch.split(rounded, _ROWS), strict=True):
            out.copy_(self.inputs(rows, dtype))
        return rounded

    def batch(
        self, samples: Tensor, dtype: torch.dtype, rounded: Tensor | None = None, memory: Workspace | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gather training-set samples.

        Args:
            samples: sample numbers of every member, (P, B).
            dtype: precision of the inputs.
            rounded: :meth:`rounded_inputs`, where the inputs are wanted in bfloat16.
            memory: of the same type, for those inputs; they last until the next minibatch.

        Returns:
            Inputs (P, B, n_0) and labels (P, B) or (P, B, n_L).
        """
        flat = samples.reshape(-1)
        if rounded is None or memory is None:
            x = self.inputs(self.x_train.index_select(0, flat), dtype)
        else:
            x = torch.index_select(rounded, 0, flat, out=memory("inputs", len(flat), rounded.shape[1]))
        y = self.y_train.index_select(0, flat)
        if y.is_floating_point():
            y = y.to(dtype)
        return x.view(*samples.shape, -1), y.view(*samples.shape, *y.shape[1:])

    def test_chunks(self, size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs (n, n_0) and labels (n,) of the test samples, at most ``size`` at a time."""
        for x, y in zip(torch.split(self.x_test, size), torch.split(self.y_test, size), strict=True):
            yield self.inputs(x, dtype), y
