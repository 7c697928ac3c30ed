"""The progress of runs that train, as it is shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.training.test_packs import InterruptedTrainingError, digits_plan
from tests.training.test_tracking import interrupt_at
from tpbench.engine import get_method
from tpbench.engine.operations import member_bytes
from tpbench.results import RunStore
from tpbench.training import processes, running
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings
from tpbench.training.processes import PackProgress
from tpbench.training.progress import PlainView


def shown(job: PackJob) -> list[str]:
    written = io.StringIO()
    running._train(job, job.plan.epochs, PlainView(Console(file=written), interval=0))
    return [line.partition(",")[0] for line in written.getvalue().splitlines()]


def test_the_first_line_says_where_it_goes_on(tmp_path: Path) -> None:
    settings = PackSettings(str(tmp_path), checkpoint_every=2)
    with pytest.raises(InterruptedTrainingError):
        PackJob(digits_plan("bp"), settings).run(interrupt_at(2))
    assert shown(PackJob(digits_plan("bp"), settings)) == ["epochs: 3/3"]
    assert shown(PackJob(digits_plan("bp", (5,)), settings)) == [f"epochs: {done}/3" for done in range(4)]


def test_parts_that_continue_are_shown_once_all_have_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(processes, "_MIN_SECONDS", 0.0)

    def train(plans: list[PackPlan], settings: PackSettings, report: processes.ProgressCallback) -> None:
        for number, done in ((0, 2), (1, 1), (0, 3), (1, 2), (1, 3)):
            report(number, PackProgress(done, 3, 0.5, ("odd",)))

    monkeypatch.setattr(running, "train_side_by_side", train)
    job = PackJob(digits_plan("bp", (0, 1)), PackSettings(str(tmp_path)))
    assert shown(job)[:2] == ["epochs: 0/3", "warning: odd"]
    path = PackJob(processes.pack_into_memory(job, 2**50).plans[1], job.settings).checkpoint_path
    path.parent.mkdir(parents=True)
    path.touch()
    assert shown(job) == ["warning: odd", "epochs: 1/3", "epochs: 2/3", "epochs: 3/3"]


def test_a_job_trains_with_the_threads_of_its_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    used = []

    def run(job: PackJob, report: object) -> None:
        used.append(torch.get_num_threads())

    monkeypatch.setattr(PackJob, "run", run)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shown(PackJob(digits_plan("bp", (0,)), PackSettings(str(tmp_path))))
        monkeypatch.setattr(processes, "_MIN_THREADED_STEP", 0.0)
        shown(PackJob(digits_plan("bp", (0,)), PackSettings(str(tmp_path))))
        assert (used, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        torch.set_num_threads(before)


def test_what_torch_keeps_of_a_gpu_is_given_back_before_it_is_asked_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(running, "release_memory", lambda device: asked.append("given back"))
    monkeypatch.setattr(running, "free_memory", lambda device: asked.append("free") or 2**40)
    shown(PackJob(digits_plan("bp", (0,)), PackSettings(str(tmp_path))))
    assert asked == ["given back", "free"]


def test_parts_that_train_one_after_the_other_end_as_one_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = PackJob(digits_plan("bp", (0, 1, 2)), PackSettings(str(tmp_path)))
    job.run()
    apart = PackJob(job.plan, PackSettings(str(tmp_path / "apart")))
    one = member_bytes(get_method("bp"), apart.problem, torch.float32, checkpoint=True)
    monkeypatch.setattr(running, "free_memory", lambda device: one)
    lines = shown(apart)
    assert lines[0].startswith("3 runs")
    assert lines[-1] == "epochs: 3/3"
    errors = [
        {r.definition.seed: (r.test_error, r.pack_members) for r in RunStore(folder).records()}
        for folder in (tmp_path, tmp_path / "apart")
    ]
    assert {seed: error for seed, (error, _) in errors[0].items()} == {s: error for s, (error, _) in errors[1].items()}
    assert {members for _, members in errors[1].values()} == {1}
