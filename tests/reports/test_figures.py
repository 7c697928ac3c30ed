"""Figures and Table S7 from real records of a small training, and plots of stores and searches."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

import tpbench
from tests.conftest import CONFIGURATION, Inside
from tests.results.records import alignment_record, keep_alignments, record
from tpbench.engine import METHODS, TpbenchError, method_names
from tpbench.reports import paper_figures as toy
from tpbench.reports.alignment_figures import alignment_figure, alignment_panel, shown_layers
from tpbench.reports.alignment_tables import find_records
from tpbench.reports.curves import (
    cell_curves,
    cells_of,
    cost_plot,
    curve_panel,
    dashes,
    label_beside,
    learning_curves,
    marker,
    middle_and_band,
    panel,
    scaling_figure,
)
from tpbench.reports.page import search_section
from tpbench.reports.style import (
    Figure,
    Glyphs,
    colour,
    log_scale,
    logarithmic_labels,
    method_style,
    plain_number,
    save,
    to_svg,
)
from tpbench.reports.tuning_plots import (
    TUNING_AXES,
    TuningPlot,
    importance,
    read_search,
    search_figure,
    search_panels,
    tuning_figure,
    tuning_panel,
    tuning_plots,
)
from tpbench.results import RunStore
from tpbench.results.cells import Cell, read_curves
from tpbench.results.runs import search_info
from tpbench.search.definition import SweepDefinition
from tpbench.search.journal import Journal
from tpbench.training.plan import Outcome
from tpbench.workloads.benchmark import BenchmarkRow

PNG = b"\x89PNG"


def configuration(folder: Path, method: str) -> str:
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump({k: CONFIGURATION[k] for k in METHODS[method].hyperparameters}))
    return str(path)


def test_alignment_is_recorded_and_drawn(tpbench_inside: Inside, tmp_path: Path) -> None:
    for method in ("dfa", "ddtp-linear"):
        options = ("--config", configuration(tmp_path, method), "--epochs", "3", "--every", "8", "--seeds", "0-1")
        result = tpbench_inside("align", "digits", method, *options)
        assert result.returncode == 0, result.stderr
    paths = sorted((tmp_path / "results" / "alignment").glob("*.json"))
    assert len(paths) == 2
    body = json.loads(paths[0].read_text())
    assert len(body["loss_angles"]) == len(body["steps"])
    assert len(body["target_angles"][0][0]) == len(body["dampings"]) == 8
    for name in ("4", "s3"):
        assert tpbench_inside("figure", name, "--workload", "digits").returncode == 0
        assert (tmp_path / f"figure_{name}.png").read_bytes().startswith(PNG)
    assert "of mnist" in tpbench_inside("figure", "s4").stderr
    paths[0].write_text(paths[0].read_text().replace('"every": 8', '"every": 9'))
    broken = tpbench_inside("figure", "4", "--workload", "digits")
    assert broken.returncode == 0
    assert "checksum" in broken.stderr


def test_table_s7_stands_beside_the_papers(tpbench_inside: Inside, tmp_path: Path) -> None:
    keep_alignments(
        tmp_path / "results",
        alignment_record("fashion-mnist", "dtp", [1.0, 10.0, 0.0, 1.0, 1.0]),
        alignment_record("fashion-mnist", "bp", [0.0] * 5),
        alignment_record("mnist", "dfa", [0.0] * 5),
    )
    text = tpbench_inside("table", "s7", "--format", "md").stdout
    assert "| DTP | 1 (10) | 10 (10) | 0 (10) | 1 (10) | 1 (10) |" in text
    assert "| BP | 0 | 0 | 0 | 0 | 0 |" in text
    assert "2 seeds, 3 epochs" in text
    assert "DFA" not in text
    frame = pd.read_csv(pd.io.common.StringIO(tpbench_inside("table", "s7", "--format", "csv").stdout))
    rows = frame[frame.method == "dtp"]
    assert list(rows.paper) == [10.0] * 5
    assert list(rows.angle) == [20.5] * 5
    assert list(rows.paper_angle) == [30.5, 20.5, 30.5, 30.5, 30.5]
    assert frame[frame.method == "bp"].paper_angle.isna().all()
    assert r"\toprule" in tpbench_inside("table", "s7", "--format", "latex").stdout
    assert "unknown format" in tpbench_inside("table", "s7", "--format", "pdf").stderr


def test_the_angles_behind_the_figures_are_a_table(tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    empty = tpbench_inside("table", "angles")
    assert empty.returncode == 1
    assert "tpbench align" in empty.stderr
    keep_alignments(
        tmp_path / "results",
        alignment_record("fashion-mnist", "dtp", [1.0, 0.001, 10.0, 1.0, 0.0]),
        alignment_record("cifar10", "dtp", [1.0] * 3, "JPEG copy"),
        alignment_record("cifar10", "no-such-method", [1.0] * 3, "JPEG copy"),
    )
    text = tpbench_inside("table", "angles", "--format", "md").stdout
    assert "| fashion-mnist | DTP | 2 | 3 | 35.0 / 20.5 | 36.0 / 20.5 |" in text
    assert "| cifar10 (JPEG copy) | DTP | 2 | 3 | 35.0 / 20.5 | 36.0 / 20.5 | 37.0 / 20.5 |  |  |" in text
    frame = pd.read_csv(pd.io.common.StringIO(tpbench_inside("table", "angles", "--format", "csv").stdout))
    rows = frame[frame.workload == "fashion-mnist"]
    assert list(rows.damping) == [1.0, 0.001, 10.0, 1.0, 0.0]
    assert list(rows.target_angle) == [30.5, 30.5, 30.5, 30.5, 20.5]
    assert list(rows.damped_target_angle) == [20.5] * 5
    assert list(tpbench.table(tmp_path / "results", "angles").columns) == list(frame.columns)


def test_every_line_of_an_alignment_figure_is_told_apart_and_labelled(tmp_path: Path) -> None:
    keep_alignments(tmp_path, *(alignment_record("fashion-mnist", method, [1.0] * 2) for method in METHODS))
    records = find_records(RunStore(tmp_path), "fashion-mnist")
    loss, target = alignment_figure(records, "4").axes
    lines = loss.get_lines()[: len(METHODS)]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == len(METHODS)
    assert [line.get_color() for line in lines] == [colour(record.method) for record in records]
    assert {text.get_text() for text in target.texts} == {METHODS[record.method].title for record in records}
    assert [label.get_text() for label in loss.get_yticklabels()] == ["0°", "30°", "60°", "90°"]
    for axes in (loss, target):
        assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_an_alignment_has_a_row_for_each_layer_and_a_panel_of_its_own_on_a_page(tmp_path: Path) -> None:
    keep_alignments(tmp_path, *(alignment_record("mnist", method, [1.0] * 3) for method in ("dfa", "dtp")))
    records = find_records(RunStore(tmp_path), "mnist")
    figure = alignment_figure(records, "s4")
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["layer 1", "layer 2", "layer 3"]
    assert shown_layers(records, "s4") == [0, 1, 2]
    assert shown_layers(records, "4") == [2]
    for layer in shown_layers(records, "s4"):
        for whole, alone in zip(figure.axes[2 * layer :], alignment_panel(records, "s4", layer).axes, strict=False):
            assert [list(line.get_ydata()) for line in whole.lines] == [  # type: ignore[arg-type]
                list(line.get_ydata())
                for line in alone.lines  # type: ignore[arg-type]
            ]


def test_records_of_other_networks_do_not_mix(tpbench_inside: Inside, tmp_path: Path) -> None:
    deep, shallow = alignment_record("own", "dtp", [1.0] * 3), alignment_record("own", "dfa", [1.0] * 2)
    unmeasured = replace(alignment_record("own", "bp", [1.0] * 2), steps_per_epoch=1000)
    frozen = replace(alignment_record("other", "bp", [1.0] * 2))
    for minibatch in (*frozen.loss_angles, *(row for one in frozen.target_angles for row in one)):
        for angles in minibatch:
            angles[0] = None
    keep_alignments(tmp_path / "results", deep, shallow, unmeasured, frozen)
    text = tpbench_inside("table", "angles", "--format", "md").stdout
    assert "| own | DTP | 2 | 3 | 35.0 / 20.5 | 36.0 / 20.5 | 37.0 / 20.5 |" in text
    assert "| own | DFA | 2 | 3 | 35.0 / 20.5 | 36.0 / 20.5 |  |" in text
    assert "| own | BP | 2 | 3 | - / - | - / - |  |" in text
    assert "| other | BP | 2 | 3 | - / - | 36.0 / 20.5 |  |" in text
    for workload in ("own", "other"):
        drawn = tpbench_inside("figure", "s3", "--workload", workload)
        assert drawn.returncode == 0, drawn.stderr
    assert tpbench_inside("figure", "s3", "--workload", "owm").returncode == 2


def test_the_null_space_experiment_shows_what_the_paper_says() -> None:
    summary = toy.null_space_experiment(samples=20)
    # "a substantial part of the DTP parameter updates does not have any effect on the network output"
    assert summary["dtp-pretrained"][0] > 0.6
    # 0.014 where the feedback's learning rate is lowered and then zero; 0.12 where it stays.
    assert summary["ddtp-linear"][0] < 0.03


def test_gnt_pushes_the_output_downhill() -> None:
    cosines = toy.output_space_experiment(samples=100).cosines()
    # In nonlinear networks only approximately, and little better than BP: 0.942 and 0.935.
    assert float(cosines["gnt"].mean()) > 0.9
    assert {name: tuple(values.shape) for name, values in cosines.items()} == {"gnt": (100,), "bp": (100,)}


def test_the_output_space_has_four_samples_a_histogram_and_a_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = torch.zeros(5, 2)
    directions = {"gnt": torch.tensor([[1.0, 0.0]] * 5), "bp": torch.tensor([[0.0, 1.0]] * 5)}
    made = toy.OutputDirections(outputs, torch.tensor([[1.0, 0.0]] * 5), directions)
    monkeypatch.setattr(toy, "output_space_experiment", lambda samples: made)
    figure = toy.output_space_figure()
    *movements, histogram = figure.axes
    assert len(movements) == 4
    shades = [arrow.arrow_patch.get_edgecolor() for arrow in movements[0].texts]  # type: ignore[attr-defined]
    assert [to_hex(shade) for shade in shades] == [colour("gnt"), colour("bp")]
    heights = [[vertex[1] for vertex in patch.get_xy()] for patch in histogram.patches]  # type: ignore[attr-defined]
    assert [max(height) for height in heights] == [5, 5]
    assert histogram.get_xlim() == (0, 90)
    assert len(figure.legends[0].get_texts()) == 2


def test_the_null_space_has_the_palette_and_its_error_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toy, "null_space_experiment", lambda: {"dtp-pretrained": (0.69, 0.17), "ddtp-linear": (0.01, 0.01)}
    )
    axes = toy.null_space_figure().axes[0]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [colour("dtp-pretrained"), colour("ddtp-linear")]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["DTP (pre-trained)", "DDTP-linear"]
    assert len(axes.collections) == 2


def test_plots_of_a_store_and_of_a_search(tpbench_inside: Inside, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(3):
        store.publish(record("bp", seed, [0.3, 0.2, 0.1 + seed / 100], epochs=3))
    folder = tmp_path / "results" / "sweeps" / "mnist-bp-1"
    journal = Journal.open(folder / "journal.jsonl")
    folder.mkdir(parents=True)
    definition = SweepDefinition("mnist", "bp", "0" * 64, {"lr": ["loguniform", 1e-5, 1e-2]}, 12, 1, (0,), 0, 2, 1)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    for k in range(12):
        journal.add_pack([{"lr": 10.0**-k, "beta1": 0.9, "epsilon": 1e-8 * (k % 3 + 1)}])
        journal.end_pack(k, [Outcome("0" * 24, "finished", 0.1 + k / 100, None)])
    for kind, what in (("curves", "mnist"), ("cost", "mnist"), ("forest", "mnist"), ("search", "mnist-bp-1")):
        result = tpbench_inside("plot", kind, what)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / f"{kind}_{what}.png").read_bytes().startswith(PNG)
    assert "'mnist-bp-1'" in tpbench_inside("plot", "search", "mnist-bp-2").stderr
    assert "'curves'" in tpbench_inside("plot", "curvs", "mnist").stderr


def test_importance_finds_what_matters() -> None:
    frame = pd.DataFrame(
        {
            "lr": range(30),
            "middle": [abs(k - 15) for k in range(30)],
            "sigma": [k * 7 % 30 for k in range(30)],
            "beta": [(0.9, 0.99)[k % 2] for k in range(30)],
            "constant": [1.0] * 30,
            "error": [k / 2 for k in range(30)],
        }
    )
    shares = importance(frame)
    assert shares is not None
    assert shares["lr"] > 0.8
    assert shares[["sigma", "beta"]].max() < 0.2
    assert list(shares) == sorted(shares)
    assert "constant" not in shares
    # Best in the middle, which no correlation of ranks sees.
    middle = importance(frame.assign(error=[float(abs(k - 15)) for k in range(30)]))
    assert middle is not None
    assert middle["lr"] > 0.5
    assert importance(frame[:3]) is None


@pytest.fixture
def halved_search(tmp_path: Path) -> RunStore:
    """MNIST and BP: 30 trials in packs of 3, of which each pack trains one to its end and one diverges."""
    space = {"lr": ["log_uniform", 1e-5, 1e-2], "beta1": ["choice", 0.9, 0.99, 0.999], "epsilon": ["constant", 1e-8]}
    definition = SweepDefinition("mnist", "bp", "0" * 64, space, 30, 9, (0,), 0, 3, 1, halving=3)
    folder = tmp_path / "results" / "sweeps" / "mnist-bp-1"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    journal = Journal.open(folder / "journal.jsonl")
    for pack in range(10):
        rates = [1e-5 * 10 ** ((3 * pack + place) / 10) for place in range(3)]
        journal.add_pack([{"lr": lr, "beta1": (0.9, 0.99, 0.999)[k], "epsilon": 1e-8} for k, lr in enumerate(rates)])
        states = zip(("finished", "stopped", "diverged"), (0.10 - pack / 200, 0.2, 0.9), strict=True)
        journal.end_pack(pack, [Outcome("0" * 24, state, error, None) for state, error in states])
    return RunStore(tmp_path / "results")


def test_a_search_shows_its_start_its_stops_and_the_best_configuration(halved_search: RunStore) -> None:
    history, rate, beta = search_figure(halved_search, "mnist-bp-1").axes
    points = {line.get_label(): line for line in history.lines}
    assert [len(np.asarray(points[name].get_xdata())) for name in ("trained to the end", "stopped early")] == [10, 10]
    assert points["stopped early"].get_markerfacecolor() == "white"
    assert {points[name].get_color() for name in ("trained to the end", "stopped early")} == {colour("bp")}
    assert list(points["best"].get_xdata()) == [28]  # type: ignore[arg-type]
    assert list(points["best"].get_ydata()) == [pytest.approx(5.5)]  # type: ignore[arg-type]
    assert list(points["end of the random start"].get_xdata()) == [20.5, 20.5]  # type: ignore[arg-type]
    lowest = np.asarray(points["lowest so far"].get_ydata())
    assert (len(lowest), lowest[0], lowest[-1]) == (30, pytest.approx(10), pytest.approx(5.5))
    assert {rate.get_xlabel(), beta.get_xlabel()} == {"lr", "beta1"}
    if rate.get_xlabel() != "lr":
        rate, beta = beta, rate
    assert (history.get_yscale(), rate.get_xscale(), beta.get_xscale()) == ("log", "log", "linear")
    assert [label.get_text() for label in beta.get_xticklabels()] == ["0.9", "0.99", "0.999"]
    published = [line.get_xdata() for line in rate.lines if line.get_label() == "published"]
    (configuration,) = [read_search(halved_search, "mnist-bp-1").published]
    assert [list(places) for places in published] == [[configuration["lr"]] * 2]  # type: ignore[arg-type]


def test_a_search_is_a_panel_each_on_a_page(halved_search: RunStore) -> None:
    search = read_search(halved_search, "mnist-bp-1")
    figures = search_panels(search, importance(search.configurations))
    assert [len(figure.axes) for figure in figures] == [1, 1, 1]
    # Without importance the first hyperparameters that vary.
    assert [figure.axes[0].get_xlabel() for figure in search_panels(search, None)] == ["trial", "lr", "beta1"]
    own = replace(search, published={})
    assert not [line for line in search_panels(own, None)[1].axes[0].lines if line.get_label() == "published"]


def _nine_searches(tmp_path: Path, last_trials: int) -> RunStore:
    """Return a store of nine searches, of which the last has no finished trial and another number of trials."""
    methods = method_names()[:9]
    for place, method in enumerate(methods):
        trials = last_trials if method == methods[-1] else 4
        definition = SweepDefinition("mnist", method, "0" * 64, {"lr": ["uniform", 0, 1]}, trials, 2, (0,), 0, 2, 1)
        folder = tmp_path / "sweeps" / definition.id
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps(definition.plain()))
        journal = Journal.open(folder / "journal.jsonl")
        for trial, error in enumerate((0.4, 0.2, 0.2, 0.1)):
            journal.add_pack([{"lr": trial / 4}])
            state = "diverged" if method == methods[-1] else "finished"
            journal.end_pack(trial, [Outcome("0" * 24, state, error + place / 100, None, epochs=2)])
    return RunStore(tmp_path)


def test_each_of_many_searches_has_a_panel_in_its_colour_before_the_others(tmp_path: Path) -> None:
    store = _nine_searches(tmp_path, last_trials=4)
    panels = tuning_figure(store, "mnist").axes
    methods = method_names()[:9]
    assert [axes.get_title(loc="left") for axes in panels] == [METHODS[method].title for method in methods]
    assert len({axes.get_subplotspec().colspan.start for axes in panels}) == 4  # type: ignore[union-attr]
    for axes, method in zip(panels, methods, strict=True):
        own = [line for line in axes.lines if line.get_gid()]
        finished = method != methods[-1]
        assert [line.get_color() for line in own] == [colour(method)] * 2 * finished
        assert len(axes.texts) == (not finished)
        others = next(line for line in axes.lines if not line.get_gid())
        # A gap behind each of the others that has a curve.
        assert np.isnan(np.asarray(others.get_ydata())).sum() == 8 - finished
        assert to_hex(others.get_color()) == "#c8c8c8"
        assert axes.get_ylim() == panels[0].get_ylim()
    assert len(tuning_figure(store, "mnist").legends[0].get_lines()) == 3
    [plot] = tuning_plots(store)[0]
    narrow = tuning_panel(plot, "member_epochs").axes
    assert len(narrow) == 9
    assert {axes.get_subplotspec().colspan.start for axes in narrow} == {0, 1}  # type: ignore[union-attr]


def test_panels_of_searches_name_their_tunings_where_these_differ(tmp_path: Path) -> None:
    panels = tuning_figure(_nine_searches(tmp_path, last_trials=5), "mnist").axes
    assert len(panels) == 9
    assert not {axes.get_title(loc="left") for axes in panels} & {method.title for method in METHODS.values()}


def test_the_gauss_newton_step_is_the_least_squares_slope() -> None:
    found = toy.gauss_newton_step()
    slope = float(found.sensitivities @ -found.residuals / found.sensitivities.square().sum())
    assert found.update == pytest.approx(slope)
    after = torch.tanh((found.beta + found.update) * found.x) - found.labels
    assert after.square().sum() < found.residuals.square().sum()


def test_numbers_on_axes_are_plain() -> None:
    spelled = [plain_number(value) for value in (0.02, 0.5, 1, 2, 5, 10, 200, 2.25, 50_000, 1e-6, 2e-6, 3e7, 1e-300)]
    assert spelled[:9] == ["0.02", "0.5", "1", "2", "5", "10", "200", "2.25", "50000"]
    assert spelled[9:] == ["10⁻⁶", "2\u00d710⁻⁶", "3\u00d710⁷", "10⁻³⁰⁰"]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.9, 11, "1 2 5 10"),
        (0.02, 0.6, "0.02 0.05 0.1 0.2 0.5"),
        (30, 3000, "50 100 200 500 1000 2000"),
        (0.5, 200, "1 3 10 30 100"),
        (1e-7, 1, "10⁻⁶ 10⁻⁴ 0.01 1"),
        (1.8, 2.6, "1.8 2 2.2 2.4 2.6"),
        (1.7, 7, "2 4 6"),
    ],
)
def test_logarithmic_axes_have_plain_labels(low: float, high: float, labels: str) -> None:
    assert " ".join(map(plain_number, logarithmic_labels(low, high))) == labels


@settings(max_examples=50)
@given(st.floats(-200, 200), st.floats(1e-4, 12))
def test_logarithmic_labels_are_few_and_differ(exponent: float, decades: float) -> None:
    low, high = 10.0**exponent, 10.0 ** (exponent + decades)
    labels = logarithmic_labels(low, high)
    assert 1 <= len(labels) <= 6
    assert all(low * (1 - 1e-6) <= label <= high * (1 + 1e-6) for label in labels)
    assert labels == sorted(labels)
    assert len({plain_number(label) for label in labels}) == len(labels)


@pytest.mark.parametrize(
    "ends",
    [
        (600.0, 900.0),
        (2e-7, 3e-4),
        (1.2, 2.9e6),
        (0, 0),
        (0, 0.5),
        (0, 3, 14),
        (0, 3, 16),
        (0, 0.02, 90),
        (0, 1e-6, 90),
    ],
)
def test_labels_do_not_overlap(ends: tuple[float, ...]) -> None:
    figure, axes = panel()
    axes.plot(ends, ends)
    log_scale(axes, "x", ends)
    log_scale(axes, "y", ends)
    figure.draw_without_rendering()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
        assert "$" not in "".join(label.get_text() for label in labels)


def test_the_band_holds_the_middle_eighty_per_cent_and_of_few_seeds_all() -> None:
    values = np.arange(1.0, 12.0)[:, None] * np.ones(3)
    assert [float(row[0]) for row in middle_and_band(values)] == [6.0, 2.0, 10.0]
    assert [float(row[0]) for row in middle_and_band(values[:4])] == [2.5, 1.0, 4.0]


@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=12))
def test_a_band_is_on_a_logarithmic_axis_and_around_its_line(values: list[float]) -> None:
    middle, below, above = (float(row[0]) for row in middle_and_band(np.array(values)[:, None]))
    assert 0 < min(values) <= below <= middle <= above <= max(values)


PUBLISHED = {"by": "published"}


def _fill(store: RunStore, method: str, level: float, seeds: int = 10, **options: Any) -> None:
    wobble = np.random.default_rng(list(method.encode())).permutation(seeds) / 2000
    for seed in range(seeds):
        store.publish(record(method, seed, [0.5, level + float(wobble[seed])], **{"found": PUBLISHED, **options}))


def test_tunings_of_a_method_have_styles_of_their_own(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    tunings = [PUBLISHED, {"by": "file"}, search_info("s", 40, 100, "0" * 64, "final", range(3))]
    for method in METHODS:
        for number, info in enumerate(tunings):
            _fill(store, method, 0.02, 3, found=info, lr=1e-3 * (number + 1), epochs=2)
    cells = cells_of(store, "mnist")
    assert len(cells) == len(tunings) * len(METHODS)
    for style in (dashes, marker):
        for method in METHODS:
            assert len({style(cell, cells) for cell in cells if cell.method == method}) == len(tunings)
    first = [cell for cell in cells if cell.tuning == "published"]
    assert [(dashes(c, cells), marker(c, cells)) for c in first] == [
        (method_style(c.method).dashes, method_style(c.method).marker) for c in first
    ]
    axes = cost_plot(cells).axes[0]
    points = [bars[0] for bars in axes.containers]  # type: ignore[index]
    assert [(p.get_marker(), p.get_color()) for p in points] == [(marker(c, cells), colour(c.method)) for c in cells]
    labels = {text.get_text().replace("\n", " ") for text in axes.texts}
    assert labels == {cell.title for cell in cells}


@pytest.fixture
def curved(tmp_path: Path) -> tuple[RunStore, list[Cell]]:
    """Five methods on MNIST, of which one has a single seed."""
    store = RunStore(tmp_path)
    for place, method in enumerate(("bp", "dfa", "dtp", "ddtp-linear", "ddtp-rhl")):
        for seed in range(3 if place else 1):
            store.publish(record(method, seed, [0.3, 0.2 + seed / 100, 0.1 + place / 100], epochs=3))
    return store, cells_of(store, "mnist")


def test_every_method_has_a_panel_of_its_curve_before_those_of_the_others(
    curved: tuple[RunStore, list[Cell]],
) -> None:
    store, cells = curved
    panels = learning_curves(store, cells).axes
    assert [axes.get_title(loc="left") for axes in panels] == [cell.title for cell in cells]
    assert len({axes.get_subplotspec().colspan.start for axes in panels}) == 4  # type: ignore[union-attr]
    for axes, cell in zip(panels, cells, strict=True):
        (own,) = (line for line in axes.lines if line.get_gid())
        assert own.get_color() == colour(cell.method)
        (others,) = (line for line in axes.lines if not line.get_gid())
        assert np.isnan(np.asarray(others.get_ydata())).sum() == len(cells) - 1
        assert len(axes.collections) == (len(cell.runs) > 1)  # the band
        assert (axes.get_yscale(), axes.get_ylim()) == ("log", panels[0].get_ylim())
        assert [tick for tick in axes.get_xticks() if tick % 1] == []
    curves = cell_curves(cells, read_curves(store, cells), "validation_error")
    assert list(curves[0].middle) == [30.0, 20.0, 10.0]
    narrow = curve_panel(cells, curves, "validation_error").axes
    assert {axes.get_subplotspec().colspan.start for axes in narrow} == {0, 1}  # type: ignore[union-attr]


def _shown(line: Line2D) -> bool:
    """Return whether a line has a stroke or a point."""
    known = np.isfinite(np.asarray(line.get_ydata(), dtype=float))
    return bool((known[1:] & known[:-1]).any()) or line.get_marker() not in ("", "None")


def test_a_curve_of_one_epoch_is_a_point(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.publish(record("bp", 0, [0.3, 0.2], epochs=2))
    store.publish(record("dtp", 0, [0.4], epochs=1))
    cells = cells_of(store, "mnist")
    first, second = learning_curves(store, cells).axes
    assert all(_shown(line) for axes in (first, second) for line in axes.lines)
    (grey,) = (line for line in first.lines if not line.get_gid())
    assert [np.asarray(grey.get_ydata())[place] for place in grey.get_markevery()] == [40.0]  # type: ignore[union-attr]
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["BP", "DTP, 1 epoch"]


def test_a_search_with_one_finished_trial_is_a_point(tmp_path: Path) -> None:
    _search_of(tmp_path, "bp", [0.3])
    panels = tuning_figure(RunStore(tmp_path), "mnist").axes[:2]
    observed = [[line for line in axes.lines if len(np.asarray(line.get_xdata()))] for axes in panels]
    assert all(lines and all(map(_shown, lines)) for lines in observed)


def test_an_alignment_of_one_measurement_is_a_point(tmp_path: Path) -> None:
    keep_alignments(tmp_path, alignment_record("fashion-mnist", "bp", [1.0] * 2))
    (known,) = find_records(RunStore(tmp_path), "fashion-mnist")
    cut = {name: getattr(known, name)[:1] for name in ("steps", "loss_angles", "target_angles")}
    one = known.model_copy(update=cut) if hasattr(known, "model_copy") else replace(known, **cut)
    for axes in alignment_figure([one], "4").axes:
        (line,) = (line for line in axes.lines if line.get_gid())
        assert _shown(line)


def test_the_cost_is_of_the_runs_that_count_and_did_not_end_early(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for seed in range(14):
        status = "diverged" if seed < 2 else "finished"
        seconds = 1.0 if seed < 2 else 20.0 if seed < 10 else 500.0  # seeds above 9 count nowhere
        made = {"device_name": "A CPU", "threads": 1 + seed % 2}
        run = record("bp", seed, [0.2, 0.1], epochs=2, status=status)
        store.publish(replace(run, wall_time_s=seconds, provenance=made))
    axes = cost_plot(cells_of(store, "mnist")).axes[0]
    assert [bars[0].get_xdata()[0] for bars in axes.containers] == [20.0, 20.0]  # type: ignore[index]


def test_without_a_curve_there_is_no_picture(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.publish(record("bp", 0, [0.3], status="diverged"))
    with pytest.raises(TpbenchError):
        learning_curves(store, cells_of(store, "mnist"))


def test_a_small_difference_of_cost_looks_small(curved: tuple[RunStore, list[Cell]]) -> None:
    left, right = cost_plot(curved[1]).axes[0].get_xlim()
    assert right / left >= 2


def test_labels_beside_a_panel_keep_their_order_and_do_not_overlap() -> None:
    figure, axes = panel()
    heights = [1.0, 1.01, 1.02, 5.0, 5.0, 0.99]
    axes.plot(range(6), heights)
    label_beside(axes, [(str(h), (5.0, h), "black") for h in [*heights, math.nan]], 200, 8)
    figure.draw_without_rendering()
    placed = sorted(axes.texts, key=lambda text: text.xyann[1])  # type: ignore[attr-defined]
    assert [float(text.get_text()) for text in placed] == sorted(heights)
    texts = [super(type(text), text).get_window_extent() for text in placed]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(texts))


def bench_row(method: str, pack: int, seconds: float, workload: str = "mnist") -> BenchmarkRow:
    return BenchmarkRow(workload, method, pack, "cpu", "float32", 1, 1 / seconds, 1, 1, 1, 1, 1, {}, None)


def test_the_scaling_has_plain_ticks_and_the_palette() -> None:
    times = {"bp": (1.2, 1.04), "ddtp-linear": (1.7, 1.5), "dtp": (2.6, 1.7), "ddtp-rhl": (7.1, 5.0)}
    rows = [bench_row(m, pack, s) for m, both in times.items() for pack, s in zip((1, 20), both, strict=True)]
    axes = scaling_figure(rows).axes[0]
    low, high = axes.get_ylim()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert [axes.yaxis.get_major_formatter()(tick) for tick in shown] == ["1", "2", "4", "8"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "20"]
    assert {line.get_color() for line in axes.lines} == {colour(method) for method in times}
    assert {text.get_text() for text in axes.texts} == {"BP", "DDTP-linear", "DTP", "DDTP-RHL"}
    assert axes.get_legend() is None
    both = scaling_figure([*rows, bench_row("bp", 1, 1.0, "digits")]).axes[0]
    assert len({text.get_text() for text in both.texts}) == 5


@pytest.mark.parametrize(("ending", "start"), [("png", PNG), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_are_pixels_or_vectors_and_the_same_each_time(ending: str, start: bytes, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        save(scaling_figure([bench_row("bp", pack, 1.0 + pack) for pack in (1, 2)]), path)
    assert paths[0].read_bytes().startswith(start)
    if ending != "pdf":
        assert paths[0].read_bytes() == paths[1].read_bytes()


def _search_of(
    tmp_path: Path, method: str, errors: list[float], state: str = "finished", workload: str = "mnist"
) -> None:
    """Add a search on a workload whose trials have these errors."""
    space = {"lr": ["log_uniform", 1e-5, 1e-2]}
    definition = SweepDefinition("mnist", method, "0" * 64, space, len(errors), len(errors), (0,), 0, 2, 1)
    folder = tmp_path / "sweeps" / definition.id
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    journal = Journal.open(folder / "journal.jsonl")
    for trial, error in enumerate(errors):
        journal.add_pack([{"lr": 1e-5 * 10 ** (3 * trial / len(errors))}])
        journal.end_pack(trial, [Outcome("0" * 24, state, error, None, epochs=2)])


ZEROS = {"some": [0.4, 0.02, 0.0, 0.1] * 6, "half, late": [0.4, 0.02, 0.01] * 4 + [0.0] * 12, "all": [0.0] * 12}
"""Errors of the trials of searches that reach 0."""
ZEROS_AND_FORMATS = [*((errors, "svg") for errors in ZEROS), ("half, late", "png")]
"""Axes and lines are the same in both formats; pixels are drawn once."""


_POINT = re.compile(r"[ML] (-?[\d.e+]+) (-?[\d.e+]+)")


def _check_zero(figure: Figure, ending: str, folder: Path) -> None:
    """Check that a figure is drawn without a warning, and that its lines and labels are inside of it."""
    if ending == "svg":
        assert all(abs(float(number)) < 1e4 for point in _POINT.findall(to_svg(figure)) for number in point)
    else:
        save(figure, folder / f"x.{ending}")
    width, height = figure.bbox.size
    for axes in figure.axes:
        if not axes.axison:
            continue
        box = axes.get_window_extent()
        assert min(box.width, box.height) > 20
        low, high = axes.get_ylim()
        for line in axes.lines:
            points = np.asarray(line.get_ydata(), dtype=float)
            if line.get_gid() and len(points):
                assert low < np.nanmin(points) <= np.nanmax(points) < high
        if low < 0:
            assert 0 in axes.get_yticks()
            bottom, zero = axes.transData.transform([(1, low), (1, 0)])[:, 1]
            assert 0 < zero - bottom < 0.06 * box.height
        for text in axes.texts:
            extent = text.get_window_extent()
            assert -1 <= extent.y0 <= extent.y1 <= height + 1
            assert extent.width < width


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("errors", "ending"), ZEROS_AND_FORMATS)
def test_a_search_that_reaches_zero_is_drawn(errors: str, ending: str, tmp_path: Path) -> None:
    _search_of(tmp_path, "bp", ZEROS[errors])
    _search_of(tmp_path, "dfa", [0.3, 0.2] * 6)
    store = RunStore(tmp_path)
    [plot] = tuning_plots(store)[0]
    for figure in (tuning_figure(store, "mnist"), *(tuning_panel(plot, column) for column in TUNING_AXES)):
        _check_zero(figure, ending, tmp_path)
        solid = [line for line in figure.axes[0].lines if line.get_gid() and line.get_linestyle() == "-"]
        assert [line.get_color() for line in solid] == [colour("bp"), colour("dfa")]
        assert solid[0].get_ydata()[-1] == 0  # type: ignore[index]
        figure.draw_without_rendering()
        assert figure.axes[0].bbox.contains(*solid[0].get_transform().transform(solid[0].get_xydata())[-1])
    (sweep,) = plot.spread.loc[plot.spread["method"] == "bp", "sweep"]
    for figure in (search_figure(store, sweep), *search_panels(read_search(store, sweep), None)):
        _check_zero(figure, ending, tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("errors", "ending"), ZEROS_AND_FORMATS)
def test_panels_of_many_searches_that_reach_zero_are_drawn(errors: str, ending: str, tmp_path: Path) -> None:
    methods = method_names()[:9]
    for method in methods:
        _search_of(tmp_path, method, ZEROS[errors])
    store = RunStore(tmp_path)
    [plot] = tuning_plots(store)[0]
    for figure in (tuning_figure(store, "mnist"), tuning_panel(plot, "member_epochs")):
        assert len(figure.axes) == 9
        _check_zero(figure, ending, tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("level", "ending"), [(0.0, "svg"), (0.3, "svg"), (0.0, "png")])
def test_curves_and_cost_of_errors_of_zero_are_drawn(level: float, ending: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for method in ("bp", "dfa"):
        for seed in range(3):
            run = record(method, seed, [level, level / 20 * seed, 0.0], epochs=3)
            run.curves["train_loss"] = [level, level * seed, 0.0]
            store.publish(run)
    cells = cells_of(store, "mnist")
    for figure in (learning_curves(store, cells), cost_plot(cells)):
        _check_zero(figure, ending, tmp_path)


def test_an_axis_with_a_zero_is_logarithmic_above_what_was_measured() -> None:
    axes = panel()[1]
    values = [0.0, 1e-20, 0.5, 90.0]
    axes.plot(values, values)
    log_scale(axes, "y", values, measured=[0.0, 0.5, 90.0])
    assert axes.get_ylim()[0] < 0
    places = axes.transData.transform([(1.0, value) for value in values])[:, 1]
    box = axes.bbox
    assert box.y0 < places[0] == pytest.approx(places[1])
    assert 0.1 < (places[2] - places[0]) / box.height < 0.2
    assert axes.get_yticks()[0] == 0
    log_scale(axes, "x", values[1:])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "symlog")


def test_a_search_without_a_finished_trial_has_a_note_instead_of_an_entry_in_the_legend(tmp_path: Path) -> None:
    _search_of(tmp_path, "bp", [0.3, 0.2])
    _search_of(tmp_path, "dfa", [0.9, 0.9], "diverged")
    store = RunStore(tmp_path)
    (legend,) = tuning_figure(store, "mnist").legends
    assert len(legend.get_texts()) == 1
    [plot] = tuning_plots(store)[0]
    (note,) = plot.unfinished_note
    assert [METHODS[method].title in note for method in ("bp", "dfa")] == [False, True]
    searches = search_section(store, "results", Glyphs())
    assert [len(group.legend) for group in searches.groups] == [1]
    assert note in searches.paragraphs
    assert TuningPlot("mnist", plot.curves, plot.spread[plot.spread["method"] == "bp"]).unfinished_note == []
