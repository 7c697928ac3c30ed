"""The one reader of workload declarations: built-in ones and those in files have the same keys and checks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tpbench.engine import UsageError, unknown
from tpbench.engine.errors import shown
from tpbench.engine.parts import EXTRA, JOINT, SLEEP
from tpbench.workloads.specs import Shape, known_shape
from tpbench.workloads.workload import Workload

KEYS = (
    "name",
    "like",
    "data",
    "test",
    "network",
    "random_hidden",
    "normalise",
    "batch_size",
    "validation_size",
    "epochs",
    "trained_layers",
    "feedback_epochs",
    "prune",
)

# What the paper has for most of its data sets; the share is that of its 5,000 validation samples, roughly.
DEFAULTS: Mapping[str, Any] = {
    "random_hidden": 1024,
    "normalise": "standard",
    "batch_size": 128,
    "validation_size": 0.1,
    "epochs": 100,
    "trained_layers": None,
    "feedback_epochs": {SLEEP: [6, 1], EXTRA: [10, 4]},
    "prune": [6, 0.6],
}

NORMALISATIONS = ("standard", "unit", "none")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MOST_LAYERS, _WIDEST = 200, 100_000

Place = Callable[[str], str]
"""Where a key stands, for a message; of an empty key, where the whole does."""


class _Checked:
    """The values of a declaration, each checked when it is asked for.

    Every method raises :class:`UsageError` with the place of its key.
    """

    def __init__(self, values: dict[str, Any], place: Place) -> None:
        self.values, self.place = values, place

    def fail(self, key: str, message: str) -> UsageError:
        return UsageError(f"{self.place(key)}: {key} {message}")

    def whole(self, key: str, value: object, least: int, most: int, what: str = "") -> int:
        number = int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise self.fail(key, f"{what}must be a whole number from {least} to {most}, got {shown(value)}")
        return number

    def number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
            raise self.fail(key, f"must be a finite number, got {shown(value)}")
        return float(value)

    def several(self, key: str, value: object, what: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self.fail(key, f"must be a list of {what}, got {shown(value)}")
        return value

    def pair(self, key: str, value: object, what: str) -> tuple[Any, Any]:
        if not isinstance(value, list) or len(value) != 2:
            raise self.fail(key, f"must be a list of two: {what}, got {shown(value)}")
        return value[0], value[1]

    def name(self) -> str:
        name = self.values["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            quotes = "" if isinstance(name, str) else "; quotes make a number text"
            raise self.fail("name", f"has 1 to 40 of a-z, 0-9 and '-', got {shown(name)}{quotes}")
        return name

    def hidden(self) -> tuple[int, ...]:
        widths = self.several("network", self.values["network"], "widths of the hidden layers")
        if len(widths) > _MOST_LAYERS:
            raise self.fail("network", f"has {len(widths)} hidden layers, at most {_MOST_LAYERS} can be trained")
        return tuple(self.whole("network", width, 1, _WIDEST, "holds widths: each ") for width in widths)

    def normalise(self) -> str | tuple[float, float]:
        value = self.values["normalise"]
        if isinstance(value, str):
            if value not in NORMALISATIONS:
                raise UsageError(f"{self.place('normalise')}: {unknown('normalise', value, NORMALISATIONS)}")
            return value
        mean, deviation = (
            self.number("normalise", v) for v in self.pair("normalise", value, "mean and deviation, or a word")
        )
        if deviation <= 0:
            raise self.fail("normalise", f"needs a deviation above 0, got {deviation:g}")
        return mean, deviation

    def share(self, key: str, samples: int) -> int:
        """A number of samples, or a share of them."""
        value = self.values[key]
        if isinstance(value, float) and 0 < value <= 1:
            count = round(value * samples)
            if not 0 < count < samples:
                raise self.fail(key, f"{value:g} of {samples} samples leaves none on one side")
            return count
        if samples < 2:
            raise self.fail(key, f"cannot be taken from {samples} training samples")
        return self.whole(key, value, 1, samples - 1)

    def test(self) -> float:
        value = self.values.get("test", 0.0)
        if "test" in self.values and not (isinstance(value, float) and 0 < value < 1):
            raise self.fail(
                "test", f"is the share of the samples that are the test set, such as 0.2, got {shown(value)}"
            )
        return float(value)

    def trained_layers(self, layers: int) -> tuple[int, ...] | None:
        value = self.values["trained_layers"]
        if value is None:
            return None
        chosen = sorted(
            self.whole("trained_layers", v, 1, layers, "holds layers: each ")
            for v in self.several("trained_layers", value, f"layer numbers, 1 to {layers}")
        )
        if chosen != list(range(chosen[0], chosen[0] + len(chosen))):
            raise self.fail("trained_layers", f"must be layers next to each other, each once, got {shown(value)}")
        return None if len(chosen) == layers else tuple(chosen)

    def schedules(self) -> dict[str, tuple[int, int]]:
        value = self.values["feedback_epochs"]
        if not isinstance(value, dict):
            raise self.fail("feedback_epochs", f"must be a mapping such as {{sleep: [6, 1]}}, got {shown(value)}")
        found = {JOINT: (0, 0)}
        for kind, epochs in {**DEFAULTS["feedback_epochs"], **value}.items():
            if kind not in (SLEEP, EXTRA):
                raise UsageError(
                    f"{self.place('feedback_epochs')}: {unknown('kind of feedback_epochs', kind, (SLEEP, EXTRA))}"
                )
            pair = self.pair("feedback_epochs", epochs, "epochs before, and between joint epochs")
            found[kind] = tuple(self.whole("feedback_epochs", v, 0, 10_000) for v in pair)  # type: ignore[assignment]
        return found

    def prune(self) -> tuple[int, float]:
        epochs, error = self.pair("prune", self.values["prune"], "after so many epochs, the largest training error")
        largest = self.number("prune", error)
        if not 0 < largest <= 1:
            raise self.fail("prune", f"needs an error above 0 and at most 1 (which stops nobody), got {largest:g}")
        return self.whole("prune", epochs, 1, 1_000_000), largest


def declared(
    values: Mapping[str, Any],
    place: Place,
    *,
    title: str = "",
    base: Workload | None = None,
    shape_of: Callable[[str, float], Shape] | None = None,
) -> Workload:
    """A workload from what was written.

    Args:
        values: by the keys of :data:`KEYS`.
        place: where a key stands.
        title: the paper's name of it, if it has one.
        base: the workload that it is ``like``.
        shape_of: the shape of the data in a file of the user's, which it checks, and the path to keep.

    Raises:
        UsageError: a key is unknown or missing, or a value is wrong; with its place.
    """
    for key in values:
        if key not in KEYS:
            raise UsageError(f"{place(key)}: {unknown('key', key, KEYS)}")
    for key in ("name",) if base else ("name", "data", "network"):
        if key not in values:
            raise UsageError(f"{place('')}: the key '{key}' is missing")
    inherited = as_declared(base) if base else {}
    if base and "data" in values:
        inherited.pop("test", None)
    checked = _Checked({**DEFAULTS, **inherited, **values}, place)
    if base and isinstance(values.get("feedback_epochs"), dict):
        checked.values["feedback_epochs"] = {**inherited["feedback_epochs"], **values["feedback_epochs"]}
    name, test = checked.name(), checked.test()
    shape = _shape(checked, test, shape_of)
    hidden, validation = checked.hidden(), checked.share("validation_size", shape.training)
    workload = Workload(
        name,
        title or name,
        shape.data,
        shape.training,
        shape.inputs,
        shape.outputs,
        hidden,
        checked.whole("random_hidden", checked.values["random_hidden"], 1, _WIDEST),
        checked.normalise(),
        checked.whole("batch_size", checked.values["batch_size"], 1, 1_000_000),
        validation,
        checked.whole("epochs", checked.values["epochs"], 1, 1_000_000),
        checked.trained_layers(len(hidden) + 1),
        checked.schedules(),
        checked.prune(),
        test,
    )
    if workload.batch_size > shape.training - validation:
        raise checked.fail(
            "batch_size", f"{workload.batch_size} is more than the {shape.training - validation} samples to train on"
        )
    return replace(workload, source=workload.content_digest()) if shape_of else workload


def as_declared(workload: Workload) -> dict[str, Any]:
    """A workload as a file would declare it, but for its name."""
    keys: dict[str, Any] = {
        "data": workload.data,
        "network": list(workload.hidden),
        "validation_size": workload.validation_size,
        "normalise": workload.normalise if isinstance(workload.normalise, str) else list(workload.normalise),
        "trained_layers": list(workload.trained_layers) if workload.trained_layers else None,
        "feedback_epochs": {kind: list(pair) for kind, pair in workload.schedules.items() if kind != JOINT},
        "prune": list(workload.prune),
    }
    keys |= {key: getattr(workload, key) for key in ("random_hidden", "batch_size", "epochs")}
    return {**keys, "test": workload.test} if workload.test else keys


def spell_declaration(workload: Workload) -> str:
    """A workload as a file declares it: JSON, which is YAML in which no name can be taken for a number."""
    return json.dumps({"name": workload.name, **as_declared(workload)}, indent=1) + "\n"


def _shape(checked: _Checked, test: float, shape_of: Callable[[str, float], Shape] | None) -> Shape:
    data = checked.values["data"]
    if not isinstance(data, str) or not data.strip():
        raise checked.fail("data", f"must name an .npz file or a data set, got {shown(data)}")
    known = known_shape(data)
    if known:
        if test:
            raise checked.fail("test", f"is for files of your own: {data} has a test set")
        return known
    if not shape_of:
        raise checked.fail("data", f"'{data}' is unknown")
    return shape_of(data, test)
