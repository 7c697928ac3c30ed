"""Golden files: some minibatches, and the numbers that the authors' implementation of a learning rule gives for them.

A file is an ``.npz`` archive of float64 arrays and int64 labels:

- ``meta``: a JSON text with ``method``, ``sizes`` (units of every layer) and ``hyperparameters``.
- ``x_all`` (steps, B, n_0), ``y_all`` (steps, B): the minibatches in their order; ``noise{i}`` (steps, B, n_i): the
  standard-normal draws that corrupt hidden layer i, where feedback is trained.
- ``init/NAME``, ``after1/NAME``, ``afterN/NAME``: every parameter before the first step, after it, after the last step.
- ``s0/NAME``: what the first step computes. ``h{i}``, ``hhat{i}`` (activities and targets, optional for targets),
  ``dW{i}``, ``db{i}``, ``dQ{i}``, ``dc{i}``, ``dS{i}`` (gradients), ``rec_loss{i}`` (reconstruction losses). ``s1/``,
  ``s2/`` and so on likewise, where the file has them.

A file of a network with convolutions has in ``meta`` ``network`` ("conv"), ``input`` (channels, rows, columns) and
``layers`` instead of ``sizes``. Its images, noise, activities and targets are maps (channel, row, column).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpbench.engine.arrays import ArrayArchive
from tpbench.engine.configuration import check_configuration
from tpbench.engine.errors import TpbenchError, UsageError
from tpbench.engine.files import check_name
from tpbench.engine.methods import Method, get_method
from tpbench.engine.parts import Architecture, Convolution, convolutional
from tpbench.engine.step import PackState, StepRecord
from tpbench.engine.trainer import tf32_products

Array = NDArray[np.float64]

SHIPPED = Path(__file__).parent / "golden_files"
"""The folder of the golden files that are part of the package."""

ALIASES = {"ddtp-rhl-rec": "ddtp-rhl-rec-extra-fb", "gnt-damped": "gnt"}
"""Methods under the names that golden files have for them; a file does not show the schedule that these names tell."""

QUANTITIES = (
    *("activities", "targets", "gradients", "later gradients", "reconstruction losses"),
    *("first step", "last step"),
)
"""Quantities that are compared; the last two are the parameters after these steps."""

# Of networks with convolutions in float32; measured: about a third of these.
_CONVOLUTION_BOUNDS = {
    **dict.fromkeys(("activities", "targets", "gradients", "reconstruction losses"), 3e-6),
    "later gradients": 5e-6,
    **dict.fromkeys(("first step", "last step"), 1e-6),
}

# An array that is zero in exact arithmetic is compared on this fraction of its layer's scale.
_ZERO_SCALE = 1e-6

# Memory that the arrays of one file may take; those that ship take less than a hundredth of it.
_MAX_BYTES = 1 << 30


def relative_error(values: Tensor, expected: Tensor, scale: float = 0.0) -> float:
    """Return the largest deviation, relative to the largest magnitude of ``expected``.

    Args:
        values: of the shape of ``expected``, or of one that it broadcasts to; each is compared.
        expected: the right numbers.
        scale: used instead of the largest magnitude where it is larger.

    Returns:
        0 where all are equal; infinity where a number is not finite, or where all of ``expected`` and ``scale`` are 0
        and a value is not.
    """
    values, expected = values.detach().double().cpu(), expected.detach().double().cpu()
    deviation = float((values - expected).abs().max()) if expected.numel() else 0.0
    if deviation == 0:
        return 0.0
    magnitude = max(float(expected.abs().max()), scale)
    error = deviation / magnitude if magnitude else math.inf
    return math.inf if math.isnan(error) else error


@dataclass(frozen=True)
class GoldenReport:
    """The largest relative error of each quantity of one golden file, and the bounds of those that have one."""

    file: str
    method: str
    errors: dict[str, float]
    bounds: dict[str, float]
    not_covered: str = ""
    """Why the engine cannot compute the file; empty if it can."""

    @property
    def passed(self) -> bool:
        """True if no quantity exceeds its bound."""
        return all(self.errors[q] <= bound for q, bound in self.bounds.items() if q in self.errors)

    @property
    def worst(self) -> str:
        """The quantity with the largest error among those with a bound; empty where nothing is compared."""
        return max((q for q in self.bounds if q in self.errors), key=lambda q: self.errors[q], default="")


def golden_bounds(method: str, dtype: torch.dtype, *, convolutions: bool = False) -> dict[str, float]:
    """Return the bounds of relative errors: in float64 1e-9 for all, in float32 1e-4 for gradients (gnt: 1e-3).

    Those of networks with convolutions are closer in float32, as the winners of a pooling must be the right ones.
    """
    if dtype == torch.float64:
        return dict.fromkeys(QUANTITIES, 1e-9)
    if convolutions:
        return dict(_CONVOLUTION_BOUNDS)
    return {"gradients": 1e-3 if method == "gnt" else 1e-4}


def read_golden_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a golden file by name, and its description.

    Raises:
        TpbenchError: the file cannot be read.
    """
    with ArrayArchive(path, _MAX_BYTES) as archive:
        arrays: dict[str, Array] = archive.read(archive.names)
    try:
        meta = dict(json.loads(str(arrays.pop("meta"))))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TpbenchError(f"{path}: not a readable golden file ({error})") from error
    return arrays, meta


