"""Plans of sweeps: what they count and add up. Steps are not measured here, but have times by rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tpbench
from tests.conftest import Inside
from tests.sweeps.playing import no_ray, run_here
from tpbench.engine import TpbenchError, UsageError
from tpbench.engine import precision as products
from tpbench.options import SweepOptions
from tpbench.results import RunStore
from tpbench.search.brackets import Bracket
from tpbench.sweeps import estimates
from tpbench.sweeps.campaign import SweepResult, run_sweeps
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.estimates import SweepEstimate, SweepPlan, estimate_sweeps
from tpbench.training.choice import choose_all
from tpbench.training.plan import PackSettings

OPTIONS: dict[str, Any] = {
    "workloads": "digits",
    "methods": "bp",
    "trials": 3,
    "seeds": [1, 2],
    "epochs": 1,
    "pack": 2,
    "cpus": 2,
    "gpus": 0,
}

Measured = list[tuple[str, int, str]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """The packs that were measured: method, members and precision.

    A member's epoch takes 1 s, or 0.5 s in bf16; on a GPU a pack's epoch takes 1 s. Nothing above 100 members fits.
    """
    packs: Measured = []

    def measure(workload: object, method: str, sizes: Any, *, device: str, precision: str, **_: object) -> Any:
        packs.extend((method, size, precision) for size in sizes)
        rate = 2.0 if precision == "bf16" else 1.0
        return {
            size: SimpleNamespace(
                member_epochs_per_second=rate * (size if device == "cuda" else 1), phases={"forward": 0.0}
            )
            for size in sizes
            if size <= 100
        }

    monkeypatch.setattr(estimates, "measure_sizes", measure)
    return packs


def plan(results: Path, methods: str = "bp", **options: Any) -> SweepPlan:
    cells, _ = choose_all("digits", methods)
    chosen = SweepOptions.read({**OPTIONS, "methods": methods, **options})
    settings = PackSettings(str(results), precision=chosen.precision, keep_networks=chosen.keep_networks)
    return estimate_sweeps(cells, chosen, settings, lambda line: None)


def estimate(results: Path, **options: Any) -> SweepEstimate:
    (one,) = plan(results, **options).sweeps
    return one


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepResult]:
    """``tpbench sweep`` of the options above, without Ray."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)

    def call(**options: object) -> SweepResult:
        cells, _ = choose_all("digits", "bp")
        (result,) = run_sweeps(cells, SweepOptions.read({**OPTIONS, **options}), PackSettings(str(tmp_path)))
        return result

    return call


HALVED = {"trials": 54, "epochs": 100, "search_epochs": 27, "halving": 3, "pack": "auto", "seeds": "0-9"}


def test_epochs_of_search_and_final_runs_are_added_up(measured: Measured, tmp_path: Path) -> None:
    one = estimate(tmp_path, **HALVED)
    # Packs of 9: all train 3 epochs, 3 of them 6 more, and one the last 18.
    assert (one.pack, one.configurations, one.seeds) == (9, 54, 10)
    assert one.search_seconds == pytest.approx(6 * (9 * 3 + 3 * 6 + 18))
    assert one.final_seconds == pytest.approx(10 * 100)
    assert one.seconds == one.search_seconds + one.final_seconds
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_measured_with_the_members_that_go_on(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "choose_resources", lambda *_: Resources(8, 1))
    one = estimate(tmp_path, **{**HALVED, "pack": 18})
    assert one.search_seconds == pytest.approx(3 * 27)
    assert one.final_seconds == pytest.approx(100)
    assert [members for _, members, _ in measured] == [18, 6, 2, 10]


def test_the_stretches_of_a_bracket_are_its_epochs() -> None:
    bracket = Bracket(27, 3, "validation_error")
    assert bracket.stretches(9) == [(9, 3), (3, 6), (1, 18)]
    assert bracket.share(9) == pytest.approx((27 + 18 + 18) / (9 * 27))


def test_feedback_epochs_are_counted(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[float, float]] = []
    monkeypatch.setattr(estimates, "run_seconds", lambda row, method, *epochs: counted.append(epochs) or 1.0)
    schedule = {"fb_pretrain_epochs": 6, "fb_epochs_between": 1}
    monkeypatch.setattr("tpbench.workloads.Workload.feedback_schedule", lambda *_: schedule)
    plan(tmp_path, "dtp", **HALVED)
    assert counted == [(3, 6 + 2), (6, 6), (18, 18), (100, 6 + 99)]


