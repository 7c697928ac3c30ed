"""The angles of updates behind Figures 4 and S3 to S5 in numbers, from the records of ``tpbench align``."""

from __future__ import annotations

import pandas as pd

from tpbench.engine import TpbenchError, method_names, method_title
from tpbench.reports.dampings import chosen_dampings
from tpbench.reports.recorded import find_records, mean_of, settled_epoch
from tpbench.results.alignments import AlignmentRecord, read_alignments
from tpbench.results.formats import check_format, spell_table
from tpbench.results.location import location

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
    first = settled_epoch(record) * record.steps_per_epoch
    rows = [k for k, step in enumerate(record.steps) if step >= first]
    by_loss, by_target = (mean_of(values[rows], (0, 1)) for values in record.arrays())
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
