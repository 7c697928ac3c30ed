"""Run the engine on golden fixtures: numbers made elsewhere, that pin every learning rule.

The format is described in the fixtures' own README: one ``.npz`` per learning rule with the initial parameters, the
minibatches, the noise, everything the first step computed, and the parameters after the first and the last step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpbench.engine.arrays import ArrayArchive
from tpbench.engine.configuration import check_configuration
from tpbench.engine.errors import TpbenchError, UsageError
from tpbench.engine.files import check_name
from tpbench.engine.methods import Method, get_method
from tpbench.engine.parts import Architecture
from tpbench.engine.step import PackState, StepRecord

Array = NDArray[np.float64]

# What fixture files call methods whose schedule, which a fixture does not show, has its own name here.
ALIASES = {"ddtp-rhl-rec": "ddtp-rhl-rec-extra-fb", "gnt-damped": "gnt"}

QUANTITIES = ("activities", "targets", "gradients", "reconstruction losses", "first step", "last step")

# An array that is zero in exact arithmetic is compared on this fraction of its layer's scale.
_ZERO_SCALE = 1e-6

# Memory that the arrays of one file may take; those that ship take less than a hundredth of it.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class FixtureReport:
    """The largest relative error of each quantity of one file, and the bounds that apply (None: no bound)."""

    file: str
    method: str
    errors: dict[str, float]
    bounds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every bounded quantity is within its bound; an error that is not a number is not."""
        return all(self.errors[q] <= bound for q, bound in self.bounds.items() if q in self.errors)


def fixture_bounds(method: str, dtype: torch.dtype) -> dict[str, float]:
    """Bounds on the relative errors: float64 everything to 1e-9; float32 the first gradients, 1e-4 (gnt 1e-3)."""
    if dtype == torch.float64:
        return dict.fromkeys(QUANTITIES, 1e-9)
    return {"gradients": 1e-3 if method == "gnt" else 1e-4}


class Fixture:
    """One golden file, read and checked.

    Raises:
        TpbenchError: the file cannot be read or lacks an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ArrayArchive(path, _MOST_BYTES) as archive:
            self.arrays: dict[str, Array] = archive.read(archive.names)
        try:
            meta = json.loads(str(self.arrays.pop("meta")))
            self.name = str(meta["method"])
            self.architecture = Architecture(
                tuple(int(n) for n in meta["sizes"]), int(meta["hyperparameters"].get("n_rhl", 0))
            )
            self.given = dict(meta["hyperparameters"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TpbenchError(f"{path}: not a readable fixture ({error})") from error
        self.method_name = ALIASES.get(self.name, self.name)
        self.method: Method = get_method(self.method_name)
        wanted = {name: self.given[name] for name in self.method.names if name in self.given}
        self.configuration = check_configuration(wanted, self.method.hyperparameter_specs.values(), where=str(path))

    def __getitem__(self, name: str) -> Array:
        try:
            return self.arrays[name]
        except KeyError:
            raise TpbenchError(f"{self.path}: the array '{name}' is missing") from None

    @property
    def steps(self) -> int:
        return len(self["x_all"])

    def pack(self, members: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> PackState:
        """A pack of identical members that starts from the file's parameters."""
        state = PackState(
            self.method, self.architecture, [self.configuration] * members, [0] * members, dtype=dtype, device=device
        )
        for parameters in (state.forward, state.feedback):
            if parameters:
                for name in parameters:
                    parameters[name].copy_(self.tensor(f"init/{name}", dtype))
        for name in state.fixed:
            state.fixed[name] = self.tensor(name, dtype).to(device).expand_as(state.fixed[name]).contiguous()
        return state

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self[name]).to(dtype)

    def run_step(self, state: PackState, step: int) -> StepRecord:
        """Train one of the file's minibatches."""

        def spread(values: Array) -> Tensor:
            tensor = torch.from_numpy(np.asarray(values)).to(state.device)
            tensor = tensor.to(state.dtype) if tensor.is_floating_point() else tensor
            return tensor.expand(state.members, *tensor.shape).contiguous()

        noise = None
        if self.method.trains_feedback:
            noise = [spread(self[f"noise{i}"][step]) for i in self.architecture.hidden]
        return state.joint_step(spread(self["x_all"][step]), spread(self["y_all"][step]), noise)


