"""The hyperparameters of Table S1: their names, what they mean and the values they may take."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tpbench.engine.errors import UsageError, shown, unknown

_NAME = re.compile("[a-z][a-z0-9_]{0,39}")

Configuration = Mapping[str, float]
"""The hyperparameters of one run, by name."""


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter: valid values ``lower <= value < upper`` (``lower < value`` where ``open``).

    A rule of an installed package may bring its own: ``Hyperparameter("decay", "share that decays", upper=1.0)``.
    """

    name: str
    meaning: str
    lower: float = 0.0
    upper: float = 1e6
    open: bool = True
    whole: bool = False
    example: float = math.nan
    """A valid value, for measuring or checking a rule without a configuration; one within the range unless given."""

    def __post_init__(self) -> None:
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

    def check(self, value: object, where: str) -> float:
        """Return the value as a number.

        Args:
            value: as it was written.
            where: its place, for the message.

        Raises:
            UsageError: it is no number, or out of range.
        """
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
        Hyperparameter("lr", "learning rate of the forward Adam optimizer"),
        Hyperparameter("lr_eta", "product of the forward learning rate and the output target stepsize eta"),
        Hyperparameter("eta", "output target stepsize"),
        Hyperparameter("beta1", "beta1 of the forward Adam optimizer", upper=1.0, open=False),
        Hyperparameter("beta2", "beta2 of the forward Adam optimizer", upper=1.0, open=False),
        Hyperparameter("epsilon", "epsilon of the forward Adam optimizer"),
        Hyperparameter("lr_fb", "learning rate of the feedback Adam optimizer"),
        Hyperparameter("beta1_fb", "beta1 of the feedback Adam optimizer", upper=1.0, open=False),
        Hyperparameter("beta2_fb", "beta2 of the feedback Adam optimizer", upper=1.0, open=False),
        Hyperparameter("epsilon_fb", "epsilon of the feedback Adam optimizer"),
        Hyperparameter("sigma", "standard deviation of the noise in the reconstruction loss"),
        Hyperparameter("wd_fb", "weight decay on the feedback parameters", open=False),
        Hyperparameter("wd", "weight decay on the forward parameters, as L2 in the gradient", open=False),
        Hyperparameter("clip", "largest norm of the gradient of each forward array of the network"),
        Hyperparameter("clip_fb", "largest norm of the gradient of each feedback array"),
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
) -> dict[str, float]:
    """Check every hyperparameter of a configuration.

    Args:
        given: the configuration as it was written.
        required: the hyperparameters it must have.
        optional: those it may have besides.
        where: its place, for the message.

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
    return {name: h.check(given[name], where) for name, h in allowed.items() if name in given}
