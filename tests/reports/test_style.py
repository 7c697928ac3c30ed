"""Figures look the same whatever a user has set, show names as they are, and replace a picture whole."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest

from tests.conftest import Inside
from tests.results.records import alignment_record, keep_alignments, record
from tpbench.engine import TpbenchError
from tpbench.reports.alignment_figures import alignment_figure
from tpbench.reports.alignment_tables import find_records
from tpbench.reports.curves import cells_of, cost_plot, learning_curves
from tpbench.reports.forest import forest_figure, forest_rows
from tpbench.reports.paper_figures import gauss_newton_figure
from tpbench.reports.style import Figure, drawing, save, to_svg
from tpbench.results import RunStore

LABEL = r"$\frac{$ \x1b[31m$x$"
"""Begins a formula that is none, and colours a terminal."""
# What people who write papers set, and what would make pictures of another look.
THEIRS = {
    "text.usetex": True,
    "svg.fonttype": "none",
    "figure.facecolor": "black",
    "font.size": 30.0,
    "axes.grid": True,
    "lines.linewidth": 9.0,
}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Runs of two methods on a copy of the data whose label is hostile, and a record of angles."""
    made = RunStore(tmp_path / "results")
    for method in ("bp", "dtp"):
        for seed in range(3):
            made.publish(record(method, seed, [0.3, 0.2 + seed / 100], epochs=2, label=LABEL.replace(r"\x1b", "\x1b")))
    keep_alignments(made.folder, alignment_record("mnist", "dtp", [1.0, 1.0]))
    return made


FIGURES: dict[str, Callable[[RunStore], Figure]] = {
    "curves": lambda store: learning_curves(store, cells_of(store, "mnist")),
    "cost": lambda store: cost_plot(cells_of(store, "mnist")),
    "forest": lambda store: forest_figure(forest_rows(store, "mnist"), "mnist"),
    "angles": lambda store: alignment_figure(find_records(store, "mnist"), "s3"),
    "s6": lambda store: gauss_newton_figure(),
}


def stable(svg: str) -> str:
    """A picture without the ids that are anew in each."""
    return re.sub(r'(id="|url\(#|href="#)[^")]*', r"\1", svg)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_users_settings_change_no_figure_and_stay(kind: str, store: RunStore) -> None:
    plain = to_svg(FIGURES[kind](store))
    with matplotlib.rc_context(THEIRS):
        other = to_svg(FIGURES[kind](store))
        assert {name: matplotlib.rcParams[name] for name in THEIRS} == THEIRS
    assert stable(other) == stable(plain)
    assert "<text" not in other


def test_the_settings_are_the_users_again_also_after_an_error() -> None:
    with matplotlib.rc_context(THEIRS):
        with drawing(), drawing(formulas=True):
            assert matplotlib.rcParams["text.parse_math"] is True
            assert matplotlib.rcParams["text.usetex"] is False
        with pytest.raises(ZeroDivisionError), drawing():
            raise ZeroDivisionError
        assert matplotlib.rcParams["text.usetex"] is True


def test_names_are_no_formulas_and_act_on_nothing(store: RunStore) -> None:
    for kind in ("curves", "cost", "forest"):
        figure = FIGURES[kind](store)
        texts = " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).replace("\n", " ")
        assert LABEL in texts, kind
        assert "\x1b" not in texts
        to_svg(figure)
    # Of the paper's own figures, formulas are.
    with drawing():
        formulas = [text for text in gauss_newton_figure().findobj(matplotlib.text.Text) if "$" in text.get_text()]
    assert formulas
    assert all(text.get_parse_math() for text in formulas)


def test_a_hostile_label_is_drawn_by_every_command(tpbench_inside: Inside, store: RunStore, tmp_path: Path) -> None:
    for kind in ("curves", "cost", "forest"):
        ended = tpbench_inside("plot", kind, "mnist")
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_full_disk_leaves_the_earlier_picture(tmp_path: Path, store: RunStore, ending: str) -> None:
    figure, path = FIGURES["curves"](store), tmp_path / f"x.{ending}"
    path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TpbenchError):
            save(figure, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "earlier"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("backend", ["no-such", "module://not_installed", "TkAgg"])
def test_no_backend_is_asked_for(tmp_path: Path, backend: str) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: no-such\n")
    (tmp_path / "bench.py").write_text(
        "from pathlib import Path\n"
        "from tpbench.reports.style import Figure, drawing, save\n"
        "with drawing():\n"
        "    figure = Figure()\n"
        "    figure.subplots().set_title('a $title')\n"
        "save(figure, Path('x.png'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "bench.py"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
