"""``tpbench verify device``: its list of checks, what becomes of them, and that it needs torch and little else."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import Inside
from tests.engine.test_fixtures import altered
from tpbench.engine import METHODS, EpochReport, Trainer, UsageError
from tpbench.engine.device_checks import Found
from tpbench.training import device_checks, memory_limit, packs
from tpbench.training.device_checks import GROUPS, Check, NotHere, Request, Row, carry_out, rate, verify_device
from tpbench.training.devices import CHECKS
from tpbench.training.memory_limit import limited_pack, provoked_pack
from tpbench.training.packs import PackJob

ABSENT = ("ray", "hyperopt", "pandas", "scipy", "psutil", "torchvision", "sklearn", "pyarrow", "matplotlib", "upath")

_WITHOUT = """
import os, runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["BLOCKED"].split():
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocked())
exec(os.environ.get("FIRST", ""))
runpy.run_module("tpbench.cli", run_name="__main__", alter_sys=True)
"""


def without(
    modules: tuple[str, ...], folder: Path, *arguments: str, first: str = ""
) -> subprocess.CompletedProcess[str]:
    """``python -m tpbench.cli`` where these modules cannot be imported; ``first`` runs before it."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={
            **os.environ,
            "BLOCKED": " ".join(modules),
            "FIRST": first,
            "HOME": str(folder),
            "PYTHONPATH": paths,
        },
    )


def test_it_runs_where_torch_is_and_little_else(tmp_path: Path) -> None:
    small = "from tpbench.training import device_checks; device_checks.PACKS['cpu'] = (1,)"
    ended = without(ABSENT, tmp_path, "verify", "device", "--device", "cpu", "--methods", "dfa", "--json", first=small)
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = json.loads(ended.stdout)
    assert Counter(row["verdict"] for row in rows) == {"ok": 4, "measured": 2, "not here": 4}
    assert "without ray, hyperopt, pandas, scipy, torchvision" in rows[0]["found"]
    assert [row["setting"] for row in rows if row["check"] == "rates"] == ["mnist dfa, pack of 1"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("typer", "tpbench's command line needs typer, which cannot be imported"),
        ("rich", "tpbench's command line needs rich, which cannot be imported"),
        ("yaml", "tpbench's command line needs pyyaml, which cannot be imported"),
        ("torch", "'verify device' needs torch, which cannot be imported"),
        ("numpy", "'verify device' needs numpy, which cannot be imported"),
    ],
)
def test_what_is_missing_is_said_in_a_line(tmp_path: Path, missing: str, message: str) -> None:
    ended = without((missing,), tmp_path, "verify", "device", "--device", "cpu")
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "pip install " in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_names_of_checks_are_those_of_the_groups() -> None:
    assert tuple(GROUPS) == CHECKS


def settings(request: Request, group: str) -> list[str]:
    return [check.setting for check in GROUPS[group][1](request)]


def test_what_is_checked_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "gnt", replace(METHODS["gnt"], capturable=False))
    request = Request("cuda:1", list(METHODS))
    captured = [carry_out("", check) for check in GROUPS["captured"][1](request) if check.setting == "gnt, float32"]
    assert [(row.verdict, row.found) for row in captured] == [
        ("not here", "runs step by step: declared not capturable")
    ]
    assert settings(request, "captured") == [f"{name}, {p}" for p in ("float32", "bf16") for name in METHODS]
    assert settings(request, "same") == [f"{name}, float{bits}" for name in METHODS for bits in (32, 64)]
    assert settings(request, "resume")[:2] == ["bp, cuda:1 to cpu", "bp, cpu to cuda:1"]
    assert len(settings(request, "rates")) == 12
    assert settings(request, "gradients") == [f"{name}, {p}" for p in ("float32", "tf32", "bf16") for name in METHODS]


def test_what_there_is_no_place_for_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TPBENCH_DATA", str(tmp_path))
    rows = list(verify_device(Request("cpu", ["bp"]), ("fixtures", "captured", "same")))
    assert [(row.verdict, row.found) for row in rows[1:]] == [
        ("not here", "no folder 'golden' in the data folder ($TPBENCH_DATA); name it with --fixtures"),
        ("not here", "a CPU captures nothing"),
        ("not here", "this is the CPU"),
    ]