class GoldenFile:
    """A golden file, read and checked.

    Raises:
        TpbenchError: the file cannot be read or lacks an array.
        UsageError: it is of a method that does not exist, or its hyperparameters are not valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays, meta = read_golden_arrays(path)
        try:
            self.name = str(meta["method"])
            self.architecture = _architecture(meta)
            given = dict(meta["hyperparameters"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TpbenchError(f"{path}: not a readable golden file ({error})") from error
        self.method_name = ALIASES.get(self.name, self.name)
        self.method: Method = get_method(self.method_name)
        wanted = {name: given[name] for name in self.method.names if name in given}
        entries = self.method.entries(self.architecture)
        specs = self.method.hyperparameter_specs.values()
        self.configuration = check_configuration(wanted, specs, where=str(path), entries=entries)

    def tensor(self, name: str) -> Tensor:
        """Return an array, in float64.

        Raises:
            TpbenchError: the file lacks it.
        """
        try:
            return torch.from_numpy(np.asarray(self.arrays[name]))
        except KeyError:
            raise TpbenchError(f"{self.path}: the array '{name}' is missing") from None

    def rows(self, name: str, step: int) -> Tensor:
        """Return an array of one minibatch as the engine has it: (B,), or vectors (B, n)."""
        values = self.tensor(name)[step]
        if name == "x_all" and values.dim() == 4:
            values = values.permute(0, 2, 3, 1)
        return values if values.dim() == 1 else values.flatten(1)

    @property
    def steps(self) -> int:
        """Number of minibatches."""
        return len(self.tensor("x_all"))

    def pack(self, members: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> PackState:
        """Return a pack of identical members that starts from the file's parameters."""
        pack = PackState(
            self.method, self.architecture, [self.configuration] * members, [0] * members, dtype=dtype, device=device
        )
        for parameters in (pack.forward, pack.feedback):
            if parameters:
                for name in parameters:
                    parameters[name].copy_(self.tensor(f"init/{name}").to(dtype))
        for name in pack.fixed:
            pack.fixed[name] = self.tensor(name).to(device, dtype).expand_as(pack.fixed[name]).contiguous()
        return pack

    def train(self, pack: PackState, step: int) -> StepRecord:
        """Train a pack on one of the file's minibatches, counted from 0."""

        def for_members(name: str) -> Tensor:
            values = self.rows(name, step).to(pack.device)
            values = values.to(pack.dtype) if values.is_floating_point() else values
            return values.expand(pack.members, *values.shape).contiguous()

        noise = None
        if self.method.trains_feedback:
            noise = [for_members(f"noise{i}") for i in self.architecture.hidden]
        return pack.joint_step(for_members("x_all"), for_members("y_all"), noise)


def _parameter_error(pack: PackState, golden: GoldenFile, when: str) -> float:
    groups = [parameters for parameters in (pack.forward, pack.feedback) if parameters]
    return max(relative_error(p[name], golden.tensor(f"{when}/{name}")) for p in groups for name in p)


