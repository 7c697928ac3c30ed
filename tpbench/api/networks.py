"""Trained networks from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpbench.api.asked import Place, one_name, place
from tpbench.api.words import for_python
from tpbench.results.opening import read_store

if TYPE_CHECKING:
    import torch
    from torch import nn


@for_python
def load_network(
    results: Place, run_id: str, *, normalise: bool = True, device: torch.device | str = "cpu"
) -> nn.Sequential:
    """The network of a run after its selected epoch, the one whose test error is the run's.

    Args:
        results: the store: a folder or a URL.
        run_id: the run's id, or at least its first 8 digits.
        normalise: the network takes numbers as the data set stores them (images of built-in data sets: whole numbers, 0
            to 255, digits 0 to 16) in samples of any shape (B, ...); otherwise inputs that are normalised already.
        device: where its parameters are.

    Returns:
        ``Sequential(Inputs, Linear, Tanh, ..., Linear)`` with outputs (B, classes), logits, in the run's precision.

    Raises:
        UsageError: there is no such store, run or device, or several runs begin so.
        TpbenchError: the network was not kept, is damaged, or comes from another training of the run.
    """
    from tpbench.results.modules import sequential
    from tpbench.results.networks import network_of
    from tpbench.results.opening import find_record
    from tpbench.training.devices import choose_device

    where = choose_device(str(device))
    store = read_store(place(results))
    network = network_of(store, find_record(store, one_name(run_id, "run_id")))
    return sequential(network, normalise=normalise).to(where)
