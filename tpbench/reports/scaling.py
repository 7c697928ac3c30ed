"""Time per member against pack size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tpbench.reports.style import Figure, drawing, plain_labels, save
from tpbench.workloads.benchmark import BenchmarkRow


@drawing()
def plot_scaling(rows: Sequence[BenchmarkRow], path: Path) -> None:
    """Draw seconds per member and joint epoch over the pack size, one line per workload and method.

    Args:
        rows: of ``tpbench bench`` with several pack sizes.
        path: the picture; its ending decides the format.

    Raises:
        TpbenchError: it cannot be written.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = sorted({(row.workload, row.method) for row in rows})
    for workload, method in lines:
        points = sorted(
            (r.pack, 1 / r.member_epochs_per_second) for r in rows if (r.workload, r.method) == (workload, method)
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{workload} {method}")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="members per pack",
        ylabel="seconds per member and joint epoch",
        title=f"{rows[0].device}, {rows[0].precision}",
    )
    packs = sorted({row.pack for row in rows})
    axes.set_xticks(packs, [str(p) for p in packs])
    axes.minorticks_off()
    plain_labels(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save(figure, path)
