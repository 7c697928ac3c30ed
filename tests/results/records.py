"""Made-up runs and alignment records for the tests of the store and the tables."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpbench.results import RunDefinition, RunRecord
from tpbench.results.alignments import AlignmentRecord
from tpbench.results.artifacts import digest
from tpbench.results.runs import FORMAT
from tpbench.results.store import write_atomically


def record(
    method: str = "bp",
    seed: int = 0,
    errors: list[float] | None = None,
    *,
    workload: str = "mnist",
    epochs: int = 100,
    lr: float = 1e-3,
    label: str = "",
    status: str = "finished",
    fingerprint: str = "f" * 64,
    precision: str = "float32",
    found: Mapping[str, Any] | None = None,
) -> RunRecord:
    """A run whose validation and test errors are ``errors``, test 0.01 higher."""
    errors = [0.5, 0.02] if errors is None else errors
    curves = {"validation_error": errors, "test_error": [e + 0.01 for e in errors]}
    definition = RunDefinition(workload, fingerprint, method, {"lr": lr}, seed, epochs, precision=precision)
    return RunRecord(definition, label, status, curves, 1.5, 10, {"torch": "x"}, found or {})


def counts(text: str) -> list[int]:
    """The whole numbers in a text, in order."""
    return [int(number) for number in re.findall(r"\b\d+\b", text)]


def of_newer_format(run: RunRecord) -> str:
    """The file that a newer version would write: whole, with fields of its own."""
    body = {**json.loads(run.to_json()), "format": FORMAT + 1, "energy_j": 1.0}
    del body["checksum"]
    return json.dumps({**body, "checksum": digest(body)})


def archive_of(*runs: RunRecord, others: Mapping[str, bytes | str] | None = None) -> bytes:
    """An archive of runs, and of other entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for run in runs:
            archive.writestr(f"runs/{run.definition.id}.json", run.to_json())
        for name, content in (others or {}).items():
            archive.writestr(name, content)
    return file.getvalue()


def alignment_record(
    workload: str, method: str, dampings: Sequence[float], label: str = "", epochs: int = 3
) -> AlignmentRecord:
    """Two seeds, two minibatches an epoch: the angles with GNT updates are least at these dampings, of a layer each."""
    tried = (0.0, 0.001, 1.0, 10.0)
    target = [[[10.0 * (damping != best) + 20 + k for best in dampings] for damping in tried] for k in range(2)]
    loss = [[30.0 + layer + 10 * k for layer in range(len(dampings))] for k in range(2)]
    steps = list(range(2 * epochs))
    return AlignmentRecord(
        workload,
        label,
        method,
        [0, 1],
        epochs,
        1,
        2,
        list(tried),
        steps,
        [loss for _ in steps],
        [target for _ in steps],
        {},
    )


def keep_alignments(folder: Path, *records: AlignmentRecord) -> None:
    """Write records into a store as ``tpbench align`` does."""
    for made in records:
        write_atomically(folder / "alignment" / f"{made.workload}-{made.method}-0123456789ab.json", made.to_json())