@pytest.mark.data
def test_fixtures_are_found_among_the_data_sets(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPBENCH_DATA", str(shared_data))
    rows = list(verify_device(Request("cpu", list(METHODS)), ("fixtures",)))[1:]
    assert len(rows) == 20
    # The damped and the undamped one, in both precisions.
    of_gnt = list(verify_device(Request("cpu", ["gnt"]), ("fixtures",)))[1:]
    assert {row.setting.split(",")[0] for row in of_gnt} == {"gnt", "gnt-damped"}
    assert {row.verdict for row in rows} == {"ok"}
    assert {row.criterion for row in rows} == {"everything to 1e-09", "gradients to 1e-04", "gradients to 1e-03"}


@pytest.mark.data
def test_a_fixture_that_fails_or_is_damaged_does_not_stop_the_rest(
    shared_data: Path, tmp_path: Path, tpbench_inside: Inside
) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    altered(shared_data / "golden" / "bp.npz", folder / "a.npz", "s0/dW1", 1.001)
    (folder / "b.npz").write_bytes(b"PK\x03\x04 not really")
    (folder / "c.npz").write_bytes((shared_data / "golden" / "bp.npz").read_bytes())
    ended = tpbench_inside(
        "verify", "device", "--device", "cpu", "--only", "fixtures", "--fixtures", str(folder), "--json"
    )
    rows = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert [row["verdict"] for row in rows[1:]] == ["FAILED"] * 4 + ["ok"] * 2
    assert rows[3]["found"].startswith(str(folder / "b.npz"))
    assert ended.stderr.startswith("golden fixtures, a, float32: to 1.0e-03 (gradients)\n")


def test_a_pack_that_ran_out_of_memory_is_published_in_halves() -> None:
    found = provoked_pack()
    assert (found.passed, found.text) == (True, "4 of 4 published, by packs of 2")


def test_a_pack_that_failed_is_gone_when_its_halves_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is what they need; on a GPU nobody would look for cycles then."""
    made: list[weakref.ref[Trainer]] = []
    make = PackJob._trainer

    def noted(job: PackJob) -> Trainer:
        assert [trainer() for trainer in made] == [None] * len(made)
        trainer = make(job)
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(PackJob, "_trainer", noted)
    gc.disable()
    try:
        assert provoked_pack().passed
    finally:
        gc.enable()
    assert len(made) == 3


def test_json_has_no_infinity() -> None:
    row = carry_out("", Check("", "", lambda: Found("", False, {"difference": float("inf"), "method": "bp"})))
    assert row.numbers == {"difference": None, "method": "bp"}


def failed(monkeypatch: pytest.MonkeyPatch) -> Row:
    (row,) = (carry_out("memory", check) for check in GROUPS["memory"][1](Request("cpu", ["bp"])))
    assert row.verdict == "FAILED"
    return row


def test_halving_that_does_not_work_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packs, "out_of_memory", lambda error: False)
        assert failed(patch).found == "MemoryError: provoked"
    with monkeypatch.context() as patch:
        patch.setattr(PackJob, "_publish", lambda job, trainer: None)
        assert failed(patch).found == "0 of 4 published, by packs of -"
    with monkeypatch.context() as patch:
        run = PackJob.run
        patch.setattr(PackJob, "run", lambda job, on_epoch: run(job))
        assert failed(patch).found == "the memory did not run out: 4 of 4 published, by packs of 4"


class Memory:
    """Plays the functions of ``torch.cuda`` that have to do with memory: a run takes a tenth of it."""

    TOTAL, RUN = 1000, 100

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fraction, self.taken, self.limits = 1.0, 0, [1.0]
        played: dict[str, Any] = {
            "current_device": lambda: 0,
            "synchronize": lambda index: None,
            "empty_cache": lambda: None,
            "memory_reserved": lambda index: 50,
            "memory_allocated": lambda index: 30,
            "max_memory_allocated": lambda index: 30 + self.taken,
            "reset_peak_memory_stats": lambda index: None,
            "get_per_process_memory_fraction": lambda index: self.fraction,
            "set_per_process_memory_fraction": self.limit,
            "get_device_properties": lambda index: SimpleNamespace(total_memory=self.TOTAL),
        }
        for name, function in played.items():
            monkeypatch.setattr(torch.cuda, name, function)
        advance = Trainer.advance

        def limited(trainer: Trainer) -> EpochReport:
            self.taken = self.RUN * len(trainer.alive)
            if self.binds and 50 + self.taken > self.fraction * self.TOTAL:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return advance(trainer)

        monkeypatch.setattr(Trainer, "advance", limited)
        monkeypatch.setattr(memory_limit, "WIDE", memory_limit.NARROW)
        self.binds = True

    def limit(self, fraction: float, index: int) -> None:
        self.fraction = fraction
        self.limits.append(fraction)


def test_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    found = limited_pack("cpu")
    assert found.passed
    assert found.text.startswith("4 of 4 published, by packs of 2; one run needs ")
    assert memory.limits == [1.0, 0.3, 1.0]


def test_a_limit_that_does_not_bind_is_noticed_and_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    memory.binds = False
    found = limited_pack("cpu")
    assert found.passed is False
    assert found.text.startswith("the memory did not run out")
    assert memory.fraction == 1.0


def test_a_gpu_that_is_too_small_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch)
    memory.fraction = 0.2
    with pytest.raises(NotHere, match="more than there is"):
        limited_pack("cpu")
    assert memory.fraction == 0.2


def test_a_pack_that_is_too_large_to_be_measured_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*arguments: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_checks, "measure", hungry)
    with pytest.raises(NotHere, match="not enough memory"):
        rate("bp", 100, "cpu")


def raising(method: object, first: str, then: str) -> Found:
    if method is METHODS["dtp"]:
        raise RuntimeError("CUDA error: an illegal\nmemory access")
    return Found("bit for bit", True)


def test_a_check_that_raises_has_failed_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tpbench_inside: Inside
) -> None:
    monkeypatch.setattr(device_checks, "resumed", raising)
    ended = tpbench_inside("verify", "device", "--device", "cpu", "--only", "resume", "--methods", "bp,dtp,dfa")
    assert ended.returncode == 1
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    assert [cell[-1] for cell in cells] == ["measured", "ok", "FAILED", "ok"]
    assert cells[2][:3] == ["resumed", "dtp, cpu to cpu", "RuntimeError: CUDA error: an illegal"]
    assert ended.stderr == "resumed, dtp, cpu to cpu: RuntimeError: CUDA error: an illegal\n"


def test_the_table_and_progress(monkeypatch: pytest.MonkeyPatch, tpbench_inside: Inside) -> None:
    ended = tpbench_inside("verify", "device", "--device", "cpu", "--only", "resume,captured", "--methods", "bp")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "bit for bit" in ended.stdout
    said: list[str] = []
    list(verify_device(Request("cpu", []), ("resume", "captured"), said.append))
    assert said == ["resumed ...", "captured epochs ..."]


@pytest.mark.parametrize(
    "slip",
    [
        ("--device", "cuda:9999"),
        ("--device", "gpu"),
        ("--only", "everything"),
        ("--methods", "pb"),
        ("--fixtures", "nowhere", "--device", "cpu"),
    ],
)
def test_slips(tpbench_inside: Inside, slip: tuple[str, ...]) -> None:
    ended = tpbench_inside("verify", "device", *slip)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1


def test_a_folder_that_was_named_must_hold_fixtures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \.npz fixture"):
        next(verify_device(Request("cpu", ["bp"], tmp_path), ("resume", "fixtures")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_on_a_gpu_every_check_passes() -> None:
    groups = [name for name in GROUPS if name not in ("fixtures", "rates")]
    assert [row for row in verify_device(Request("cuda", list(METHODS)), groups) if row.verdict == "FAILED"] == []
