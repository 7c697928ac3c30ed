"""The paper's figures that hold data: those of toy experiments, made at once (2, S2, S6), and those of records."""

from __future__ import annotations

import torch
from torch import Tensor

from tpbench.engine import method_title
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.names import ALIGNMENT_WORKLOADS, TOY
from tpbench.reports.recorded import find_records
from tpbench.reports.style import Figure, colour, drawing
from tpbench.reports.toy import gauss_newton_step, null_space_experiment, output_space_experiment
from tpbench.results.store import RunStore


@drawing(formulas=True)
def null_space_figure() -> Figure:
    """Fig. 2."""
    summary = null_space_experiment().summary()
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    for k, (name, (mean, deviation)) in enumerate(summary.items()):
        axes.bar(k, mean, yerr=deviation, color=colour(name), capsize=6, width=0.6)
        axes.annotate(f"{mean:.2f}", (k, mean), xytext=(18, 3), textcoords="offset points")
    axes.set_xticks(range(len(summary)), [method_title(name) for name in summary])
    axes.set(ylabel="null-space share of $\\Delta W_2$", ylim=(0, 1))
    axes.set_title("10 students 6-6-6-2, 100 updates each", fontsize="medium")
    return figure


@drawing(formulas=True)
def output_space_figure() -> Figure:
    """Fig. S2: one panel per sample; rings are contours of the squared error."""
    found = output_space_experiment()
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    panels = figure.subplots(3, 4).flatten()
    for k, axes in enumerate(panels):
        output, label = found.outputs[k], found.labels[k]
        radius = float((label - output).norm())
        for share in (0.4, 0.7, 1.0, 1.3):
            axes.add_patch(_circle(label, share * radius))
        axes.plot(*label, marker="x", color="0.3")
        for name in ("gnt", "bp"):
            direction = found.directions[name][k] * radius * 0.6
            axes.annotate(
                "", output + direction, output, arrowprops={"arrowstyle": "->", "color": _ARROWS[name], "linewidth": 2}
            )
        axes.set_aspect("equal")
        axes.set(xlim=_limits(label[0], radius), ylim=_limits(label[1], radius), xticks=[], yticks=[])
    cosines = found.cosines()
    figure.suptitle(
        "Movement of the output by the hidden layers of a 4-4-4-2 student: GNT (blue), BP (red);\n"
        "crosses: labels, rings: loss contours; "
        f"mean cosine with the downhill direction: GNT {cosines['gnt'][0]:.3f}, BP {cosines['bp'][0]:.3f}",
        fontsize="medium",
    )
    return figure


_ARROWS = {"gnt": "#0072B2", "bp": "#C00000"}


def _circle(centre: Tensor, radius: float):  # type: ignore[no-untyped-def]
    from matplotlib.patches import Circle

    return Circle((float(centre[0]), float(centre[1])), radius, fill=False, color="0.75", linewidth=0.8)


def _limits(centre: Tensor, radius: float) -> tuple[float, float]:
    return float(centre) - 1.5 * radius, float(centre) + 1.5 * radius


@drawing(formulas=True)
def gauss_newton_figure() -> Figure:
    """Fig. S6."""
    found = gauss_newton_step()
    figure = Figure(figsize=(9, 4), layout="constrained")
    curve, fit = figure.subplots(1, 2)
    line = torch.linspace(-2, 2, 200, dtype=torch.float64)
    curve.plot(found.x, found.labels, "o", color="0.4", markersize=4, label="data")
    for beta, name, shade in (
        (found.beta, "current", "#0072B2"),
        (found.beta + found.update, "after the step", "#D55E00"),
    ):
        curve.plot(line, torch.tanh(beta * line), color=shade, label=f"{name}: $\\beta$ = {beta:.2f}")
    curve.set(xlabel="x", ylabel="y", title="(a) $y = \\tanh(\\beta x)$")
    curve.legend(fontsize="small")
    fit.plot(found.sensitivities, -found.residuals, "o", color="0.4", markersize=4)
    ends = torch.tensor([float(found.sensitivities.min()), float(found.sensitivities.max())])
    fit.plot(ends, found.update * ends, color="#0072B2", label=f"slope $\\Delta\\beta$ = {found.update:.2f}")
    fit.axhline(0, color="0.7", linewidth=0.8)
    fit.axvline(0, color="0.7", linewidth=0.8)
    fit.set(xlabel="sensitivity $J$ of the output to $\\beta$", ylabel="residual $-e$", title="(b) least squares")
    fit.legend(fontsize="small")
    return figure


def make_figure(name: str, store: RunStore, workload: str | None = None) -> Figure:
    """The figure of that name.

    Raises:
        TpbenchError: what it is drawn from is missing.
    """
    toys = dict(zip(TOY, (null_space_figure, output_space_figure, gauss_newton_figure), strict=True))
    if name in toys:
        return toys[name]()
    return alignment_figure(find_records(store, workload or ALIGNMENT_WORKLOADS[name]), name)
