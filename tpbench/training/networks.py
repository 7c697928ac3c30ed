"""What is kept of a training beside its runs: the parameters of each run's selected epoch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tpbench.results import RunRecord, RunStore
from tpbench.results.networks import TrainedNetwork, has_network
from tpbench.training.progress import WARNING
from tpbench.workloads import Workload

if TYPE_CHECKING:
    from torch import Tensor

    from tpbench.workloads import Dataset

# Of the engine's arrays, by the letter that they begin with.
_NAMES = {
    "W": "forward.{}.weight",
    "b": "forward.{}.bias",
    "Q": "feedback.{}.weight",
    "c": "feedback.{}.bias",
    "S": "feedback.{}.recurrent",
    "R": "feedback.random.weight",
    "d": "feedback.random.bias",
}
_ARRAY = re.compile(r"([A-Za-z])([0-9]*)")


def array_name(name: str) -> str:
    """The name that an array of the engine has in a network's file: ``forward.1.weight`` of ``W1``."""
    found = _ARRAY.fullmatch(name)
    if not found:
        raise ValueError(f"no array of a pack is called {name!r}")
    return _NAMES[found[1]].format(found[2])


def input_scale(workload: Workload, dataset: Dataset) -> tuple[float, float]:
    """How the workload's problem normalises the data set's stored numbers: ``number * scale + shift``."""
    from tpbench.workloads.own_data import scale_and_shift

    images = dataset.arrays["x_train"]
    return scale_and_shift(workload.normalise, images.reshape(len(images), -1))


def trained_network(
    record: RunRecord, arrays: Mapping[str, Tensor], workload: Workload, scale: float, shift: float
) -> TrainedNetwork:
    """The network of a run that has a selected epoch.

    Args:
        arrays: the member's, as :meth:`tpbench.engine.step.PackState.member` names them.
        scale, shift: of the inputs (:func:`input_scale`).
    """
    d = record.definition
    epoch, validation, test = record.history.selected_epoch, record.validation_error, record.test_error
    if epoch is None or validation is None or test is None:
        raise ValueError(f"the run {d.id} has no epoch to take a network from")
    return TrainedNetwork(
        d.id,
        d.workload,
        d.method,
        d.seed,
        record.precision,
        epoch,
        validation,
        test,
        record.curves_digest,
        workload.architecture.sizes,
        scale,
        shift + 0.0,  # no -0.0
        {array_name(name): values.contiguous().numpy() for name, values in arrays.items()},
    )


def unkept(store: RunStore, records: Iterable[RunRecord | None]) -> int:
    """How many of these runs are without their networks."""
    return sum(not has_network(store, record) for record in records if record)


def spell_unkept(count: int) -> str:
    """A warning that is due after runs were trained again for their networks."""
    runs = f"{count} run{'s are' if count != 1 else ' is'}"
    return (
        f"{WARNING}{runs} without a network still: trained again, the curves did not come out as they are stored "
        "(another machine, device or version trained them). The stored runs stay; for networks choose another --results"
    )
