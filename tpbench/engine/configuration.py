"""The hyperparameters of Table S1: their names, what they mean and the values they may take."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tpbench.engine.errors import UsageError, shown, unknown

_NAME = re.compile("[a-z][a-z0-9_]{0,39}")

Configuration = Mapping[str, Any]
"""The hyperparameters of one run, by name: numbers, or lists of one number for each layer."""


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter: valid values ``lower <= value < upper`` (``lower < value`` where ``open``).

    A rule of an installed package may bring its own: ``Hyperparameter("decay", "share that decays", upper=1.0)``. Where
    it reads the number by :meth:`tpbench.engine.Minibatch.of_layer`, it may have ``layers="hidden"``.
    """

    name: str
    meaning: str
    lower: float = 0.0
    upper: float = 1e6
    open: bool = True
    whole: bool = False
    layers: Literal["", "all", "hidden"] = ""
    """The layers for each of which a list may have a number: 1 .. L, or 1 .. L-1. Empty: a list is not valid."""
    example: float = math.nan
    """A valid value, for measuring or checking a rule without a configuration; one within the range unless given."""

    def __post_init__(self) -> None:
        if self.layers not in ("", "all", "hidden"):
            raise ValueError(f"hyperparameter {self.name}: layers must be 'all', 'hidden' or empty")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"hyperparameter '{self.name}': a name has 1 to 40 of a-z, 0-9 and '_'")
        if not (math.isfinite(self.lower) and self.lower < self.upper):
            raise ValueError(f"hyperparameter {self.name}: no value is above {self.lower:g} and below {self.upper:g}")
        given = not (isinstance(self.example, float) and math.isnan(self.example))
        if not given:
            object.__setattr__(self, "example", self._in_range())
        try:
            self.check(self.example, "its example")
        except UsageError as error:
            reason = str(error) if given else f"hyperparameter {self.name}: no whole number is in its range"
            raise ValueError(reason) from error

    def _in_range(self) -> float:
        """Return a value of the range, if there is one."""
        if self.whole:
            return math.floor(self.lower) + 1 if self.open else math.ceil(self.lower)
        return (self.lower + min(self.upper, self.lower + 1)) / 2

    def check(self, value: object, where: str, entries: int | None = None) -> Any:
        """Return the value as a number, or as a list of one number for each layer.

        Args:
            value: as it was written.
            where: its place, for the message.
            entries: how many numbers a list must have; 0: a list is not valid; None: any number.

        Raises:
            UsageError: it is no number or list of numbers, or out of range.
        """
        if not isinstance(value, (list, tuple)):
            return self._check_number(value, where)
        if not self.layers or entries == 0:
            raise UsageError(f"{where}: {self.name} must be one number for all layers, got {shown(value)}")
        if not value or len(value) != (entries or len(value)):
            each = "one for each hidden layer" if self.layers == "hidden" else "one for each layer"
            raise UsageError(
                f"{where}: {self.name} as a list needs {entries or 'some'} numbers, {each}, got {len(value)}"
            )
        return [self._check_number(number, f"{where}, entry {k}") for k, number in enumerate(value, 1)]

    def _check_number(self, value: object, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{where}: {self.name} must be a number, got {shown(value)}")
        # A whole number beyond the range of a float must not become an OverflowError.
        number = float(value) if abs(value) < 1e300 else math.inf
        below = number <= self.lower if self.open else number < self.lower
        if not math.isfinite(number) or below or number >= self.upper:
            bound = f"{'>' if self.open else '>='} {self.lower:g}"
            above = f" and < {self.upper:g}" if math.isfinite(self.upper) else ""
            raise UsageError(f"{where}: {self.name} must be finite, {bound}{above}, got {shown(value)}")
        if self.whole and number != int(number):
            raise UsageError(f"{where}: {self.name} must be a whole number, got {shown(value)}")
        return int(number) if self.whole else number


HYPERPARAMETERS = {
    h.name: h
    for h in (
        Hyperparameter("lr", "learning rate of the forward Adam optimizer", layers="all"),
        Hyperparameter(
            "lr_eta", "product of the forward learning rate and the output target stepsize eta", layers="all"
        ),
        Hyperparameter("eta", "output target stepsize"),
        Hyperparameter("beta1", "beta1 of the forward Adam optimizer", upper=1.0, open=False, layers="all"),
        Hyperparameter("beta2", "beta2 of the forward Adam optimizer", upper=1.0, open=False, layers="all"),
        Hyperparameter("epsilon", "epsilon of the forward Adam optimizer", layers="all"),
        Hyperparameter("lr_fb", "learning rate of the feedback Adam optimizer", layers="hidden"),
        Hyperparameter("beta1_fb", "beta1 of the feedback Adam optimizer", upper=1.0, open=False, layers="hidden"),
        Hyperparameter("beta2_fb", "beta2 of the feedback Adam optimizer", upper=1.0, open=False, layers="hidden"),
        Hyperparameter("epsilon_fb", "epsilon of the feedback Adam optimizer", layers="hidden"),
        Hyperparameter("sigma", "standard deviation of the noise in the reconstruction loss", layers="hidden"),
        Hyperparameter("wd_fb", "weight decay on the feedback parameters", open=False, layers="hidden"),
        Hyperparameter("wd", "weight decay on the forward parameters, as L2 in the gradient", open=False, layers="all"),
        Hyperparameter("clip", "largest norm of the gradient of each forward array of the network", layers="all"),
        Hyperparameter("clip_fb", "largest norm of the gradient of each feedback array", layers="hidden"),
        Hyperparameter("damping", "Tikhonov damping of the Gauss-Newton targets", open=False),
        Hyperparameter(
            "fb_pretrain_epochs",
            "epochs of pure feedback training before the first joint epoch",
            open=False,
            upper=10_000,
            whole=True,
        ),
        Hyperparameter(
            "fb_epochs_between",
            "epochs of pure feedback training between joint epochs",
            open=False,
            upper=10_000,
            whole=True,
        ),
    )
}

SCHEDULE = ("fb_pretrain_epochs", "fb_epochs_between")
"""The hyperparameters that count the epochs of feedback training alone (section B.1)."""


def check_configuration(
    given: Mapping[str, object],
    required: Iterable[Hyperparameter],
    optional: Iterable[Hyperparameter] = (),
    where: str = "configuration",
    entries: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Check every hyperparameter of a configuration.

    Args:
        given: the configuration as it was written.
        required: the hyperparameters it must have.
        optional: those it may have besides.
        where: its place, for the message.
        entries: how many numbers a list has (:meth:`tpbench.engine.Method.entries`); None: any number.

    Returns:
        The configuration, in the order of ``required``.

    Raises:
        UsageError: a name that the method does not have, one that is missing, or a value out of range.
    """
    needed = {h.name: h for h in required}
    allowed = {**needed, **{h.name: h for h in optional}}
    for name in given:
        if name not in allowed:
            raise UsageError(f"{where}: {unknown('hyperparameter', str(name), allowed)}")
    missing = [name for name in needed if name not in given]
    if missing:
        raise UsageError(f"{where}: missing hyperparameter{'s' * (len(missing) > 1)} {', '.join(missing)}")
    counts = entries or {}
    default = None if entries is None else 0
    return {n: h.check(given[n], where, counts.get(n, default)) for n, h in allowed.items() if n in given}


def is_list(value: object) -> bool:
    """Return whether the value of a hyperparameter is a list of one number for each layer."""
    return isinstance(value, (list, tuple))


def layer_value(value: Any, layer: int) -> float:
    """Return the number of a layer (from 1) of a hyperparameter's value."""
    return float(value[layer - 1]) if is_list(value) else value


def flatten(configuration: Configuration) -> dict[str, float]:
    """Return all numbers of a configuration as floats; those of a list have names of their own.

    Example:
        >>> flatten({"lr": [0.1, 0.2], "eta": 1})
        {'lr_1': 0.1, 'lr_2': 0.2, 'eta': 1.0}
    """
    flat: dict[str, float] = {}
    for name, value in configuration.items():
        if is_list(value):
            flat |= {entry_name(name, k): float(number) for k, number in enumerate(value, 1)}
        else:
            flat[name] = float(value)
    return flat


def unflatten(flat: Mapping[str, float], entries: Mapping[str, int]) -> dict[str, Any]:
    """Return the configuration of the numbers of :func:`flatten`.

    Args:
        flat: numbers by their names.
        entries: how many numbers a list has (:meth:`tpbench.engine.Method.entries`).
    """
    lists = {name: [entry_name(name, k + 1) for k in range(count)] for name, count in entries.items()}
    lists = {name: parts for name, parts in lists.items() if parts[0] in flat}
    parts_of_lists = {part for parts in lists.values() for part in parts}
    numbers = {name: value for name, value in flat.items() if name not in parts_of_lists}
    return {**numbers, **{name: [flat[part] for part in parts] for name, parts in lists.items()}}


def entry_name(name: str, layer: int) -> str:
    """Return the name of the number of a layer (from 1), where each has one of its own."""
    return f"{name}_{layer}"


def as_floats(configuration: Configuration) -> dict[str, Any]:
    """Return a configuration whose numbers are all floats: 1 and 1.0 are the same."""
    return {name: list(map(float, v)) if is_list(v) else float(v) for name, v in configuration.items()}


def format_value(value: Any, digits: str = "g") -> str:
    """Return the value of a hyperparameter as text: ``0.1``, or ``[0.1, 0.2]``."""
    return f"[{', '.join(format(number, digits) for number in value)}]" if is_list(value) else format(value, digits)
