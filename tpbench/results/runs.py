"""Runs: definition, record (one JSON file), predictions (one small file beside it), provenance and search info."""

from __future__ import annotations

import base64
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpbench import __version__
from tpbench.engine import PROTOCOL_VERSION, MemberHistory, TpbenchError
from tpbench.engine.configuration import as_floats, is_list
from tpbench.results.artifacts import ID_PATTERN, Artifact, ArtifactKind, digest, verify_format, with_checksum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tpbench.results.schemas import Count, Epochs, Name, Natural, NonNegative, Setting

# Types of fields; tpbench.results.schemas has a model for each.
Curves = Mapping[str, list[float]]
Provenance = Mapping[str, Any]
SearchInfo = Mapping[str, Any]
Content = Mapping[str, Any]
Split = str
Status = str

FORMAT = 2
"""The format of a run whose configuration has lists, or that was trained without a validation set; older versions read
format 1 alone, and name this as newer."""
PLAIN_FORMAT = 1
"""The format of all other runs."""
DEFAULT_PRECISION = "float32"
FULL_SEEDS = 10
"""Seeds of the paper's protocol: 0 to 9."""
LARGEST_RUN = 190_000_000
"""Bytes of a run's file: all curves of a million epochs, the most that a run can have, are at most 180 million."""
PREDICTIONS_FORMAT = 1
LARGEST_PREDICTIONS = 100_000_000
"""Bytes; that of 10,000 test samples has 2,000."""


@dataclass(frozen=True)
class RunDefinition:
    """The definition of a run: everything that decides its numbers."""

    workload: Name
    fingerprint: str
    """SHA-256 of the data."""
    method: Name
    configuration: Mapping[str, Setting]
    """Hyperparameters: numbers, or lists of one number for each layer."""
    seed: Natural
    epochs: Epochs
    protocol: Count = field(default=PROTOCOL_VERSION, metadata={"required": True})
    # Later fields have a default, which is not written, so that old ids stay.
    precision: Name = DEFAULT_PRECISION
    method_source: str = ""
    """Distribution, version and digest of the source of a method from an installed package; empty for built-in ones."""
    workload_source: str = ""
    """Digest of the content of a workload from a user's file; empty for built-in ones."""
    split: Split = ""
    """Rule by which the seed's validation samples are drawn; empty: at random."""

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain data, without those of later versions that have their default: old ids stay."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["configuration"] = dict(self.configuration)
        return {f.name: values[f.name] for f in fields(self) if f.metadata or values[f.name] != f.default}

    @cached_property
    def id(self) -> str:
        """The id of the run: equal definitions have equal ids on every machine."""
        # 1 and 1.0 are the same hyperparameter, and must be the same run.
        return digest({**self.plain(), "configuration": as_floats(self.configuration)})[:24]


