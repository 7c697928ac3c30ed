"""The parts of the protocol that every run shares: version, precisions, curves and the order of epochs.

Imports no torch, as tables need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tpbench.engine.errors import UsageError, unknown

PROTOCOL_VERSION = 1
"""Changes whenever the same definition of a run would give other numbers; part of what names a run."""

PRECISIONS = {"float32": "float32", "float64": "float64", "tf32": "float32", "bf16": "float32"}
"""By name, torch's name of the type that numbers have. ``tf32``: float32 whose products on a GPU keep 10 bits of the
mantissa. ``bf16``: the operands of large products are rounded to bfloat16 (:mod:`tpbench.engine.precision`). Neither is
used unless asked for."""


def check_precision(precision: str, what: str = "precision") -> str:
    """Return a precision if it is known.

    Args:
        precision: its name.
        what: what the message calls it.

    Raises:
        UsageError: it is unknown; the message names what is near.
    """
    if precision == "bfloat16":
        raise UsageError(f"unknown {what} 'bfloat16': did you mean 'bf16'?")
    if precision not in PRECISIONS:
        raise unknown(what, precision, PRECISIONS)
    return precision


def precision_problem(precision: str, device: str, *, here: bool = True) -> str:
    """Return why a device cannot compute in a precision, or only slowly; empty if it can.

    Args:
        precision: one of :data:`PRECISIONS`.
        device: as torch names it, with or without a number.
        here: the device is this machine's; of a cluster's nodes only what holds for every such device is known.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        return "exists on a GPU only"
    if precision == "bf16" and here:
        from tpbench.engine.precision import slow_bfloat16

        if reason := slow_bfloat16(device):
            return f"would be slower than float32 here: {reason}"
    return ""


def check_device_precision(precision: str, device: str, what: str = "precision", *, here: bool = True) -> None:
    """Refuse a precision that a device cannot compute in, so that nothing is begun that could not be trained.

    Args:
        precision, device, here: as of :func:`precision_problem`.
        what: what the message calls the precision.

    Raises:
        UsageError: the device cannot do it.
    """
    if reason := precision_problem(precision, device, here=here):
        raise UsageError(f"{what} {precision} {reason}; use float32")


CURVES = (
    "train_loss",
    "train_error",
    "validation_loss",
    "validation_error",
    "test_loss",
    "test_error",
    "reconstruction_loss",
)
"""The curves of a run, one number of every joint epoch.

Losses are means over all samples, errors fractions of all samples; the training curves are those of the minibatches as
they were trained, the others are taken after the epoch. The reconstruction loss is the mean over the epoch's
minibatches and the hidden layers."""

UNVALIDATED_CURVES = tuple(name for name in CURVES if not name.startswith("validation_"))
"""The curves of a run without a validation set."""

Status = Literal["training", "finished", "diverged", "pruned", "stopped"]
"""``pruned``: learnt nothing (:class:`tpbench.engine.Trainer`); ``stopped``: by the caller that drives the epochs."""


@dataclass
class MemberHistory:
    """The curves of one member and its status. Without a validation set it lacks the validation curves."""

    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})
    status: Status = "training"

    @property
    def epochs(self) -> int:
        """Joint epochs that were finished with finite numbers."""
        return max(map(len, self.curves.values()), default=0)

    @property
    def validated(self) -> bool:
        """True if the training has a validation set, by which an epoch is selected."""
        return not self.curves or "validation_error" in self.curves

    @property
    def selected_epoch(self) -> int | None:
        """The first epoch (from 0) with the lowest validation error; None before any is finished.

        Without a validation set it is the last epoch.
        """
        if not self.epochs:
            return None
        errors = self.curves.get("validation_error")
        return errors.index(min(errors)) if errors else self.epochs - 1

    def at_selected(self, curve: str) -> float | None:
        """Return the value of a curve at the selected epoch; None before any is finished, or without the curve."""
        epoch = self.selected_epoch
        return None if epoch is None or curve not in self.curves else self.curves[curve][epoch]


EpochKind = Literal["joint", "feedback"]


@dataclass(frozen=True)
class Phase:
    """One epoch of the schedule: joint training, or feedback alone. ``epoch`` counts the joint epochs before it."""

    kind: EpochKind
    epoch: int


@dataclass(frozen=True)
class Schedule:
    """The epochs of section B.1: feedback pretraining, then joint epochs with pure feedback epochs between them.

    Nothing of it is stored, so that measurements, which end by the clock, may ask for any number of epochs.
    """

    epochs: int
    """Joint epochs."""
    pretrain: int
    between: int

    @property
    def feedback_epochs(self) -> int:
        """Number of epochs that train the feedback alone."""
        return self.pretrain + self.between * max(self.epochs - 1, 0)

    def __len__(self) -> int:
        return self.epochs + self.feedback_epochs

    def __iter__(self) -> Iterator[Phase]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, position: int) -> Phase:
        if not 0 <= position < len(self):
            raise IndexError(f"the schedule has {len(self)} epochs, none at {position}")
        if position < self.pretrain:
            return Phase("feedback", 0)
        epoch, after = divmod(position - self.pretrain, 1 + self.between)
        return Phase("feedback", epoch + 1) if after else Phase("joint", epoch)

    def joint_before(self, position: int) -> int:
        """Return how many joint epochs lie before a position."""
        return -(-max(position - self.pretrain, 0) // (1 + self.between))


@dataclass(frozen=True)
class EpochReport:
    """The state of a pack after an epoch."""

    phase: Phase
    done: int
    """Epochs of any kind done so far."""
    total: int
    best_validation_error: float | None
    warnings: tuple[str, ...] = ()
    """Oddities of the rule, after the first joint epoch alone: hidden layers without any update, numbers that were not
    finite from the start."""
