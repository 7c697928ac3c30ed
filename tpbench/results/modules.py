"""Trained networks as torch modules, and as files for programs without tpbench."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tpbench.engine.files import atomic_write, check_target
from tpbench.engine.parts import Map
from tpbench.results.networks import EXPORTS, TrainedNetwork, network_of
from tpbench.results.opening import find_record
from tpbench.results.store import RunStore


class Samples(nn.Flatten):
    """Flattens samples; for a convolution it turns them into maps.

    Args:
        image: channels, rows and columns of the maps; None: a fully connected layer follows.
    """

    def __init__(self, image: Map | None) -> None:
        super().__init__()
        self.image = image

    def forward(self, input: Tensor) -> Tensor:
        """Return rows (B, n_0), or maps (B, C, H, W), of samples (B, ...) in the order row, column, channel."""
        rows = super().forward(input)
        if not self.image:
            return rows
        channels, height, width = self.image
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return "image={}x{}x{}".format(*self.image) if self.image else ""


class Inputs(Samples):
    """Flattens samples of stored numbers and normalises them as the run did: ``number * scale + shift``.

    Args:
        scale, shift: of the normalisation.
        dtype: of the network.
        image: as of :class:`Samples`.
    """

    def __init__(self, scale: float, shift: float, dtype: torch.dtype, image: Map | None = None) -> None:
        super().__init__(image)
        self.scale, self.shift, self.dtype = scale, shift, dtype

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised rows or maps of samples (B, ...), which are integers or floats."""
        rows = super().forward(input)
        if not rows.is_floating_point():
            return rows.to(self.dtype).mul_(self.scale).add_(self.shift)
        # As the run did (tpbench.workloads.own_data): floats in float64, and then in the precision they came in.
        precision = torch.float64 if rows.dtype == torch.float64 else torch.float32
        return (rows.to(torch.float64) * self.scale + self.shift).to(precision).to(self.dtype)

    def extra_repr(self) -> str:
        own = f"scale={self.scale:g}, shift={self.shift:g}"
        return ", ".join(filter(None, (own, super().extra_repr())))


def _layer_modules(network: TrainedNetwork) -> list[nn.Module]:
    """Return the modules after the first one, with parameters that have no numbers."""
    # None are drawn: torch's random stream stays where it is.
    settings: dict[str, Any] = {"device": "meta", "dtype": _parameter(network, 1, "weight").dtype}
    modules: list[nn.Module] = []
    architecture = network.architecture
    for layer, (channels, _, _) in zip(architecture.convolutions, architecture.maps, strict=False):
        modules.append(nn.Conv2d(channels, layer.channels, layer.kernel, padding=layer.padding, **settings))
        if layer.pool > 1:
            modules.append(nn.MaxPool2d(layer.pool, layer.stride, layer.pool_padding))
        modules.append(nn.Tanh())
    if modules:
        modules.append(nn.Flatten())
    dense = network.sizes[len(architecture.convolutions) :]
    for below, width in pairwise(dense):
        modules += [nn.Linear(below, width, **settings), nn.Tanh()]
    return modules[:-1]


def _parameter(network: TrainedNetwork, layer: int, kind: str) -> Tensor:
    return torch.from_numpy(np.array(network.arrays[f"forward.{layer}.{kind}"]))


def state_dict(network: TrainedNetwork) -> dict[str, Tensor]:
    """Return the forward parameters by their names in :func:`sequential`: ``1.weight``, ``1.bias``, ``3.weight``."""
    places = [k for k, module in enumerate(_layer_modules(network), start=1) if [*module.parameters()]]
    return {
        f"{place}.{kind}": _parameter(network, layer, kind)
        for layer, place in enumerate(places, start=1)
        for kind in ("weight", "bias")
    }


def sequential(network: TrainedNetwork, *, normalise: bool = True) -> nn.Sequential:
    """Return ``Sequential(Inputs, Linear, Tanh, ..., Linear)``, whose outputs (B, n_L) are logits.

    Convolutional layers are ``Conv2d, MaxPool2d, Tanh`` after the inputs, and ``Flatten`` follows the last.

    Args:
        normalise: take numbers as the data set stores them; otherwise inputs in their order, but normalised.
    """
    state = state_dict(network)
    dtype, image = state["1.weight"].dtype, network.image
    first: nn.Module = Samples(image) if image else nn.Flatten()
    if normalise:
        first = Inputs(network.scale, network.shift, dtype, image)
    sequence = nn.Sequential(first, *_layer_modules(network))
    sequence.load_state_dict(state, assign=True)
    return sequence


def export_network(store: RunStore, run_id: str, path: Path) -> TrainedNetwork:
    """Write the forward parameters of a run's network to a file that ``Sequential.load_state_dict`` takes.

    Args:
        path: ``.safetensors``, ``.pt`` (tensors alone, for ``torch.load(weights_only=True)``) or ``.npz``.

    Raises:
        UsageError: there is no such run, several begin so, or the file's name has another ending.
        TpbenchError: the network was not kept, is damaged, or comes from another training of the run; or the file
            cannot be written.
    """
    check_target(path, EXPORTS)
    network = network_of(store, find_record(store, run_id))
    state = state_dict(network)
    with atomic_write(path) as file:
        if path.suffix.lower() == ".pt":
            torch.save(state, file)
        elif path.suffix.lower() == ".npz":
            arrays: dict[str, Any] = {name: values.numpy() for name, values in state.items()}
            np.savez(file, **arrays)
        else:
            from safetensors.torch import save

            about = {"run": network.run, "sizes": network.sizes, "scale": network.scale, "shift": network.shift}
            if network.convolutions:
                about |= {"convolutions": list(map(asdict, network.convolutions)), "image": network.image}
            file.write(save(state, {"format": "pt", "tpbench": json.dumps(about)}))
    return network
