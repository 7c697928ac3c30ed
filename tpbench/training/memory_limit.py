"""A pack that does not fit is trained in halves: shown on a device (``tpbench verify device``)."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from tpbench.engine import example_configuration, get_method
from tpbench.engine.device_checks import Found, NotHere
from tpbench.results import RunStore
from tpbench.training.packs import PackJob, PackPlan, PackSettings
from tpbench.workloads import Workload, get_workload

# Hidden layers. Parameters, gradients and moments of the wide network take half a GiB in a run, and stay; whatever else
# torch allocates is less, or gone before the moments are there.
WIDE, NARROW = (8192, 4096), (32, 32)


def provoked_pack() -> Found:
    """On a CPU: the pack of four is told that memory does not suffice, after its first epoch."""
    said: list[object] = []

    def once(report: object) -> None:
        if not said:
            said.append(report)
            raise MemoryError("provoked")

    with tempfile.TemporaryDirectory() as folder:
        return _published(Path(folder), "cpu", NARROW, once)


def limited_pack(device: str) -> Found:
    """On a GPU: a pack of four where torch may take what two and a half need.

    Raises:
        NotHere: the GPU has not even that.
    """
    # The functions that take a fraction of the memory want a number.
    index = torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    with tempfile.TemporaryDirectory() as folder:
        _reserved(index)
        before = torch.cuda.memory_allocated(index)
        torch.cuda.reset_peak_memory_stats(index)
        _job(Path(folder) / "one", device, WIDE, members=1).run()
        # In use, not reserved: torch reserves more while it may, and that would let four fit.
        one = torch.cuda.max_memory_allocated(index) - before
        limit = _reserved(index) + 2.5 * one
        fraction = torch.cuda.get_per_process_memory_fraction(index)
        total = torch.cuda.get_device_properties(index).total_memory
        if limit > fraction * total:
            raise NotHere(f"two and a half runs need {limit / 2**30:.1f} GiB, more than there is")
        torch.cuda.set_per_process_memory_fraction(limit / total, index)
        try:
            found = _published(Path(folder) / "four", device, WIDE)
        finally:
            torch.cuda.set_per_process_memory_fraction(fraction, index)
            _reserved(index)
    spelled = f"{found.text}; one run needs {one / 2**20:.0f} MiB, the limit is {limit / 2**20:.0f} MiB"
    return Found(spelled, found.passed, {**found.numbers, "one_run": one, "limit": limit})


def _reserved(index: int) -> int:
    """Bytes that torch holds on a GPU when what is not used is given back."""
    gc.collect()
    torch.cuda.synchronize(index)
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_reserved(index))


def _published(
    folder: Path, device: str, hidden: tuple[int, ...], on_epoch: Callable[[object], None] | None = None
) -> Found:
    """Train four runs as one pack that does not fit; passed if all are in the store, in packs of fewer."""
    job = _job(folder, device, hidden, members=4)
    with _halvings() as halvings:
        outcomes = job.run(on_epoch)
    store = RunStore(folder / "results")
    records = {record.definition.id: record for record in store.records()}
    there = [records[o.run] for o in outcomes if o.status == "finished" and o.run in records]
    sizes = sorted({record.pack_members for record in there}, reverse=True)
    text = f"{len(there)} of {len(outcomes)} published, by packs of {' and '.join(map(str, sizes)) or '-'}"
    if not halvings:
        text = f"the memory did not run out: {text}"
    passed = bool(halvings) and len(there) == len(outcomes) and max(sizes) < len(outcomes)
    return Found(text, passed, {"published": len(there), "halvings": len(halvings)})


@contextmanager
def _halvings() -> Iterator[list[str]]:
    """What :mod:`tpbench.training.packs` says of packs that it halves; here it alarms nobody."""
    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, handler = logging.getLogger("tpbench.training.packs"), Kept()
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


def _job(folder: Path, device: str, hidden: tuple[int, ...], members: int) -> PackJob:
    """Runs of one epoch on made-up data, published below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    workload = _made_up(folder, hidden)
    configuration = workload.complete(get_method("bp"), example_configuration(get_method("bp")))
    plan = PackPlan(workload, "bp", (configuration,) * members, tuple(range(members)), epochs=1)
    return PackJob(plan, PackSettings(str(folder / "results"), device=device))


def _made_up(folder: Path, hidden: tuple[int, ...]) -> Workload:
    """A workload from a file, so that no data set is needed."""
    random = np.random.default_rng(0)
    x, y = random.random((400, 64), dtype=np.float32), np.arange(400) % 10
    np.savez(folder / "data.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    (folder / "made-up.yaml").write_text(
        f"name: made-up\ndata: data.npz\nnetwork: {list(hidden)}\nbatch_size: 32\nvalidation_size: 60\n",
        encoding="utf-8",
    )
    return get_workload(str(folder / "made-up.yaml"))
