"""Trained networks as torch modules, and as files for programs without tpbench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tpbench.engine.files import atomic_write, check_target
from tpbench.results.networks import EXPORTS, TrainedNetwork, network_of
from tpbench.results.opening import find_record
from tpbench.results.store import RunStore


class Inputs(nn.Flatten):
    """Flattens samples of stored numbers and normalises them as the run did: ``number * scale + shift``.

    Args:
        scale, shift: of the normalisation.
        dtype: of the network.
    """

    def __init__(self, scale: float, shift: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale, self.shift, self.dtype = scale, shift, dtype

    def forward(self, input: Tensor) -> Tensor:
        """Return rows (B, n_0) of samples (B, ...), which are integers or floats."""
        rows = super().forward(input)
        if not rows.is_floating_point():
            return rows.to(self.dtype).mul_(self.scale).add_(self.shift)
        # As the run did (tpbench.workloads.own_data): floats in float64, and then in the precision they came in.
        precision = torch.float64 if rows.dtype == torch.float64 else torch.float32
        return (rows.to(torch.float64) * self.scale + self.shift).to(precision).to(self.dtype)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, shift={self.shift:g}"


def state_dict(network: TrainedNetwork) -> dict[str, Tensor]:
    """Return the forward parameters by their names in :func:`sequential`: ``1.weight``, ``1.bias``, ``3.weight``."""
    return {
        f"{2 * i - 1}.{kind}": torch.from_numpy(np.array(network.arrays[f"forward.{i}.{kind}"]))
        for i in range(1, len(network.sizes))
        for kind in ("weight", "bias")
    }


def sequential(network: TrainedNetwork, *, normalise: bool = True) -> nn.Sequential:
    """Return ``Sequential(Inputs, Linear, Tanh, ..., Linear)``, whose outputs (B, n_L) are logits.

    Args:
        normalise: take numbers as the data set stores them; otherwise the first module is ``nn.Flatten`` alone.
    """
    state = state_dict(network)
    dtype = state["1.weight"].dtype
    modules: list[nn.Module] = [Inputs(network.scale, network.shift, dtype) if normalise else nn.Flatten()]
    for below, width in zip(network.sizes, network.sizes[1:], strict=False):
        # Without numbers of its own, none of which are drawn: torch's random stream stays where it is.
        modules += [nn.Linear(below, width, device="meta", dtype=dtype), nn.Tanh()]
    sequence = nn.Sequential(*modules[:-1])
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
            file.write(save(state, {"format": "pt", "tpbench": json.dumps(about)}))
    return network
