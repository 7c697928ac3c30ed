"""What a pack is trained on: the data as one tensor per split, the network and the protocol's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tpbench.engine.network import stream
from tpbench.engine.parts import Architecture
from tpbench.engine.precision import Loss, cross_entropy
from tpbench.engine.splits import first_of_each_class, loses_class


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
    batch_size: int
    scale: float = 1.0
    shift: float = 0.0
    loss: Loss = cross_entropy
    trained_layers: tuple[int, ...] | None = None
    """Layers whose forward parameters train; None: all."""
    keeps_classes: bool = False
    """Whether a seed whose random validation samples would be all of a class draws them class by class instead."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_size < len(self.x_train):
            raise ValueError(f"validation_size {self.validation_size} leaves no samples of {len(self.x_train)}")

    @property
    def trained(self) -> tuple[int, ...]:
        return self.trained_layers or tuple(self.architecture.layers)

    @property
    def training_size(self) -> int:
        """Samples of the training split."""
        return len(self.x_train) - self.validation_size

    def to(self, device: torch.device | str) -> Problem:
        """The same problem with its data on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
        return Problem(**{**self.__dict__, **moved})

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Training and validation sample numbers of a seed (section B.1); nothing but the seed decides."""
        order = torch.randperm(len(self.x_train), generator=stream(seed, "split"))
        if self.keeps_classes:
            labels, drawn = self.y_train.cpu().numpy(), order.numpy()
            if loses_class(labels, drawn[self.validation_size :]):
                order = torch.from_numpy(first_of_each_class(drawn, labels))
        return order[self.validation_size :], order[: self.validation_size]

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored rows as network inputs."""
        values = rows.to(dtype)
        if values is rows:
            values = rows.clone()
        return values.mul_(self.scale).add_(self.shift)

    def batch(self, samples: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Gather training-set samples.

        Args:
            samples: sample numbers of every member, (P, B).
            dtype: precision of the inputs.

        Returns:
            Inputs (P, B, n_0) and labels (P, B) or (P, B, n_L).
        """
        flat = samples.reshape(-1)
        x = self.inputs(self.x_train.index_select(0, flat), dtype)
        y = self.y_train.index_select(0, flat)
        if y.is_floating_point():
            y = y.to(dtype)
        return x.view(*samples.shape, -1), y.view(*samples.shape, *y.shape[1:])