@dataclass(frozen=True)
class RunRecord(Artifact):
    """A finished run as a store holds it. Errors are fractions (0.02 is 2 %), times seconds."""

    definition: RunDefinition
    data_label: str
    """Kind of copy of the data that it was trained on; empty for the exact data set."""
    status: Status
    """``finished``, or ``diverged``: its numbers became non-finite after the epochs that the curves show."""
    curves: Curves
    wall_time_s: NonNegative
    """The member's share of the time its pack took."""
    pack_members: Count
    provenance: Provenance
    search_info: SearchInfo = field(default_factory=dict, metadata={"name": "found"})
    """Origin of its configuration (:func:`search_info`); the file calls it ``found``, older ones lack it."""
    workload: Content = field(default_factory=dict)
    """Content of a workload from a user's file (``Workload.content``); empty for built-in ones."""
    digest_of_curves: str = field(default="", compare=False, metadata={"stored": False})
    """Digest of the curves of a summary, which has none; otherwise empty."""
    versions: int = field(default=1, compare=False, metadata={"stored": False})
    """Copies in the store under this id whose curves differ, this one among them; they are a conflict."""

    @cached_property
    def curves_digest(self) -> str:
        """SHA-256 of the curves, by which one training of the run is told from another."""
        return self.digest_of_curves or digest(dict(self.curves))

    @property
    def replaces(self) -> tuple[str, ...]:
        """Digests of the curves of all earlier trainings of this run (``tpbench run --again``), the oldest first."""
        return tuple(self.provenance.get("replaces", ()))

    def supersedes(self, other: RunRecord) -> bool:
        """Return whether this copy of a run is a later training than another one.

        Two machines in turn may give the curves of one of them twice, so the number of earlier trainings counts too.
        """
        return other.curves_digest in self.replaces and len(self.replaces) > len(other.replaces)

    def disagrees(self, other: RunRecord) -> bool:
        """Return whether another copy of the run has other curves, and neither of them supersedes the other."""
        different = self.curves_digest != other.curves_digest
        return different and not (self.supersedes(other) or other.supersedes(self))

    @property
    def precision(self) -> str:
        """Precision of the arithmetic; runs of the oldest versions have it in their provenance alone."""
        return str(self.provenance.get("precision") or self.definition.precision)

    @property
    def diverged(self) -> bool:
        """True if its numbers became non-finite."""
        return self.status == "diverged"

    @property
    def format(self) -> int:
        """The format of the run's file."""
        lists = any(map(is_list, self.definition.configuration.values()))
        return FORMAT if lists or not self.validated else PLAIN_FORMAT

    @property
    def history(self) -> MemberHistory:
        return MemberHistory(dict(self.curves), self.status)  # type: ignore[arg-type]

    @property
    def validated(self) -> bool:
        """True if it was trained with a validation set; without one the last epoch is the selected one."""
        return self.history.validated

    @property
    def test_error(self) -> float | None:
        """Test error at the selected epoch; None if no epoch was finished."""
        return self.history.at_selected("test_error")

    @property
    def validation_error(self) -> float | None:
        """The lowest validation error; None if no epoch was finished, or without a validation set."""
        return self.history.at_selected("validation_error")

    def to_json(self) -> str:
        """Return the contents of the run's file: readable JSON, closed by a checksum of everything before it."""
        body = {
            "format": self.format,
            "id": self.definition.id,
            "definition": self.definition.plain(),
            "data_label": self.data_label,
            "status": self.status,
            "selected_epoch": self.history.selected_epoch,
            "validation_error": self.validation_error,
            "test_error": self.test_error,
            "curves": dict(self.curves),
            "wall_time_s": self.wall_time_s,
            "pack_members": self.pack_members,
            "provenance": dict(self.provenance),
            **({"found": dict(self.search_info)} if self.search_info else {}),
            **({"workload": dict(self.workload)} if self.workload else {}),
        }
        return json.dumps(with_checksum(body), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> RunRecord:
        """Read a run's file back.

        Raises:
            NewerFormat: it is valid, but a newer version wrote it.
            TpbenchError: it is truncated, altered, or not a run: a field has another type, or is out of range.
        """
        try:
            body = verify_format(text, where, FORMAT, PLAIN_FORMAT)
            from tpbench.results.schemas import RunFile, check_fields

            check_fields(RunFile, body)
            record = cls(
                RunDefinition(**body["definition"]),
                **{n: body[n] for n in ("data_label", "status", "wall_time_s", "pack_members", "provenance")},
                curves={name: [float(v) for v in values] for name, values in body["curves"].items()},
                search_info=body.get("found", {}),
                workload=body.get("workload", {}),
            )
            if record.format != body["format"]:
                raise ValueError(f"its format is not {record.format}")
            if record.definition.id != body["id"]:
                raise ValueError("its id is not that of its definition")
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid run file ({error})") from error
        return record


def percent(fraction: float | None) -> float:
    """Return a fraction in per cent, not a number if there is none."""
    return math.nan if fraction is None else 100 * fraction


@dataclass(frozen=True)
class Predictions(Artifact):
    """Test samples that a run classifies correctly at its selected epoch, one bit each."""

    run: str
    """The run's id."""
    curves: str
    """Digest of the run's curves (:attr:`RunRecord.curves_digest`): another training of the run may have others."""
    correct: NDArray[np.bool_] = field(repr=False, compare=False)
    """(test samples,), in the order of the data set."""

    @classmethod
    def of(cls, record: RunRecord, correct: NDArray[np.bool_]) -> Predictions:
        """Return the predictions of a run, from the correct samples (test samples,) of its trainer."""
        return cls(record.definition.id, record.curves_digest, correct)

    @property
    def test_error(self) -> float:
        """Fraction of the samples that are classified wrongly."""
        return 1.0 - float(self.correct.mean())

    def belongs(self, record: RunRecord) -> bool:
        """Return whether these come from the training that made this run's file, and are wrong as often as it says."""
        if self.run != record.definition.id or self.curves != record.curves_digest or record.test_error is None:
            return False
        return abs(self.test_error - record.test_error) < 1e-9

    def to_json(self) -> str:
        """Return the text of the file: the same for the same predictions, closed by a checksum."""
        import numpy as np

        packed = base64.b64encode(np.packbits(self.correct).tobytes()).decode("ascii")
        body = {
            "format": PREDICTIONS_FORMAT,
            "run": self.run,
            "curves": self.curves,
            "samples": len(self.correct),
            "correct": packed,
        }
        return json.dumps(with_checksum(body), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Predictions:
        """Read a file's text back.

        Raises:
            NewerFormat: it is valid, but a newer version wrote it.
            TpbenchError: it is truncated, altered, or holds something else.
        """
        import numpy as np

        try:
            body = verify_format(text, where, PREDICTIONS_FORMAT)
            from tpbench.results.schemas import PredictionsFile, check_fields

            check_fields(PredictionsFile, body)
            packed = np.frombuffer(base64.b64decode(body["correct"], validate=True), dtype=np.uint8)
            samples = body["samples"]
            if len(packed) != -(-samples // 8):
                raise ValueError(f"it has {8 * len(packed)} bits for {samples} samples")
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid file of predictions ({error})") from error
        return cls(body["run"], body["curves"], np.unpackbits(packed, count=samples).astype(bool))


RUNS = ArtifactKind(
    title="run",
    content="curves",
    folder="runs",
    suffix=".json",
    names=ID_PATTERN,
    largest=LARGEST_RUN,
    decode=lambda content, where: RunRecord.from_json(content.decode("utf-8", errors="replace"), where),
    encode=lambda record: record.to_json().encode(),
    owner=lambda record: record.definition.id,
)
"""Files of runs; their names are the ids."""
PREDICTIONS = ArtifactKind(
    title="predictions of the run",
    content="bits",
    folder="runs",
    suffix=".bits",
    names=ID_PATTERN,
    largest=LARGEST_PREDICTIONS,
    decode=lambda content, where: Predictions.from_json(content.decode("utf-8", errors="replace"), where),
    encode=lambda predictions: predictions.to_json().encode(),
    owner=lambda predictions: predictions.run,
)
"""Files beside those of runs, with their names."""


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the commit tpbench runs from, with ``+`` if the tree was changed; None outside a checkout.

    Code that was sent to a cluster knows it from ``TPBENCH_COMMIT``.
    """
    sent = os.environ.get("TPBENCH_COMMIT", "")
    return sent if re.fullmatch(r"[0-9a-f]{40}\+?", sent) else commit_of(Path(__file__).parents[1])


def commit_of(package: Path) -> str | None:
    """Return the commit of a package's folder, with ``+`` if its files were changed.

    None if git does not track them: a repository around the installation says nothing about the code.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def provenance(device: str, precision: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a run came from: versions, commit, kind of machine, device, precision, options and day (UTC).

    No host and no path of the machine is in it.

    Args:
        options: of the command or call, as :meth:`tpbench.options.Options.plain` gives them; empty: of none. They are
            recorded as data, and for people as a command.
    """
    import numpy
    import torch

    from tpbench.options import format_command, recorded

    options = recorded(options) if options else {}
    kept = {"command": format_command(options), "options": options} if options else {}
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {
        "tpbench": __version__,
        "commit": commit(),
        **kept,
        "device": device.split(":")[0],
        "device_name": name,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "day": datetime.now(UTC).date().isoformat(),
    }


DEFAULT_OBJECTIVE = "validation_error"
OBJECTIVES = (DEFAULT_OBJECTIVE, "validation_loss", "train_loss")
"""The curves of which a search can minimise the lowest value."""

PUBLISHED: Mapping[str, Any] = {"by": "published"}
FROM_FILE: Mapping[str, Any] = {"by": "file"}
FROM_PYTHON: Mapping[str, Any] = {"by": "python"}


def search_info(
    sweep: str, trials: int, epochs: int, space: str, role: str, seeds: Sequence[int], **others: Any
) -> dict[str, Any]:
    """Return the search info of a run that a sweep trained, which is called ``found`` in the run's file.

    Other search infos have the field ``by`` alone: ``published`` (the authors' configuration), ``file`` (of the user's)
    or ``python`` (given to ``tpbench.run``).

    Args:
        sweep: the sweep's id.
        trials, epochs: configurations of the search, and joint epochs of each.
        space: digest of the search space.
        role: ``search`` for a run that the search itself trained, ``final`` for one of the chosen configuration.
        seeds: of the final runs.
        others: further fields of :class:`TuningBudget`.
    """
    info = {
        "by": "search",
        "role": role,
        "sweep": sweep,
        "trials": trials,
        "epochs": epochs,
        "objective": others.pop("objective", DEFAULT_OBJECTIVE),
        "space": space,
        "seeds": list(seeds),
    }
    # Left out where they say nothing, so that the files of older versions read the same.
    return {**info, **{name: value for name, value in others.items() if value}}


def with_precision(info: Mapping[str, Any], trained: str, wanted: str) -> dict[str, Any]:
    """Return the search info for a run of the same configuration in another precision.

    Args:
        info: of a run.
        trained, wanted: the precision of that run, and of the other.
    """
    kept = {name: value for name, value in info.items() if name != "search_precision"}
    if info.get("by") != "search":
        return kept
    searched = info.get("search_precision", trained)
    return {**kept, "search_precision": searched} if searched != wanted else kept


USUAL_HALVING = 3
"""Factor of a search with halving that its label does not name."""
_ORIGINS = ("published", "search", "file", "python", "unknown")
"""Origins of configurations, the best known cost of tuning first."""


@dataclass(frozen=True)
class TuningBudget:
    """Cost of finding a configuration; its text is the tuning label of a table, such as ``54 x 27 halved``."""

    by: str = "unknown"
    """``published``, ``search``, ``file``, ``python`` or ``unknown``."""
    trials: Natural = 0
    epochs: Natural = 0
    objective: str = ""
    """The curve that was minimised."""
    halving: Natural = 0
    """Factor of a search in which packs are brackets; 0: none."""
    search_precision: str = ""
    """Precision of the search, where the runs have another."""
    start: str = ""
    """Origin of the configurations that the search was given: ``published`` or ``file``; empty: none."""

    def __str__(self) -> str:
        if self.by != "search":
            return self.by
        parts = [f"{self.trials} x {self.epochs}"]
        if self.halving:
            parts.append("halved" if self.halving == USUAL_HALVING else f"halved by {self.halving}")
        if self.search_precision:
            parts.append(f"in {self.search_precision}")
        if self.objective not in ("", DEFAULT_OBJECTIVE):
            parts.append(f"by {self.objective}")
        if self.start:
            parts.append(f"from {self.start}")
        return " ".join(parts)

    @property
    def rank(self) -> int:
        """Place in the order published, search, file, python, unknown: the later, the less is known of its cost.

        A search from a file's configurations has the place of a file: their cost is not known.
        """
        start = self.start if self.start in _ORIGINS else self.by
        return max(_ORIGINS.index(self.by), _ORIGINS.index(start))


UNKNOWN_BUDGET = TuningBudget()


def tuning_budget(info: Mapping[str, Any]) -> TuningBudget:
    """Return the tuning budget of a run from its search info."""
    by = info.get("by")
    if by != "search":
        return TuningBudget(str(by)) if by in _ORIGINS else UNKNOWN_BUDGET
    budget = TuningBudget(**{f.name: info[f.name] for f in fields(TuningBudget) if f.name in info})
    return budget if budget.trials and budget.epochs else UNKNOWN_BUDGET


def weakest_budget(budgets: Iterable[TuningBudget]) -> TuningBudget:
    """Return the tuning budget of runs together: the least known; unknown where they name different searches."""
    found = set(budgets)
    weakest = max(budget.rank for budget in found)
    last = [budget for budget in found if budget.rank == weakest]
    return last[0] if len(last) == 1 else UNKNOWN_BUDGET


def from_search(info: Mapping[str, Any], role: str) -> bool:
    """Return whether a sweep trained the run in this role (``search`` or ``final``)."""
    return info.get("by") == "search" and info.get("role") == role
