"""The forest plot: rows, intervals and texts are the leaderboard's; the paper's numbers beside them."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.records import counts, record
from tpbench.reports.forest import DIFFERENCES, MEANS, describe_row, forest_figure, forest_legend, forest_rows
from tpbench.results import RunStore, leaderboard
from tpbench.results.runs import search_info

PUBLISHED = {"by": "published"}


def fill(store: RunStore, method: str, level: float, seeds: int = 10, **options: Any) -> None:
    wobble = np.random.default_rng(list(method.encode())).permutation(seeds) / 2000
    for seed in range(seeds):
        store.publish(record(method, seed, [0.5, level + float(wobble[seed])], **{"found": PUBLISHED, **options}))


@pytest.fixture
def forest_store(tmp_path: Path) -> RunStore:
    """MNIST with the baseline, two that could be the best, a worse one, one of few seeds and one untested."""
    store = RunStore(tmp_path)
    for method, level, seeds in (
        ("dfa", 0.0199, 10),
        ("bp", 0.0201, 10),
        ("ddtp-linear", 0.02, 10),
        ("dtp", 0.03, 10),
        ("ddtp-rhl", 0.05, 3),
        ("dtpdrl", 0.01, 2),
    ):
        fill(store, method, level, seeds)
    store.publish(record("ddtp-rhl", 9, [0.5], status="diverged", found=PUBLISHED))
    return store


def test_the_forest_shows_what_the_leaderboard_says(forest_store: RunStore) -> None:
    rows = forest_rows(forest_store, "mnist")
    board = leaderboard(forest_store)
    methods = ["bp", "dfa", "ddtp-linear", "dtp", "ddtp-rhl", "dtpdrl"]
    assert [row.cell.method for row in rows] == list(board["method"]) == methods
    axes = forest_figure(rows).axes[0]
    labels = [label.get_text().split("\n") for label in axes.get_yticklabels()]
    assert [label[0].split()[-1] for label in labels] == ["BP", "DFA", "DDTP-linear", "DTP", "DDTP-RHL", "DTPDRL"]
    assert [counts(mark) for label in labels for mark in label[1:]] == [[1, 4]]  # diverged
    texts = {(text.xyann[0], text.xy[1]): text for text in axes.texts if text.xy[1] >= 0}
    means, differences = ({y: text for (x, y), text in texts.items() if x == column} for column in (MEANS, DIFFERENCES))
    assert [text.get_text() for text in means.values()] == [f"{row.cell.mean:.2f}" for row in rows]
    assert sorted(differences) == [1, 2, 3, 4, 5]  # not of the baseline
    for place, text in differences.items():
        numbers = [float(number) for number in re.findall(r"[+-]\d+\.\d\d", text.get_text())]
        row = rows[place]
        shown = (row.difference, row.low, row.high)
        assert numbers == [pytest.approx(value, abs=0.0051) for value in shown if not math.isnan(value)]
        assert (text.get_fontweight() == "bold") == row.differs
    hollow = [line for line in axes.lines if line.get_marker() == "D"]
    assert [float(line.get_xdata()[0]) for line in hollow] == [1.98, 2.17, 2.04, 2.39, 2.10, 2.21]
    thin = [line for line in axes.lines if line.get_linewidth() == 1 and np.ptp(line.get_ydata()) == 0]
    # Student's t with 9 degrees of freedom, of BP's printed 1.98 and 0.14.
    half = 2.26216 * 0.14 / math.sqrt(10)
    assert list(thin[0].get_xdata()) == pytest.approx([1.98 - half, 1.98 + half], abs=1e-4)
    assert len(thin) == len(hollow)


def test_names_of_rows_do_not_overlap_and_leave_room(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    search = search_info("s", 54, 27, "0" * 64, "final", range(3), halving=3)
    for method in ("bp", "ddtp-rhl-extra-fb", "ddtp-rhl-rec-extra-fb", "m" * 40):
        fill(store, method, 0.02, 3)
        fill(store, method, 0.03, 3, found=search, lr=0.1)
    figure = forest_figure(forest_rows(store, "mnist"), "mnist")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert axes.get_window_extent().width > 0.33 * figure.bbox.width
    assert min(box.x0 for box in boxes) >= 0


def test_what_could_be_best_is_shaded_and_ticked(forest_store: RunStore) -> None:
    rows = forest_rows(forest_store, "mnist")
    axes = forest_figure(rows).axes[0]
    wanted = [place for place, row in enumerate(rows) if row.could_be_best == "yes"]
    assert wanted == [1, 2]
    assert [band.get_y() + 0.5 for band in axes.patches] == wanted
    ticked = [place for place, label in enumerate(axes.get_yticklabels()) if label.get_text().startswith("\u2713")]
    assert ticked == wanted
    assert [place for place, row in enumerate(rows) if "could be the best" in describe_row(row)] == wanted


def test_the_line_of_the_forest_is_at_the_mean_of_its_baseline(forest_store: RunStore) -> None:
    for method in ("bp", "dfa"):
        rows = forest_rows(forest_store, "mnist", method)
        assert rows[0].cell.method == method
        lines = [line for line in forest_figure(rows).axes[0].lines if np.ptp(line.get_ydata()) == len(rows)]
        assert [set(line.get_xdata()) for line in lines] == [{rows[0].cell.mean}]


def test_the_papers_mean_is_that_of_published_cells_on_its_data(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    fill(store, "bp", 0.02)
    fill(store, "dfa", 0.02, found={"by": "file"})
    fill(store, "bp", 0.03, label="copy 0123abcd", fingerprint="e" * 64)
    rows = forest_rows(store, "mnist")
    lines = forest_figure(rows).axes[0].lines
    assert [float(line.get_xdata()[0]) for line in lines if line.get_marker() == "D"] == [1.98]
    # Each kind of data has a baseline of its own.
    assert [text.get_text().split("\n")[-1] for text in forest_figure(rows).axes[0].get_yticklabels()][2:] == [
        f"({rows[2].cell.data_label})"
    ]
    copies = forest_figure(rows[2:], "mnist")
    assert f"MNIST ({rows[2].cell.data_label})" in copies.get_suptitle()
    upright = [tuple(line.get_xdata()) for line in lines if np.ptp(line.get_ydata()) > 0]
    assert upright == [(rows[0].cell.mean,) * 2, (rows[2].cell.mean,) * 2]


def test_the_title_names_the_tuning_that_was_asked_for(forest_store: RunStore) -> None:
    fill(forest_store, "bp", 0.03, found={"by": "file"}, lr=0.5)

    def drawn(tuning: str | None) -> tuple[str, str]:
        figure = forest_figure(forest_rows(forest_store, "mnist", tuning=tuning), "mnist", tuning)
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        return figure.get_suptitle(), next(label for label in labels if label.startswith("BP"))

    assert drawn("published") == ("MNIST, published: test error of each method", "BP")
    assert drawn(None) == ("MNIST: test error of each method", "BP\npublished")
    # Also methods of one tuning name it, as the others stand beside them.
    figure = forest_figure(forest_rows(forest_store, "mnist"), "mnist")
    assert all("\n" in label.get_text() for label in figure.axes[0].get_yticklabels())


def test_the_legend_of_the_forest_names_what_occurs(forest_store: RunStore, tmp_path: Path) -> None:
    full = " ".join(forest_legend(forest_rows(forest_store, "mnist")))
    words = ("interval", "line", "diamond", "Bold", "Shaded")
    assert [word for word in words if word in full] == list(words)
    other = RunStore(tmp_path / "other")
    fill(other, "dfa", 0.02, 2, workload="digits")
    (dots,) = forest_legend(forest_rows(other, "digits"))
    assert [word for word in words if word in dots] == []


@pytest.mark.parametrize(
    ("levels", "scale"),
    [
        ((0.01, 0.02), "linear"),
        ((0.01, 0.3), "log"),
        ((-0.01, 0.3), "linear"),
        ((-0.01, 0.005, 0.3), "symlog"),
        ((-0.01, -0.01), "linear"),
    ],
)
def test_a_forest_of_errors_far_apart_is_logarithmic(levels: tuple[float, ...], scale: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for method, level in zip(("dfa", "gnt", "fa"), levels, strict=False):
        for seed in range(3):
            # Errors that vary enough for an interval that reaches below zero; test errors are 0.01 higher.
            error = level + 0.005 * (seed - 1) * (level > 0)
            store.publish(record(method, seed, [0.5, max(error, 0)], test=[0.5, error + 0.01]))
    axes = forest_figure(forest_rows(store, "mnist")).axes[0]
    assert axes.get_xscale() == scale
    left, right = axes.get_xlim()
    for line in axes.lines:
        if line.get_marker() in ("o", "D"):
            assert left < float(line.get_xdata()[0]) < right
    if scale == "symlog":
        assert 0 in axes.get_xticks()
