"""The paper's figures: the toy experiments of section B.3 (2, S2, S6), and those drawn from records of alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tpbench.engine import Architecture, get_method, method_title
from tpbench.engine.alignment import null_space_share
from tpbench.engine.gauss_newton import gauss_newton_change
from tpbench.engine.methods import Minibatch
from tpbench.engine.network import Parameters, squared_error, stream
from tpbench.engine.step import PackState
from tpbench.reports import ALIGNMENT_WORKLOADS, TOY
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.alignment_tables import find_records
from tpbench.reports.style import Axes, Figure, MaxNLocator, colour, drawing
from tpbench.results.store import RunStore
from tpbench.workloads.problems import teacher_problem

# Section B.3 gives no hyperparameters for these networks: a feedback learning rate with which the reconstruction losses
# settle well before the end, and the paper's usual sigma.
_FEEDBACK = {
    "lr_eta": 0.0,
    "eta": 0.1,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "lr_fb": 5e-3,
    "beta1_fb": 0.9,
    "beta2_fb": 0.999,
    "epsilon_fb": 1e-8,
    "sigma": 0.05,
    "wd_fb": 0.0,
}
# Minibatches that train the feedback, and their samples.
_FEEDBACK_STEPS, _FEEDBACK_BATCH = 3000, 32


def null_space_experiment(samples: int = 100) -> dict[str, tuple[float, float]]:
    """Toy experiment 1: 6-6-6-2 students with frozen forward weights; the feedback is trained until it settles.

    Args:
        samples: updates of one sample each that are measured.

    Returns:
        Per method the share of ``dW_2`` that cannot change the output: mean and deviation over networks and samples.
    """
    networks = 10
    architecture = Architecture((6, 6, 6, 2))
    problem = teacher_problem(architecture)
    shares = {}
    for name in ("dtp-pretrained", "ddtp-linear"):
        method = get_method(name)
        configuration = {h: _FEEDBACK[h] for h in method.names}
        pack = PackState(
            method,
            architecture,
            [configuration] * networks,
            list(range(networks)),
            loss=squared_error,
            dtype=torch.float64,
        )
        generator = stream(0, "null space")
        for step in range(_FEEDBACK_STEPS):
            if step == _FEEDBACK_STEPS // 2:
                _scale_feedback_rate(pack, 0.1)
            index = torch.randint(len(problem.x_train), (networks, _FEEDBACK_BATCH), generator=generator)
            pack.feedback_step(problem.x_train[index], _noise(architecture, networks, _FEEDBACK_BATCH, generator))
        _scale_feedback_rate(pack, 0.0)
        observer = _Shares()
        pack.observer = observer
        for _ in range(samples):
            index = torch.randint(len(problem.x_train), (networks, 1), generator=generator)
            noise = _noise(architecture, networks, 1, generator)
            pack.joint_step(problem.x_train[index], problem.y_train[index], noise)
        measured = torch.stack(observer.shares, 1)
        shares[name] = float(measured.mean()), float(measured.std())
    return shares


def _scale_feedback_rate(pack: PackState, factor: float) -> None:
    assert pack.feedback_adam
    pack.feedback_adam.scale_learning_rates(factor)


class _Shares:
    """An observer of the steps that records the null-space share of the second layer's update."""

    def __init__(self) -> None:
        self.shares: list[Tensor] = []

    def __call__(self, batch: Minibatch, gradients: Parameters) -> None:
        jacobians = batch.jacobians()
        self.shares.append(null_space_share(jacobians[1][:, 0], batch.slopes[2][:, 0], gradients["W2"]))