def relative_error(mine: Tensor, reference: Array, scale: float = 0.0) -> float:
    """Largest deviation of any member, relative to the largest magnitude of the reference (or ``scale`` if larger)."""
    expected = torch.from_numpy(np.asarray(reference, dtype=np.float64))
    deviation = float((mine.detach().double().cpu() - expected).abs().max())
    magnitude = max(float(expected.abs().max()), scale)
    return deviation / magnitude if magnitude else deviation


def _parameter_errors(state: PackState, fixture: Fixture, when: str) -> float:
    groups = [parameters for parameters in (state.forward, state.feedback) if parameters]
    return _worst(relative_error(p[name], fixture[f"{when}/{name}"]) for p in groups for name in p)


def _gradient_errors(state: PackState, fixture: Fixture) -> Iterable[float]:
    groups = [(state.forward_gradients, f"{kind}{i}", i) for i in fixture.architecture.layers for kind in "Wb"]
    if state.feedback_gradients:
        groups += [(state.feedback_gradients, name, int(name[1:])) for name in state.feedback_gradients]
    for parameters, name, layer in groups:
        kinds = "Wb" if name[0] in "Wb" else "QcS"
        references = [fixture.arrays.get(f"s0/d{kind}{layer}") for kind in kinds]
        scale = _ZERO_SCALE * max(float(np.abs(r).max()) for r in references if r is not None)
        yield relative_error(parameters[name], fixture[f"s0/d{name}"], scale)


def _step_errors(state: PackState, record: StepRecord, fixture: Fixture) -> dict[str, float]:
    """Errors of everything that the first step computed."""
    layers = fixture.architecture.layers
    errors = {"activities": _worst(relative_error(record.activities[i], fixture[f"s0/h{i}"]) for i in layers)}
    if f"s0/hhat{layers[-1]}" in fixture.arrays:
        errors["targets"] = _worst(
            relative_error(record.targets[i - 1], fixture[f"s0/hhat{i}"] - fixture[f"s0/h{i}"]) for i in layers
        )
    errors["gradients"] = _worst(_gradient_errors(state, fixture))
    if record.reconstruction_losses is not None:
        errors["reconstruction losses"] = _worst(
            relative_error(record.reconstruction_losses[:, i - 1], fixture[f"s0/rec_loss{i}"])
            for i in fixture.architecture.hidden
        )
    return errors


def _worst(errors: Iterable[float]) -> float:
    """The largest error; not a number if one is not."""
    values = list(errors)
    return max(values) if all(value == value for value in values) else float("nan")


def verify_fixture(
    path: Path, precision: torch.dtype = torch.float64, members: int = 1, device: torch.device | str = "cpu"
) -> FixtureReport:
    """Train a fixture's minibatches and compare every recorded number.

    Args:
        path: the ``.npz`` file.
        precision: of the pack.
        members: how many identical members the pack has; all are compared.
        device: of the pack.
    """
    fixture = Fixture(path)
    state = fixture.pack(members, precision, device)
    errors: dict[str, float] = {}
    for step in range(fixture.steps):
        record = fixture.run_step(state, step)
        if step == 0:
            errors |= _step_errors(state, record, fixture)
            errors["first step"] = _parameter_errors(state, fixture, "after1")
    errors["last step"] = _parameter_errors(state, fixture, "afterN")
    return FixtureReport(path.name, fixture.name, errors, fixture_bounds(fixture.method_name, precision))


def fixture_files(folder: Path) -> list[Path]:
    """The golden files of a folder.

    Raises:
        UsageError: the folder is missing or holds no ``.npz`` file.
    """
    check_name(folder, "the folder of fixtures")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of fixtures")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UsageError(f"{folder} holds no .npz fixture")
    return files