def test_search_and_final_runs_are_measured_in_their_own_precisions(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "slow_bfloat16", lambda device: "")
    one, other = plan(tmp_path, "bp,dfa", trials=10, epochs=4, search_precision="bf16").sweeps
    assert (one.search_seconds, one.final_seconds) == (10 * 4 * 0.5, 2 * 4)
    assert one.seconds == other.seconds
    assert {precision for _, _, precision in measured} == {"bf16", "float32"}


def test_a_run_of_the_search_that_is_a_final_one_is_trained_once(measured: Measured, tmp_path: Path) -> None:
    assert estimate(tmp_path, seeds="0-9").seeds == 9
    assert estimate(tmp_path, seeds="1-10").seeds == 10
    assert estimate(tmp_path, seeds="0-9", epochs=2, search_epochs=1).seeds == 10
    assert estimate(tmp_path, seeds="0-9", keep_networks=True).seeds == 10


@pytest.mark.parametrize("seeds", ["1-2", "0-1"])
def test_what_is_left_of_a_sweep_alone_is_counted(
    train: Callable[..., SweepResult], measured: Measured, tmp_path: Path, seeds: str
) -> None:
    result = train(seeds=seeds)
    done = estimate(tmp_path, seeds=seeds)
    assert (done.configurations, done.seeds, done.seconds) == (0, 0, 0)
    assert estimate(tmp_path, seeds=seeds, keep_networks=True).seeds == 2
    RunStore(tmp_path).path(result.records[1].definition.id).unlink()
    one = estimate(tmp_path, seeds=seeds)
    assert (one.configurations, one.seeds, one.seconds) == (0, 1, 1)
    assert estimate(tmp_path, seeds=seeds, fresh=True).configurations == 3


def test_a_damaged_sweep_is_left_out(train: Callable[..., SweepResult], measured: Measured, tmp_path: Path) -> None:
    result = train()
    (tmp_path / "sweeps" / result.name / "journal.jsonl").write_text("nothing\n")
    found = plan(tmp_path, "bp,dfa")
    assert [one.cell.method for one in found.sweeps] == ["dfa"]
    assert len(found.left) == 1


def test_a_pack_that_does_not_fit_leaves_its_sweep_out(measured: Measured, tmp_path: Path) -> None:
    assert estimate(tmp_path, trials=10, pack=9999).pack == 10
    found = plan(tmp_path, trials=200, pack=150)
    assert (found.sweeps, len(found.left)) == ([], 1)


def test_sweeps_wait_for_their_searches() -> None:
    (cell,), _ = choose_all("digits", "bp")
    one = SweepEstimate(cell, 9, 18, 60.0, 5, 100.0)
    assert one.shortest(1) == 160
    assert one.shortest(64) == 60 / 2 + 100 / 5
    assert SweepPlan([one] * 4, [], 2, on_gpus=False).shortest == 4 * 160 / 2
    assert SweepPlan([one] * 4, [], 64, on_gpus=False).shortest == 50


def test_a_plan_is_not_made_for_a_cluster(measured: Measured, tpbench_inside: Inside, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plan(tmp_path, address="head:6379")
    line = ("digits", "bp", "--results", "/shared/r", "--address", "http://head:8265", "--dry-run")
    assert tpbench_inside("submit", *line).returncode == 2
    assert measured == []


def test_the_command_prints_a_plan_and_trains_nothing(
    measured: Measured, tpbench_inside: Inside, tmp_path: Path
) -> None:
    command = ("sweep", "digits", "bp,dfa", "--trials", "3", "--epochs", "60", "--cpus", "2", "--gpus", "0")
    found = tpbench_inside(*command, "--dry-run")
    assert found.returncode == 0, found.stderr
    # 3 configurations, one of which is a final run, and 9 more.
    assert "2 sweeps: 24 min of one CPU core, at least 12 min on 2" in found.stdout
    assert not (tmp_path / "results").exists()
    missing = tpbench_inside("sweep", "mnist,digits", "bp", "--gpus", "0", "--dry-run")
    assert (missing.returncode, "digits bp" in missing.stdout) == (0, True)
    assert "tpbench data get mnist" in missing.stderr
    assert tpbench_inside("sweep", "mnist", "bp", "--gpus", "0", "--dry-run").returncode == 1


def test_python_has_the_plan_as_a_frame(measured: Measured, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 60, "cpus": 2, "gpus": 0, "results": tmp_path / "results", "dry_run": True}
    frame = tpbench.sweep("digits", "bp", 3, **options)
    assert frame.loc[0, ["configurations", "seeds", "search_seconds", "final_seconds"]].tolist() == [3, 9, 180, 540]
    with pytest.raises(TpbenchError, match="mnist"):
        tpbench.sweep("mnist", "bp", 3, **options)
