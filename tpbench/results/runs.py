"""What a run is: its definition, which names it, and its record, which is one JSON file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tpbench import __version__
from tpbench.engine import PROTOCOL_VERSION, MemberHistory, TpbenchError

FORMAT = 1
DEFAULT_PRECISION = "float32"
FULL_SEEDS = 10
"""Seeds of the paper's protocol."""
ID_PATTERN = re.compile(r"[0-9a-f]{24}")
RUN_NAME = re.compile(rf"({ID_PATTERN.pattern})\.json")
"""The names of runs' files. What is named otherwise is another program's, and left alone."""
LARGEST_RUN = 190_000_000
"""Bytes of a run's file: all curves of a million epochs, the most that a run can have, are at most 180 million."""


class NewerFormat(TpbenchError):  # noqa: N818 (nothing is wrong with the file)
    """A whole run file of a newer version: this one must neither read nor replace it."""


def canonical_json(value: Any) -> str:
    """JSON with one spelling only, so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the checksum of everything in it as its last entry."""
    return {**body, "checksum": digest(dict(body))}


def parse_json(text: str) -> Any:
    """Read JSON that a program wrote: finite numbers that a machine can hold, and text that can be written again.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = json.loads(text, parse_int=_short_int, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            # Half of a surrogate pair is no character: no file and no terminal takes it.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds characters that are none") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number in it is too long")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def unsealed(text: str) -> dict[str, Any]:
    """What :func:`sealed` was given, from the JSON that became of it.

    Raises:
        ValueError: it is damaged, or something else.
    """
    body = parse_json(text)
    if not isinstance(body, dict) or "checksum" not in body:
        raise ValueError("it has no checksum")
    checksum = body.pop("checksum")
    try:
        whole = digest(body) == checksum
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not whole:
        raise ValueError("its contents do not match its checksum")
    return body


@dataclass(frozen=True)
class RunDefinition:
    """Everything that decides a run's numbers."""

    workload: str
    fingerprint: str
    """SHA-256 of the data."""
    method: str
    configuration: Mapping[str, float]
    seed: int
    epochs: int
    protocol: int = PROTOCOL_VERSION
    precision: str = DEFAULT_PRECISION
    method_source: str = ""
    """Of a rule from an installed package: distribution, version and digest of its source; empty for built-in ones."""
    workload_source: str = ""
    """Of a workload from a user's file: the digest of its content; empty for built-in ones."""
    split: str = ""
    """How the seed's validation samples are drawn, unless at random (:func:`tpbench.workloads.files.split_rule`)."""

    def plain(self) -> dict[str, Any]:
        """The fields as plain data. Those added later are left out where they say nothing, so that old ids stay."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["configuration"] = dict(self.configuration)
        return {
            name: value for name, value in values.items() if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]
        }

    @cached_property
    def id(self) -> str:
        """The name of the run: equal definitions have equal ids on every machine."""
        # 1 and 1.0 are the same hyperparameter, and must be the same run.
        configuration = {name: float(value) for name, value in self.configuration.items()}
        return digest({**self.plain(), "configuration": configuration})[:24]


_LATER_FIELDS = {"precision": DEFAULT_PRECISION, "method_source": "", "workload_source": "", "split": ""}


@dataclass(frozen=True)
class RunRecord:
    """A finished run as the store holds it. Errors are fractions (0.02 is 2 %), times seconds."""

    definition: RunDefinition
    data_label: str
    """Empty for the exact data set, otherwise what kind of copy it was trained on."""
    status: str
    """``finished``, or ``diverged``: its numbers became non-finite after the epochs that the curves show."""
    curves: Mapping[str, list[float]]
    wall_time_s: float
    """The member's share of the time its pack took."""
    pack_members: int
    provenance: Mapping[str, Any]
    found: Mapping[str, Any] = field(default_factory=dict)
    """How its configuration was found (:mod:`tpbench.results.budgets`); empty in the files of older versions."""
    workload: Mapping[str, Any] = field(default_factory=dict)
    """What a workload of a user's file is (:meth:`tpbench.workloads.Workload.content`); empty for built-in ones."""
    digest_of_curves: str = field(default="", compare=False)
    """Of a summary, which has lost its curves; otherwise empty."""
    versions: int = field(default=1, compare=False)
    """Copies in the store under this id whose curves differ, this one among them; they are a conflict."""

    @cached_property
    def curves_digest(self) -> str:
        """SHA-256 of the curves: what one training of the run leaves; another machine's may leave others."""
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
        """Of the arithmetic. Older versions named runs of every precision alike: there, the provenance tells."""
        return str(self.provenance.get("precision") or self.definition.precision)

    @property
    def diverged(self) -> bool:
        """Whether its numbers became non-finite."""
        return self.status == "diverged"

    @property
    def history(self) -> MemberHistory:
        # A run that diverged in its first epoch has no curves.
        return MemberHistory({"validation_error": [], **self.curves}, self.status)  # type: ignore[arg-type]

    @property
    def test_error(self) -> float | None:
        """Test error at the selected epoch; None if no epoch was finished."""
        return self.history.at_selected("test_error")

    @property
    def validation_error(self) -> float | None:
        """The lowest validation error."""
        return self.history.at_selected("validation_error")

    def to_json(self) -> str:
        """The contents of the run's file: readable JSON, closed by a checksum of everything before it."""
        body = {
            "format": FORMAT,
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
            **({"found": dict(self.found)} if self.found else {}),
            **({"workload": dict(self.workload)} if self.workload else {}),
        }
        return json.dumps(sealed(body), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> RunRecord:
        """Read a run's file back.

        Raises:
            NewerFormat: it is whole, but a newer version wrote it.
            TpbenchError: it is truncated, altered, or not a run: a field has another type, or is out of range.
        """
        try:
            body = unsealed(text)
            written_in = body.get("format")
            if type(written_in) is int and written_in > FORMAT:
                raise NewerFormat(
                    f"{where}: written by a newer tpbench (format {written_in}, this one reads {FORMAT}): "
                    "update this tpbench"
                )
            if type(written_in) is not int or written_in != FORMAT:
                raise ValueError(f"it has another format than {FORMAT}, which this version reads")
            from tpbench.results.schemas import RunFile, check_fields

            check_fields(RunFile, body)
            record = cls(
                RunDefinition(**body["definition"]),
                **{n: body[n] for n in ("data_label", "status", "wall_time_s", "pack_members", "provenance")},
                curves={name: [float(v) for v in values] for name, values in body["curves"].items()},
                found=body.get("found", {}),
                workload=body.get("workload", {}),
            )
            if record.definition.id != body["id"]:
                raise ValueError("its id is not that of its definition")
        except ValueError as error:
            raise TpbenchError(f"{where}: not a valid run file ({error})") from error
        return record


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit tpbench runs from, with ``+`` if the tree was changed; None outside a checkout.

    Code that was sent to a cluster knows it from ``TPBENCH_COMMIT``.
    """
    told = os.environ.get("TPBENCH_COMMIT", "")
    return told if re.fullmatch(r"[0-9a-f]{40}\+?", told) else commit_of(Path(__file__).parents[1])


def commit_of(package: Path) -> str | None:
    """The commit of a package's folder, with ``+`` if its files were changed.

    None if git does not track them: a repository around the installation, of whatever, says nothing about the code.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

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


def percent(fraction: float | None) -> float:
    """A fraction in per cent, not a number if there is none."""
    return math.nan if fraction is None else 100 * fraction
