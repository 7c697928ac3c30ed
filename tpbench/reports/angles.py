"""The angles of updates behind Figures 4 and S3 to S5 in numbers, from the records of ``tpbench align``."""

from __future__ import annotations

import math

import pandas as pd

from tpbench.engine import TpbenchError, method_title
from tpbench.reports.dampings import chosen_dampings
from tpbench.reports.recorded import known_records, mean_of, measured_in, settled_epoch
from tpbench.results.alignments import AlignmentRecord
from tpbench.results.formats import check_format, csv_text, format_table
from tpbench.results.store import RunStore

ANGLE_COLUMNS = (
    "workload",
    "data",
    "method",
    "seeds",
    "epochs",
    "layer",
    "damping",
    "loss_angle",
    "target_angle",
    "damped_target_angle",
)
ANGLE_TITLE = "Angles of the updates (degrees): with the loss gradient / with damped GNT updates"
ANGLE_NOTE = (
    "Means over minibatches and seeds from the third epoch on (in the last one of shorter records), of every hidden "
    "layer. Of several records of a method the longest counts; the damping is the layer's best, chosen as for Table S7 "
    "(Condition S3). 90: no relation. In csv also without damping (Condition 2)."
)


def angle_frame(store: RunStore) -> pd.DataFrame:
    """The mean angles from the third epoch on (in the last epoch of shorter records), in degrees.

    One row per workload, kind of data, method and hidden layer (from 1): with the loss gradient, with GNT updates
    (Condition 2), and with damped ones (Condition S3) of the layer's best damping.

    Raises:
        TpbenchError: the store cannot be read.
    """
    rows = [row for records in known_records(store).values() for record in records for row in _angle_rows(record)]
    return pd.DataFrame(rows, columns=list(ANGLE_COLUMNS))


def _angle_rows(record: AlignmentRecord) -> list[dict[str, object]]:
    rows = measured_in(record, range(settled_epoch(record), record.epochs))
    by_loss, by_target = (mean_of(values[rows], (0, 1)) for values in record.arrays())
    common = {
        "workload": record.workload,
        "data": record.data_label or "exact",
        "method": record.method,
        "seeds": len(record.seeds),
        "epochs": record.epochs,
    }
    at = dict(zip(record.dampings, by_target.tolist(), strict=True))
    return [
        {
            **common,
            "layer": layer + 1,
            "damping": damping,
            "loss_angle": float(by_loss[layer]),
            "target_angle": at[0.0][layer],
            "damped_target_angle": math.nan if math.isnan(damping) else at[damping][layer],
        }
        for layer, damping in enumerate(chosen_dampings(record))
    ]


def angle_table(store: RunStore, form: str) -> str:
    """The mean angles in one of the formats of tables: a row per method, a column per hidden layer.

    Raises:
        UsageError: there is no such format.
        TpbenchError: there are no records.
    """
    check_format(form)
    frame = angle_frame(store)
    if frame.empty:
        raise TpbenchError(
            f"{store.folder} holds no alignment record of an installed method; make some: tpbench align WORKLOAD METHOD"
        )
    if form == "csv":
        return csv_text(frame.round(dict.fromkeys(ANGLE_COLUMNS[-3:], 2)))
    layers = int(frame["layer"].max())
    body = []
    for (workload, data, method, seeds, epochs), part in frame.groupby(list(ANGLE_COLUMNS[:5]), sort=False):
        found = [
            f"{_spell(a)} / {_spell(b)}" for a, b in zip(part["loss_angle"], part["damped_target_angle"], strict=True)
        ]
        label = str(workload) if data == "exact" else f"{workload} ({data})"
        body.append([label, method_title(str(method)), str(seeds), str(epochs), *found, *[""] * (layers - len(found))])
    header = ["workload", "method", "seeds", "epochs", *(f"layer {k + 1}" for k in range(layers))]
    return format_table(ANGLE_TITLE, header, body, form, ANGLE_NOTE)


def _spell(angle: float) -> str:
    return "-" if math.isnan(angle) else f"{angle:.1f}"
