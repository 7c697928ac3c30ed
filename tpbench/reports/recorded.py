"""Which records of ``tpbench align`` figures and tables show."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tpbench.engine import TpbenchError, method_names
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.location import location

# Of B.2: the third is when the activation functions are partly in their nonlinear range.
_SETTLED = 2


def find_records(results: str, workload: str) -> list[AlignmentRecord]:
    """The records of a workload, the longest of each method, in the order of the table of methods.

    All are of the same data (of a workload of the user's: of the same file): those of which there are most methods.

    Raises:
        TpbenchError: there are none.
    """
    of_data: dict[str, dict[str, AlignmentRecord]] = defaultdict(dict)
    for record in read_alignments(location(results)):
        if record.workload == workload and record.method in method_names():
            best = of_data[record.data_label]
            known = best.get(record.method)
            if known is None or (record.epochs, len(record.seeds)) > (known.epochs, len(known.seeds)):
                best[record.method] = record
    if not of_data:
        raise TpbenchError(
            f"{results} holds no alignment record of {workload}; make some: tpbench align {workload} METHOD"
        )
    _, chosen = min(of_data.items(), key=lambda item: (-len(item[1]), item[0]))
    return [chosen[m] for m in method_names() if m in chosen]


def settled_epoch(record: AlignmentRecord) -> int:
    """From 0: the third epoch, or the last one of shorter records."""
    return min(_SETTLED, record.epochs - 1)


def made_with(records: Sequence[AlignmentRecord]) -> str:
    """Seeds, epochs and kind of data of some records, in words."""
    seeds, epochs = {len(r.seeds) for r in records}, {r.epochs for r in records}
    labels = {r.data_label for r in records if r.data_label}
    parts = [f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else f"{min(seeds)} seed{'s' * (min(seeds) > 1)}"]
    parts.append(f"{'/'.join(map(str, sorted(epochs)))} epochs")
    return ", ".join([*parts, *labels])


def mean_of(values: NDArray[np.float64], axes: int | tuple[int, ...]) -> NDArray[np.float64]:
    """The mean over some dimensions of what is a number; not a number where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axes))