def _architecture(meta: Mapping[str, Any]) -> Architecture:
    """Return the network that a golden file describes."""
    random_hidden = int(meta["hyperparameters"].get("n_rhl", 0))
    if meta.get("network") != "conv":
        return Architecture(tuple(int(n) for n in meta["sizes"]), random_hidden)
    kinds, layers = [layer["type"] for layer in meta["layers"]], meta["layers"]
    convolutions = [
        Convolution(layer["output"][0], layer["kernel"], layer["pool"]["kernel"], layer["pool"]["stride"])
        for layer in layers[: kinds.count("conv")]
    ]
    channels, rows, columns = map(int, meta["input"])
    widths = [int(layer["units"]) for layer in layers[len(convolutions) :]]
    return convolutional((channels, rows, columns), convolutions, widths, random_hidden)


def _gradient_errors(pack: PackState, golden: GoldenFile, step: int = 0) -> Iterator[float]:
    groups = [(pack.forward_gradients, f"{kind}{i}", i) for i in golden.architecture.layers for kind in "Wb"]
    if pack.feedback_gradients:
        groups += [(pack.feedback_gradients, name, int(name[1:])) for name in pack.feedback_gradients]
    for parameters, name, layer in groups:
        arrays = [f"s{step}/d{kind}{layer}" for kind in ("Wb" if name[0] in "Wb" else "QcS")]
        scale = max(float(golden.tensor(array).abs().max()) for array in arrays if array in golden.arrays)
        yield relative_error(parameters[name], golden.tensor(f"s{step}/d{name}"), _ZERO_SCALE * scale)


def _step_errors(pack: PackState, record: StepRecord, golden: GoldenFile) -> dict[str, float]:
    """Return the errors of everything that the first step computes."""
    layers = golden.architecture.layers
    activities = {i: golden.tensor(f"s0/h{i}").flatten(1) for i in layers}
    errors = {"activities": max(relative_error(record.activities[i], activities[i]) for i in layers)}
    if f"s0/hhat{layers[-1]}" in golden.arrays:
        errors["targets"] = max(
            relative_error(record.targets[i - 1], golden.tensor(f"s0/hhat{i}").flatten(1) - activities[i])
            for i in layers
        )
    errors["gradients"] = max(_gradient_errors(pack, golden))
    if record.reconstruction_losses is not None:
        errors["reconstruction losses"] = max(
            relative_error(record.reconstruction_losses[:, i - 1], golden.tensor(f"s0/rec_loss{i}"))
            for i in golden.architecture.hidden
        )
    return errors


def compare_golden_file(
    path: Path, precision: torch.dtype = torch.float64, members: int = 1, device: torch.device | str = "cpu"
) -> GoldenReport:
    """Train the minibatches of a golden file and compare every number that it has.

    Args:
        path: the ``.npz`` file.
        precision: of the pack, float64 or float32.
        members: number of identical members of the pack; each is compared.
        device: of the pack.

    Raises:
        TpbenchError: see :class:`GoldenFile`.
    """
    from tpbench.engine.golden_rules import NOT_COVERED, RULE_FILES, compare_rule_file

    if path.stem in RULE_FILES or path.stem in NOT_COVERED:
        return compare_rule_file(path, precision, members, device)
    golden = GoldenFile(path)
    pack = golden.pack(members, precision, device)
    errors: dict[str, float] = {}
    for step in range(golden.steps):
        with tf32_products(pack.device, allowed=False):
            record = golden.train(pack, step)
        if step == 0:
            errors |= _step_errors(pack, record, golden)
            errors["first step"] = _parameter_error(pack, golden, "after1")
        elif f"s{step}/dW1" in golden.arrays:
            worst = max(_gradient_errors(pack, golden, step))
            errors["later gradients"] = max(worst, errors.get("later gradients", 0.0))
    errors["last step"] = _parameter_error(pack, golden, "afterN")
    bounds = golden_bounds(golden.method_name, precision, convolutions=bool(golden.architecture.convolutions))
    return GoldenReport(path.name, golden.name, errors, bounds)


def golden_files(folder: Path) -> list[Path]:
    """Return the golden files of a folder, in the order of their names.

    Raises:
        UsageError: the folder is missing or holds no ``.npz`` file.
    """
    check_name(folder, "the folder of golden files")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of golden files")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UsageError(f"{folder} holds no .npz file")
    return files