def _noise(architecture: Architecture, members: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    sizes = [architecture.sizes[i] for i in architecture.hidden]
    return [torch.randn(members, batch, n, generator=generator, dtype=torch.float64) for n in sizes]


@dataclass(frozen=True)
class GaussNewtonStep:
    """Fig. S6: one Gauss-Newton step on ``y = tanh(beta x)``; equations 167 to 174."""

    x: Tensor
    labels: Tensor
    beta: float
    sensitivities: Tensor
    """``J``, the derivative of every output with respect to beta."""
    residuals: Tensor
    """``e = y - l``."""
    update: float
    """``dbeta = -J^+ e``, from the engine's Gauss-Newton change."""


def gauss_newton_step() -> GaussNewtonStep:
    """Return the toy problem of Fig. S6: a curve with one parameter through noisy points.

    The paper does not say which curve it drew; this one is ``tanh(beta x)`` with points around beta = 1.5, seen from
    beta = 0.6.
    """
    beta, samples = 0.6, 25
    generator = stream(0, "gauss-newton step")
    x = 4 * torch.rand(samples, generator=generator, dtype=torch.float64) - 2
    labels = torch.tanh(1.5 * x) + 0.1 * torch.randn(samples, generator=generator, dtype=torch.float64)
    outputs = torch.tanh(beta * x)
    sensitivities, residuals = x * (1 - outputs.square()), outputs - labels
    # All samples are the outputs of one "layer" of one unit: J is (samples, 1).
    change = gauss_newton_change(
        sensitivities.view(1, 1, -1, 1), residuals.view(1, 1, -1), torch.zeros(1, dtype=torch.float64)
    )
    return GaussNewtonStep(x, labels, beta, sensitivities, residuals, float(change))


@dataclass(frozen=True)
class OutputDirections:
    """Fig. S2 for several samples: outputs, labels and unit directions in output space, each (samples, 2)."""

    outputs: Tensor
    labels: Tensor
    directions: dict[str, Tensor]

    def cosines(self) -> dict[str, Tensor]:
        """Cosines between each direction and ``-e_L``, one per sample."""
        downhill = torch.nn.functional.normalize(self.labels - self.outputs, dim=1)
        return {name: (d * downhill).sum(1) for name, d in self.directions.items()}


def output_space_experiment(samples: int) -> OutputDirections:
    """Toy experiment 2: directions in which updates of GNT and BP move the output of a 4-4-4-2 student.

    The student is trained with 500 steps of GNT first, of one sample each. Both methods' updates are then taken at the
    same parameters, so that only the update differs. The hidden layers alone are moved: the output layer's update is
    the same for both methods, follows -e_L exactly and would hide what they differ in.

    Args:
        samples: minibatches of one sample that are looked at.
    """
    architecture = Architecture((4, 4, 4, 2))
    problem = teacher_problem(architecture)
    configuration = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "damping": 0.0}
    packs = {}
    for name in ("gnt", "bp"):
        method = get_method(name)
        chosen = {h: configuration[h] for h in method.names}
        packs[name] = PackState(method, architecture, [chosen], [0], loss=squared_error, dtype=torch.float64)
    generator = stream(0, "output space")
    for _ in range(500):
        index = torch.randint(len(problem.x_train), (1, 1), generator=generator)
        packs["gnt"].joint_step(problem.x_train[index], problem.y_train[index], None)
    index = torch.randint(len(problem.x_test), (samples, 1, 1), generator=generator)
    xs, ys = problem.x_test[index[:, 0]], problem.y_test[index[:, 0]]
    start = packs["gnt"].forward.flat.clone()
    outputs, directions = [], {}
    for name, pack in packs.items():
        moves = []
        for x, y in zip(xs.unsqueeze(1), ys.unsqueeze(1), strict=True):
            pack.forward.flat.copy_(start)
            before = pack.propagate(x)[-1].clone()
            pack.joint_step(x, y, None)
            pack.forward.flat.copy_(start)
            for i in architecture.hidden:
                for array in (f"W{i}", f"b{i}"):
                    pack.forward[array].sub_(pack.forward_gradients[array], alpha=1e-4)
            moves.append((pack.propagate(x)[-1] - before).flatten())
            if name == "gnt":
                outputs.append(before.flatten())
        directions[name] = torch.nn.functional.normalize(torch.stack(moves), dim=1)
    return OutputDirections(torch.stack(outputs), ys[:, 0], directions)


@drawing(formulas=True)
def null_space_figure() -> Figure:
    """Draw Fig. 2."""
    summary = null_space_experiment()
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for k, (name, (mean, deviation)) in enumerate(summary.items()):
        axes.bar(k, mean, yerr=deviation, color=colour(name), ecolor="0.3", capsize=6, width=0.5)
        axes.annotate(f"{mean:.2g}", (k, mean), xytext=(18, 3), textcoords="offset points")
    axes.set_xticks(range(len(summary)), [method_title(name) for name in summary])
    axes.set(ylabel="share of $\\Delta W_2$ without effect", ylim=(0, 1))
    axes.set_title("Updates that do not change the network's output", fontsize="medium")
    figure.supxlabel(
        "Share of the update in the null space of the output's Jacobian.\n"
        "Bar: mean over 10 students 6-6-6-2 and 100 updates each;\nerror bar: one standard deviation.",
        fontsize=8,
    )
    return figure


