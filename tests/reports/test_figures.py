"""Figures and Table S7 from real records of a small training, and plots of stores and searches."""

from __future__ import annotations

import itertools
import json
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

import tpbench
from tests.conftest import CONFIGURATION, Inside
from tests.results.records import alignment_record, keep_alignments, record
from tpbench.engine import METHODS
from tpbench.reports import paper_figures as toy
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.alignment_tables import find_records
from tpbench.reports.curves import DASHES, cells_of, dashes, learning_curves, middle_and_band, panel
from tpbench.reports.style import logarithmic_labels, plain_labels, plain_number
from tpbench.reports.tuning_plots import importance
from tpbench.results import RunStore
from tpbench.results.runs import search_info
from tpbench.search.definition import SweepDefinition
from tpbench.search.journal import Journal
from tpbench.training.plan import Outcome

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


def test_every_line_of_an_alignment_figure_is_told_apart(tmp_path: Path) -> None:
    keep_alignments(tmp_path, *(alignment_record("fashion-mnist", method, [1.0] * 2) for method in METHODS))
    lines = alignment_figure(find_records(RunStore(tmp_path), "fashion-mnist"), "4").axes[0].get_lines()[: len(METHODS)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(METHODS)


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
    assert cosines["gnt"][0] > 0.9


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
        {"lr": range(20), "sigma": [k * 7 % 20 for k in range(20)], "error": [k / 2 for k in range(20)]}
    )
    shares = importance(frame)
    assert shares is not None
    assert shares["lr"] > 0.7
    assert importance(frame[:3]) is None


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


@pytest.mark.parametrize("ends", [(600.0, 900.0), (2e-7, 3e-4), (1.2, 2.9e6)])
def test_labels_do_not_overlap(ends: tuple[float, float]) -> None:
    figure, axes = panel()
    axes.plot(ends, ends)
    axes.set(xscale="log", yscale="log")
    plain_labels(axes.xaxis)
    plain_labels(axes.yaxis)
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


def test_tunings_are_lines_of_their_own_that_styles_tell_apart(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    tunings = [PUBLISHED, {"by": "file"}, search_info("s", 40, 100, "0" * 64, "final", range(3))]
    for method in METHODS:
        for number, info in enumerate(tunings):
            _fill(store, method, 0.02, 3, found=info, lr=1e-3 * (number + 1), epochs=2)
    cells = cells_of(store, "mnist")
    assert len(cells) == len(tunings) * len(METHODS)
    figure = learning_curves(store, cells)
    lines = [line for line in figure.axes[1].lines if line.get_gid()]
    assert [line.get_label() for line in lines] == [cell.title for cell in cells]
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}) == len(cells)
    assert {dashes(cell, cells) for cell in cells if cell.method == "bp"} == set(DASHES[: len(tunings)])
    first = [dashes(cell, cells) for cell in cells if cell.tuning == "published"]
    assert first[0] == ()
    assert len(set(first)) == 2  # one more for the second cycle of colours
