"""Made-up runs and alignment records for the tests of the store and the tables."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tpbench.results import RunDefinition, RunRecord, RunStore
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
    test: Sequence[float] | None = None,
    source: str = "",
    content: Mapping[str, Any] | None = None,
) -> RunRecord:
    """A run whose validation and test errors are ``errors``, test 0.01 higher or the given ones.

    Args:
        source: that of the method.
        content: of the workload, which is the user's own then.
    """
    errors = [0.5, 0.02] if errors is None else errors
    curves = {"validation_error": errors, "test_error": [e + 0.01 for e in errors] if test is None else list(test)}
    own = "0" * 16 if content else ""
    definition = RunDefinition(
        workload,
        fingerprint,
        method,
        {"lr": lr},
        seed,
        epochs,
        precision=precision,
        method_source=source,
        workload_source=own,
    )
    return RunRecord(definition, label, status, curves, 1.5, 10, {"torch": "x"}, found or {}, content or {})


def runs_with(
    method: str,
    errors: Sequence[float],
    seeds: Iterable[int] | None = None,
    *,
    validation: float = 0.05,
    diverged: Collection[int] = (),
    **more: Any,
) -> list[RunRecord]:
    """Runs of one epoch with these test errors in per cent, one per seed.

    Args:
        method: that they were trained with.
        errors: one per seed.
        seeds: 0, 1, ... by default.
        validation: error of all of them, a fraction.
        diverged: seeds whose runs diverged.
        more: further arguments of :func:`record`.
    """
    return [
        record(
            method,
            seed,
            [validation],
            test=[error / 100],
            status="diverged" if seed in diverged else "finished",
            **more,
        )
        for seed, error in zip(range(len(errors)) if seeds is None else seeds, errors, strict=True)
    ]


def store_of(folder: Path, *groups: Iterable[RunRecord]) -> RunStore:
    """A store of these runs."""
    store = RunStore(folder)
    for group in groups:
        for run in group:
            store.publish(run)
    return store


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
