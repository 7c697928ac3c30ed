"""Which records of ``tpbench align`` figures and tables show."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.store import RunStore

# Of B.2: the third is when the activation functions are partly in their nonlinear range.
_SETTLED = 2

Setting = tuple[str, str, int]
"""Workload, kind of data (empty: exact), hidden layers: what records must share to be compared."""


def known_records(store: RunStore) -> dict[Setting, list[AlignmentRecord]]:
    """The records of installed methods by their setting: of each method the longest, in the order of the methods.

    What is damaged is named in ``store.damaged``.

    Raises:
        TpbenchError: the store cannot be read.
    """
    found: dict[Setting, dict[str, AlignmentRecord]] = defaultdict(dict)
    for record in read_alignments(store).values():
        best = found[record.workload, record.data_label, record.layers]
        known = best.get(record.method)
        if known is None or (record.epochs, len(record.seeds)) > (known.epochs, len(known.seeds)):
            best[record.method] = record
    names = method_names()
    chosen = {setting: [best[m] for m in names if m in best] for setting, best in found.items()}
    return {setting: records for setting, records in chosen.items() if records}


def of_workload(known: Mapping[Setting, list[AlignmentRecord]], workload: str) -> list[AlignmentRecord]:
    """Those of a workload, all of one setting: of that of which there are most methods. None where there are none."""
    found = [item for item in known.items() if item[0][0] == workload]
    return min(found, key=lambda item: (-len(item[1]), item[0]))[1] if found else []


def find_records(store: RunStore, workload: str) -> list[AlignmentRecord]:
    """The records of a workload in a store, as :func:`of_workload` chooses them.

    Raises:
        TpbenchError: there are none.
    """
    records = of_workload(known_records(store), workload)
    if not records:
        raise TpbenchError(
            f"{store.folder} holds no alignment record of {workload} and an installed method; make some: "
            f"tpbench align {workload} METHOD"
        )
    return records


def settled_epoch(record: AlignmentRecord) -> int:
    """From 0: the third epoch, or the last one of shorter records."""
    return min(_SETTLED, record.epochs - 1)


def measured_in(record: AlignmentRecord, epochs: Container[int]) -> list[int]:
    """The rows of a record that were measured in these epochs (from 0)."""
    return [k for k, step in enumerate(record.steps) if step // record.steps_per_epoch in epochs]


def made_with(records: Sequence[AlignmentRecord]) -> str:
    """Seeds, epochs and kind of data of some records, in words."""
    labels = {r.data_label for r in records if r.data_label}
    parts = [_count({len(r.seeds) for r in records}, "seed"), _count({r.epochs for r in records}, "epoch")]
    return ", ".join([*parts, *labels])


def _count(numbers: set[int], what: str) -> str:
    few, many = min(numbers), max(numbers)
    return f"{few} {what}{'s' * (few != 1)}" if few == many else f"{few} to {many} {what}s"


def mean_of(values: NDArray[np.float64], axes: int | tuple[int, ...]) -> NDArray[np.float64]:
    """The mean over some dimensions of what is a number; not a number where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axes))
