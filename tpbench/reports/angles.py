"""Tables of how updates align, from the records of ``tpbench align``: Table S7, and the angles themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.engine.alignment import choose_damping
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.formats import check_format, spell_table
from tpbench.results.location import location
from tpbench.results.paper import paper_dampings
from tpbench.results.rendering import DampingRow, damping_table

DAMPING_WORKLOAD = "fashion-mnist"
"""Of Table S7."""
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


def chosen_dampings(record: AlignmentRecord) -> list[float]:
    """The damping of every hidden layer that aligns best in the third epoch (the last one of shorter records)."""
    epoch = min(_SETTLED, record.epochs - 1)
    rows = [k for k, step in enumerate(record.steps) if step // record.steps_per_epoch == epoch]
    if not rows:
        raise TpbenchError(
            f"{record.method} on {record.workload}: nothing was measured in epoch {epoch + 1}; use a smaller --every"
        )
    return choose_damping(record.tensors()[1][rows].nanmean(1), tuple(record.dampings))


def made_with(records: Sequence[AlignmentRecord]) -> str:
    """Seeds, epochs and kind of data of some records, in words."""
    seeds, epochs = {len(r.seeds) for r in records}, {r.epochs for r in records}
    labels = {r.data_label for r in records if r.data_label}
    parts = [f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else f"{min(seeds)} seed{'s' * (min(seeds) > 1)}"]
    parts.append(f"{'/'.join(map(str, sorted(epochs)))} epochs")
    return ", ".join([*parts, *labels])


def damping_entries(results: str) -> list[DampingRow]:
    """Table S7: the chosen damping of every hidden layer, per method, beside the paper's.

    Raises:
        TpbenchError: there are no records, or one is damaged.
    """
    return _dampings(find_records(results, DAMPING_WORKLOAD))


def _dampings(records: Sequence[AlignmentRecord]) -> list[DampingRow]:
    return [(record.method, chosen_dampings(record), paper_dampings(record.method)) for record in records]


def damping_text(results: str, form: str) -> str:
    """Table S7 in one of the formats of tables.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records, or one is damaged.
    """
    check_format(form)
    records = find_records(results, DAMPING_WORKLOAD)
    note = f"Chosen by the angles in the third epoch on {DAMPING_WORKLOAD} (B.2); records of {made_with(records)}."
    return damping_table(_dampings(records), form, note)


ANGLE_COLUMNS = (
    "workload", "data", "method", "seeds", "epochs", "layer", "damping", "loss_angle", "target_angle",
    "damped_target_angle",
)  # fmt: skip


def angle_frame(results: str) -> pd.DataFrame:
    """The mean angles from the third epoch on (in the last epoch of shorter records), in degrees.

    One row per workload, method and hidden layer (from 1): with the loss gradient, with GNT updates (Condition 2), and
    with damped ones (Condition S3) of the layer's best damping.

    Raises:
        TpbenchError: a record is damaged.
    """
    rows = []
    known = [record for record in read_alignments(location(results)) if record.method in method_names()]
    for workload in dict.fromkeys(record.workload for record in known):
        for record in find_records(results, workload):
            rows += _angle_rows(record)
    return pd.DataFrame(rows, columns=list(ANGLE_COLUMNS))


def _angle_rows(record: AlignmentRecord) -> list[dict[str, object]]:
    first = min(_SETTLED, record.epochs - 1) * record.steps_per_epoch
    rows = [k for k, step in enumerate(record.steps) if step >= first]
    by_loss, by_target = (values[rows].nanmean((0, 1)) for values in record.tensors())
    common = {
        "workload": record.workload, "data": record.data_label or "exact", "method": record.method,
        "seeds": len(record.seeds), "epochs": record.epochs,
    }  # fmt: skip
    return [
        {
            **common, "layer": layer + 1, "damping": damping, "loss_angle": float(by_loss[layer]),
            "target_angle": float(by_target[record.dampings.index(0.0), layer]),
            "damped_target_angle": float(by_target[record.dampings.index(damping), layer]),
        }
        for layer, damping in enumerate(chosen_dampings(record))
    ]  # fmt: skip


ANGLE_TITLE = "Angles of the updates (degrees): with the loss gradient / with damped GNT updates"
ANGLE_NOTE = (
    "Means over minibatches and seeds from the third epoch on, of every hidden layer; the damping is the layer's best, "
    "chosen as for Table S7 (Condition S3). 90: no relation. In csv also without damping (Condition 2)."
)


def angle_table(results: str, form: str) -> str:
    """The mean angles in one of the formats of tables: a row per method, a column per hidden layer.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records, or one is damaged.
    """
    check_format(form)
    frame = angle_frame(results)
    if frame.empty:
        raise TpbenchError(f"{results} holds no alignment record; make some: tpbench align WORKLOAD METHOD")
    if form == "csv":
        return frame.round(dict.fromkeys(ANGLE_COLUMNS[-3:], 2)).to_csv(index=False, lineterminator="\n")
    layers = int(frame["layer"].max())
    body = []
    for (workload, data, method, seeds, epochs), part in frame.groupby(list(ANGLE_COLUMNS[:5]), sort=False):
        found = [f"{a:.1f} / {b:.1f}" for a, b in zip(part["loss_angle"], part["damped_target_angle"], strict=True)]
        label = str(workload) if data == "exact" else f"{workload} ({data})"
        body.append([label, method_title(str(method)), str(seeds), str(epochs), *found, *[""] * (layers - len(found))])
    header = ["workload", "method", "seeds", "epochs", *(f"layer {k + 1}" for k in range(layers))]
    return spell_table(ANGLE_TITLE, header, body, form, ANGLE_NOTE)
