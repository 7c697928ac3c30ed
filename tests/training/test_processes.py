"""A plan split over processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.test_packs import digits_plan
from tests.training.test_tracking import scalars
from tpbench.engine import TpbenchError
from tpbench.results import RunStore
from tpbench.results.budgets import PUBLISHED
from tpbench.search.spaces import published_configuration
from tpbench.training import processes
from tpbench.training.packs import PackJob, PackSettings, plan_seeds
from tpbench.workloads import WORKLOADS


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_a_plan_is_split_by_its_seeds_where_that_pays(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = PackJob(digits_plan(seeds=(0, 1, 2)), PackSettings(str(tmp_path)))
    assert processes.parts_of(job) == [job.plan]  # a matter of seconds
    monkeypatch.setattr(processes, "_WORTH_SECONDS", 0.0)
    assert [part.seeds for part in processes.parts_of(job)] == [(0,), (1, 2)]
    PackJob(digits_plan(seeds=(0,)), PackSettings(str(tmp_path))).run()
    # What is there already moves no seed from one part to the other: their checkpoints are found again.
    again = PackJob(job.plan, job.settings)
    assert [part.seeds for part in processes.parts_of(again)] == [(1, 2)]


def test_parts_train_side_by_side_and_one_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they run the script again that called, as processes of multiprocessing would."""
    script = tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'ran-again')!r}, 'w')")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    # Nor what lies in the current folder under a name of the standard library's.
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran-another')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path / "no text"])
    configuration = published_configuration(WORKLOADS["mnist"], "bp")
    nowhere = plan_seeds(WORKLOADS["mnist"], "bp", configuration, (0,), 1, PUBLISHED)
    parts = [digits_plan("bp", (0, 1)), nowhere]
    settings = PackSettings(str(tmp_path), data=str(tmp_path / "none"), offline=True, keep_networks=True)
    heard: dict[int, processes.Progress] = {}
    with pytest.raises(TpbenchError, match="mnist"):
        processes.train_side_by_side(parts, settings, heard.__setitem__)
    assert not list(tmp_path.glob("ran-*"))
    assert heard == {0: processes.Progress(3, 3, heard[0].best)}
    alone = PackSettings(str(tmp_path / "alone"), keep_networks=True)
    PackJob(parts[0], alone).run()
    trained, expected = (
        {r.definition.id: r.test_error for r in RunStore(tmp_path / f).records()} for f in ("", "alone")
    )
    assert trained == expected
    networks = [{path.name: path.read_bytes() for path in (tmp_path / f / "networks").iterdir()} for f in ("", "alone")]
    assert networks[0] == networks[1]
    assert len(networks[0]) == 2


def test_a_process_that_is_interrupted_closes_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was reported is there, though trackers log now and then only."""
    monkeypatch.setattr(processes, "_PATIENCE", 200.0)  # a busy machine is no failure
    reported: list[int] = []

    def interrupt(_: int, progress: processes.Progress) -> None:
        reported.append(progress.done)
        if progress.done > 20 and list((tmp_path / "tb").rglob("*tfevents*")):
            raise KeyboardInterrupt

    settings = PackSettings(str(tmp_path), track=(f"tensorboard:{tmp_path / 'tb'}",))
    with pytest.raises(KeyboardInterrupt):
        processes.train_side_by_side([replace(digits_plan("bp", (0,)), epochs=100_000)], settings, interrupt)
    (folder,) = {path.parent for path in (tmp_path / "tb").rglob("*tfevents*")}
    assert max(scalars(folder)["test_error"]) >= reported[-1]
