"""A plan split over processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.test_packs import digits_plan
from tests.training.test_tracking import scalars
from tpbench.engine import TpbenchError, get_method
from tpbench.engine.operations import member_bytes
from tpbench.results import RunStore
from tpbench.results.runs import PUBLISHED
from tpbench.search.spaces import published_configuration
from tpbench.training import processes
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings, plan_seeds
from tpbench.training.processes import pack_into_memory
from tpbench.workloads import WORKLOADS


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_a_plan_is_split_by_its_seeds_where_that_pays(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = PackJob(digits_plan(seeds=(0, 1, 2)), PackSettings(str(tmp_path)))
    assert pack_into_memory(job, 2**50).plans == [job.plan]  # a matter of seconds
    monkeypatch.setattr(processes, "_MIN_SECONDS", 0.0)
    assert [part.seeds for part in pack_into_memory(job, 2**50).plans] == [(0,), (1, 2)]
    PackJob(digits_plan(seeds=(0,)), PackSettings(str(tmp_path))).run()
    # What is there already moves no seed from one part to the other: their checkpoints are found again.
    again = PackJob(job.plan, job.settings)
    assert [part.seeds for part in pack_into_memory(again, 2**50).plans] == [(1, 2)]


def test_several_threads_train_long_steps_alone(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = PackJob(digits_plan(seeds=(0, 1)), PackSettings(str(tmp_path)))
    assert pack_into_memory(job, 2**50).threads == 1
    monkeypatch.setattr(processes, "_MIN_THREADED_STEP", 0.0)
    assert pack_into_memory(job, 2**50).threads == 2
    # Processes side by side have one each.
    monkeypatch.setattr(processes, "_MIN_SECONDS", 0.0)
    assert pack_into_memory(job, 2**50).threads == 1


def needed(job: PackJob) -> int:
    """Bytes that the error names of a single run."""
    problem = job.problem
    return member_bytes(get_method(job.plan.method), problem, torch.float32, checkpoint=True)


def test_what_the_memory_does_not_hold_at_once_is_halved(tmp_path: Path) -> None:
    job = PackJob(digits_plan(seeds=tuple(range(6))), PackSettings(str(tmp_path)))
    one = needed(job)
    fits = processes.pack_into_memory(job, 6 * one)
    assert (fits.plans, fits.at_once, fits.note) == ([job.plan], 1, "")
    halved = processes.pack_into_memory(job, 4 * one)
    assert [plan.seeds for plan in halved.plans] == [(0, 1, 2), (3, 4, 5)]
    assert halved.note
    alone = processes.pack_into_memory(job, one)
    assert [plan.seeds for plan in alone.plans] == [(seed,) for seed in range(6)]
    with pytest.raises(TpbenchError, match=r"[0-9] (M|G)iB.*[0-9] (M|G)iB"):
        processes.pack_into_memory(job, one - 1)
    # Runs that are there already need none.
    PackJob(digits_plan(seeds=(0, 1, 2)), PackSettings(str(tmp_path))).run()
    again = PackJob(job.plan, job.settings)
    assert processes.pack_into_memory(again, 3 * one).plans == [again.plan]


def test_fewer_processes_train_where_the_memory_does_not_hold_them(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_MIN_SECONDS", 0.0)
    job = PackJob(digits_plan(seeds=(0, 1, 2, 3)), PackSettings(str(tmp_path)))
    plenty = processes.pack_into_memory(job, 2**40)
    assert ([plan.seeds for plan in plenty.plans], plenty.at_once, plenty.note) == ([(0, 1), (2, 3)], 2, "")
    little = processes.pack_into_memory(job, 2 * needed(job))
    assert ([plan.seeds for plan in little.plans], little.at_once) == ([(0, 1), (2, 3)], 1)
    assert little.note
    # One after the other they have all cores, if their steps are long.
    monkeypatch.setattr(processes, "_MIN_THREADED_STEP", 0.0)
    assert (
        processes.pack_into_memory(job, 2**40).threads,
        processes.pack_into_memory(job, 2 * needed(job)).threads,
    ) == (1, 2)


_MEASURED = """
import re, sys
from pathlib import Path
import torch
from tests.conftest import CONFIGURATION
from tpbench.engine import Architecture, Problem, Trainer, get_method
from tpbench.engine.operations import member_bytes
from tpbench.engine.precision import matmul_policy

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
rule, members, precision = get_method(sys.argv[1]), 8, sys.argv[2]
x, y = torch.rand(1200, 400), torch.arange(1200) % 10
problem = Problem(
    Architecture((400, 500, 500, 500, 10), random_hidden=600), x, y, x, y, validation_size=1000, batch_size=100
)
configuration = {name: CONFIGURATION[name] for name in rule.names}

def train(members):
    kind = matmul_policy(precision, "cpu")
    trainer = Trainer(
        rule, problem, [configuration] * members, list(range(members)), epochs=1, precision=precision, matmul=kind
    )
    while not trainer.done:
        trainer.advance()

train(1)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
train(members)
print((status("VmHWM") - before) / (members * member_bytes(rule, problem, torch.float32, lowered=precision == "bf16")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("method", "precision"),
    [("bp", "float32"), ("dtp", "float32"), ("ddtp-rhl", "float32"), ("gnt", "float32"), ("ddtp-rhl", "bf16")],
)
def test_the_estimate_is_near_what_a_pack_takes(method: str, precision: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _MEASURED, method, precision]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=240)
    assert 0.5 < float(ended.stdout) < 1.5


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
    progress: dict[int, processes.PackProgress] = {}
    with pytest.raises(TpbenchError, match="mnist"):
        processes.train_side_by_side(parts, settings, progress.__setitem__)
    assert not list(tmp_path.glob("ran-*"))
    assert progress == {0: processes.PackProgress(3, 3, progress[0].best_validation_error)}
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
    # A busy machine is no failure.
    monkeypatch.setattr(processes, "_END_SECONDS", 200.0)
    patient = "from tpbench.training import tracking; tracking._INTERRUPTION_LIMIT = 190.0; train_for_parent(task)"
    monkeypatch.setattr(processes, "_CHILD", processes._CHILD.replace("train_for_parent(task)", patient))
    reported: list[int] = []

    def interrupt(_: int, progress: processes.PackProgress) -> None:
        reported.append(progress.done)
        if progress.done > 20 and list((tmp_path / "tb").rglob("*tfevents*")):
            raise KeyboardInterrupt

    settings = PackSettings(str(tmp_path), track=(f"tensorboard:{tmp_path / 'tb'}",))
    with pytest.raises(KeyboardInterrupt):
        processes.train_side_by_side([replace(digits_plan("bp", (0,)), epochs=100_000)], settings, interrupt)
    (folder,) = {path.parent for path in (tmp_path / "tb").rglob("*tfevents*")}
    assert max(scalars(folder)["test_error"]) >= reported[-1]
