"""A pack that does not fit into memory is trained in halves, and all its runs are published."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tpbench.engine import Trainer, example_configuration, get_method
from tpbench.results import RunDefinition, RunStore
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings
from tpbench.workloads import Workload, get_workload

# Parameters, gradients and moments of the wide network take half a GiB in a run, and stay; whatever else torch
# allocates is less, or gone before the moments are there.
WIDE, NARROW = (8192, 4096), (32, 32)


def made_up_workload(folder: Path, hidden: tuple[int, ...]) -> Workload:
    """Return a workload from a file, so that no data set is needed."""
    random = np.random.default_rng(0)
    x, y = random.random((400, 64), dtype=np.float32), np.arange(400) % 10
    folder.mkdir()
    np.savez(folder / "data.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    (folder / "made-up.yaml").write_text(
        f"name: made-up\ndata: data.npz\nnetwork: {list(hidden)}\nbatch_size: 32\nvalidation_size: 60\n",
        encoding="utf-8",
    )
    return get_workload(str(folder / "made-up.yaml"))


def job(folder: Path, device: str, hidden: tuple[int, ...], members: int) -> PackJob:
    """Return runs of one epoch, published below the folder."""
    workload = made_up_workload(folder, hidden)
    configuration = workload.complete(get_method("bp"), example_configuration(get_method("bp")))
    plan = PackPlan(workload, "bp", (configuration,) * members, tuple(range(members)), epochs=1)
    return PackJob(plan, PackSettings(str(folder / "results"), device=device))


def fail_once() -> Callable[[object], None]:
    """Return a callback that says once, after an epoch, that memory does not suffice."""
    reports: list[object] = []

    def on_epoch(report: object) -> None:
        reports.append(report)
        if len(reports) == 1:
            raise MemoryError("injected")

    return on_epoch


def train_four(
    folder: Path, device: str, hidden: tuple[int, ...], caplog: pytest.LogCaptureFixture, on_epoch: object = None
) -> list[int]:
    """Train four runs as one pack, and return the size of the pack that published each."""
    with caplog.at_level(logging.INFO, logger="tpbench.training.pack"):
        outcomes = job(folder, device, hidden, members=4).run(on_epoch)  # type: ignore[arg-type]
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    records = {record.definition.id: record for record in RunStore(folder / "results").records()}
    return [records[str(outcome.run)].pack_members for outcome in outcomes]


def halvings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.name == "tpbench.training.pack" for record in caplog.records)


def test_a_pack_that_ran_out_of_memory_is_published_in_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train_four(tmp_path / "four", "cpu", NARROW, caplog, fail_once()) == [2, 2, 2, 2]
    assert halvings(caplog) == 1


def test_a_pack_that_fits_is_not_halved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train_four(tmp_path / "four", "cpu", NARROW, caplog) == [4, 4, 4, 4]
    assert halvings(caplog) == 0


def test_a_pack_that_failed_is_gone_when_its_halves_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its memory is what they need; Python would not look for cycles on a GPU then."""
    made: list[weakref.ref[Trainer]] = []
    make = PackJob._trainer

    def make_and_note(job: PackJob, definitions: Sequence[RunDefinition]) -> Trainer:
        assert [trainer() for trainer in made] == [None] * len(made)
        trainer = make(job, definitions)
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(PackJob, "_trainer", make_and_note)
    gc.disable()
    try:
        train_four(tmp_path / "four", "cpu", NARROW, caplog, fail_once())
    finally:
        gc.enable()
    assert len(made) == 3


def reserved_bytes(index: int) -> int:
    """Return what torch holds on a GPU when what is not used is given back."""
    gc.collect()
    torch.cuda.synchronize(index)
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved(index))


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_four_runs_where_a_gpu_has_memory_for_two_and_a_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = torch.cuda.current_device()
    reserved_bytes(index)
    before = torch.cuda.memory_allocated(index)
    torch.cuda.reset_peak_memory_stats(index)
    job(tmp_path / "one", "cuda", WIDE, members=1).run()
    # In use, not reserved: torch reserves more while it may, and that would let four fit.
    one = torch.cuda.max_memory_allocated(index) - before
    limit = reserved_bytes(index) + 2.5 * one
    fraction = torch.cuda.get_per_process_memory_fraction(index)
    total = torch.cuda.get_device_properties(index).total_memory
    if limit > fraction * total:
        pytest.skip(f"two and a half runs need {limit / 2**30:.1f} GiB, more than there is")
    torch.cuda.set_per_process_memory_fraction(limit / total, index)
    try:
        sizes = train_four(tmp_path / "four", "cuda", WIDE, caplog)
    finally:
        torch.cuda.set_per_process_memory_fraction(fraction, index)
        reserved_bytes(index)
    assert halvings(caplog) >= 1
    assert max(sizes) < 4