@drawing(formulas=True)
def output_space_figure() -> Figure:
    """Draw Fig. S2: the output's movement for four samples, and a histogram of its angle with the steepest descent."""
    experiment = output_space_experiment(samples=100)
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    for k in range(4):
        _draw_movement(figure.add_subplot(grid[k // 2, k % 2]), experiment, k)
    axes = figure.add_subplot(grid[:, 2:])
    bins, highest = list(range(0, 181, 10)), 0.0
    looks: dict[str, dict[str, Any]] = {
        "gnt": {"histtype": "stepfilled", "alpha": 0.45},
        "bp": {"histtype": "step", "linewidth": 1.6},
    }
    for name, cosines in experiment.cosines().items():
        angles = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
        label = f"{method_title(name)}: mean cosine {float(cosines.mean()):.3f}"
        axes.hist(angles, bins, color=colour(name), label=label, **looks[name])
        highest = max(highest, float(angles.max()))
    axes.set_xlim(0, math.ceil(highest / 10) * 10)
    axes.set(xlabel="angle with the steepest descent (degrees)", ylabel=f"samples of {len(experiment.outputs)}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title("(b) all samples", fontsize="medium")
    figure.axes[0].set_title("(a) four samples", fontsize="medium", loc="left")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel(
        "Movement of the output by an update of the hidden layers of a 4-4-4-2 student. Arrow: direction, from the "
        "output; cross: label; rings: equal loss.",
        fontsize=8,
    )
    return figure


def _draw_movement(axes: Axes, experiment: OutputDirections, sample: int) -> None:
    """Draw the directions of both methods for one sample, on contours of the squared error."""
    from matplotlib.patches import Circle

    output, label = experiment.outputs[sample], experiment.labels[sample]
    radius = float((label - output).norm())
    for share in (0.4, 0.7, 1.0, 1.3):
        ring = Circle((float(label[0]), float(label[1])), share * radius, fill=False, color="0.75", linewidth=0.8)
        axes.add_patch(ring)
    axes.plot(*label, marker="x", color="0.3")
    for name, width in (("gnt", 3.5), ("bp", 1.2)):
        # Both begin at the output: the narrow one stays visible on the wide one.
        end = output + experiment.directions[name][sample] * radius * 0.75
        arrow = {"arrowstyle": "-|>", "color": colour(name), "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tuple(end.tolist()), tuple(output.tolist()), arrowprops=arrow)
    axes.set_aspect("equal")
    axes.set(xlim=_limits(label[0], radius), ylim=_limits(label[1], radius), xticks=[], yticks=[])


def _limits(centre: Tensor, radius: float) -> tuple[float, float]:
    return float(centre) - 1.5 * radius, float(centre) + 1.5 * radius


@drawing(formulas=True)
def gauss_newton_figure() -> Figure:
    """Draw Fig. S6."""
    experiment = gauss_newton_step()
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    curve, fit = figure.subplots(1, 2)
    line = torch.linspace(-2, 2, 200, dtype=torch.float64)
    curve.plot(experiment.x, experiment.labels, "o", color="0.55", markersize=4, label="data")
    step = colour("gnt")
    for beta, name, shade, style in (
        (experiment.beta, "before", "black", "--"),
        (experiment.beta + experiment.update, "after", step, "-"),
    ):
        curve.plot(line, torch.tanh(beta * line), color=shade, linestyle=style, label=f"{name}: $\\beta$ = {beta:.2f}")
    curve.set(xlabel="x", ylabel="y", title="(a) the curve $y = \\tanh(\\beta x)$")
    fit.plot(experiment.sensitivities, -experiment.residuals, "o", color="0.55", markersize=4, label="data")
    ends = torch.tensor([float(experiment.sensitivities.min()), float(experiment.sensitivities.max())])
    fit.plot(ends, experiment.update * ends, color=step, label=f"slope $\\Delta\\beta$ = {experiment.update:.2f}")
    for axis in (fit.axhline, fit.axvline):
        axis(0, color="0.7", linewidth=0.8)
    fit.set(
        xlabel="sensitivity $J$ of the output to $\\beta$", ylabel="residual $-e$", title="(b) the step: least squares"
    )
    for axes in (curve, fit):
        # Both rise from the lower left: the upper left is free.
        axes.legend(fontsize="small", loc="upper left")
        axes.grid(alpha=0.3)
    return figure


def make_figure(name: str, store: RunStore, workload: str | None = None) -> Figure:
    """Draw the figure of that name.

    Raises:
        TpbenchError: the records that it needs are missing.
    """
    toys = dict(zip(TOY, (null_space_figure, output_space_figure, gauss_newton_figure), strict=True))
    if name in toys:
        return toys[name]()
    return alignment_figure(find_records(store, workload or ALIGNMENT_WORKLOADS[name]), name)
