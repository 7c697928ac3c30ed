"""``tpbench reproduce``: the plan, the budget, and a real cell of a shrunken workload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import Inside
from tests.sweeps.playing import Workers, no_ray, run_here
from tpbench.search.definition import SweepFolder
from tpbench.search.spaces import published_configuration
from tpbench.sweeps import reproduction
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.session import Session
from tpbench.sweeps.sweep import Admission, QueuedSweep
from tpbench.training.choice import CellChoice
from tpbench.training.plan import PackSettings
from tpbench.training.progress import SilentView
from tpbench.workloads import WORKLOADS


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's name and published configurations on the built-in digits, for 2 epochs; trained in this process."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)
    monkeypatch.setitem(WORKLOADS, "mnist", replace(WORKLOADS["digits"], name="mnist", title="MNIST", epochs=2))


def test_the_plan_names_what_is_missing_and_is_carried_out(
    tiny_mnist: None, tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("reproduce", "--workloads", "mnist", "--methods", "bp,dfa", "--n-seeds", "2")
    dry = tpbench_inside(*arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "mnist bp" in dry.stdout
    assert "2 cells" in dry.stdout
    assert not (tmp_path / "results" / "runs").exists()

    monkeypatch.setattr(reproduction, "estimate", lambda *_: 1.0)  # measured once is enough
    done = tpbench_inside(*arguments)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 4
    assert "MNIST" in (tmp_path / "results" / "table_1.md").read_text()
    assert (tmp_path / "results" / "table_s6.md").exists()
    assert (tmp_path / "results" / "leaderboard.csv").exists()

    more = tpbench_inside("reproduce", "--workloads", "mnist", "--methods", "bp", "--n-seeds", "3", "--dry-run")
    assert "1 cell, " in more.stdout
    nothing = tpbench_inside(*arguments)
    assert "0 cells" in nothing.stdout

    # Runs that lack their networks are trained again for them.
    keeping = ("reproduce", "--workloads", "mnist", "--methods", "bp", "--n-seeds", "2", "--keep-networks")
    kept = tpbench_inside(*keeping)
    assert "1 cell, " in kept.stdout
    assert "network" not in kept.stderr
    assert len(list((tmp_path / "results" / "networks").iterdir())) == 2
    assert "0 cells" in tpbench_inside(*keeping).stdout


def test_a_cell_that_does_not_fit_is_left(
    tiny_mnist: None, tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "estimate", lambda cell, *a: 50.0 if cell.method == "bp" else 9000.0)
    result = tpbench_inside(
        "reproduce", "--workloads", "mnist", "--methods", "bp,dfa", "--n-seeds", "1", "--budget", "1h"
    )
    assert result.returncode == 0
    assert "mnist dfa: left" in result.stdout
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 1


def test_missing_data_is_said_once_per_workload(tpbench_inside: Inside) -> None:
    result = tpbench_inside("reproduce", "--workloads", "mnist", "--methods", "bp,dfa", "--dry-run")
    assert result.returncode == 0
    assert "left out: mnist bp, dfa:" in result.stderr
    assert tpbench_inside("reproduce", "--workloads", "mnist", "--methods", "bp,dfa").returncode == 1
    assert tpbench_inside("reproduce", "--table", "2").returncode == 2


@pytest.mark.parametrize(("precision", "measured"), [("tf32", "float32"), ("float64", "float64")])
def test_what_only_a_clusters_nodes_can_compute_is_estimated_in_float32(
    precision: str, measured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(workload: object, method: str, members: int, device: str, precision: str, *, seconds: float) -> object:
        asked.append(precision)
        phases = dict.fromkeys(("batches", "forward", "feedback", "adam"), 0.1)
        return SimpleNamespace(member_epochs_per_second=1.0, phases=phases)

    monkeypatch.setattr(reproduction, "measure", measure)
    seconds = reproduction.estimate(CellChoice.of("digits", "bp"), {}, 2, PackSettings("results", precision=precision))
    assert seconds > 0
    assert asked == [measured]


@pytest.mark.parametrize(("budget", "first"), [(None, "dfa"), (1000.0, "bp")])
def test_without_a_budget_the_longest_cells_come_first(
    tiny_mnist: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float | None, first: str
) -> None:
    monkeypatch.setattr(reproduction, "estimate", lambda cell, *_: 10.0 if cell.method == "bp" else 90.0)
    settings = PackSettings(str(tmp_path))
    cells, _ = reproduction.plan("1", ["mnist"], ["bp", "dfa"], (0,), settings)
    assert [one.cell.method for one in cells] == ["bp", "dfa"]
    handed: list[str] = []

    def run(sweeps: list[QueuedSweep], *_: object, admission: Admission | None, **__: object) -> None:
        workers = Workers(sweeps, 1, admission=admission)
        workers.run(lambda pack: [])
        handed.extend(name for name, _ in workers.handed)

    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run)
    monkeypatch.setattr(QueuedSweep, "result", lambda sweep: [])
    reproduction.reproduce(cells, budget, settings, Resources(1))
    assert handed[0] == f"mnist-{first}"
    assert len(handed) == 2


@pytest.mark.parametrize(("resources", "parts"), [(Resources(8), 4), (Resources(8, 1), 1), (Resources(8, 64), 2)])
def test_cells_are_split_by_the_workers_alone(
    tiny_mnist: None, tmp_path: Path, resources: Resources, parts: int
) -> None:
    cell = CellChoice.of("mnist", "bp")
    planned = reproduction.PlannedCell(cell, published_configuration(cell.workload, "bp"), (3,), tuple(range(10)), 1.0)
    folder = SweepFolder(tmp_path / "sweeps" / "reproduce")
    session = Session(SilentView(), PackSettings(str(tmp_path)), resources, folder)
    sweep = reproduction._sweep(planned, session)
    assert sweep.final
    assert len(sweep.final.packs) == parts
