"""The choice of a pack size, and what its measurement tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine import get_method
from tpbench.training import sizing
from tpbench.training.sizing import Sizing, choose_sizes, pack_sizes, run_seconds
from tpbench.workloads import WORKLOADS, get_workload


class Row:
    def __init__(self, per_member: float, memory: int, **phases: float) -> None:
        self.member_epochs_per_second, self.peak_memory, self.phases = 1 / per_member, memory, phases


CPU: dict[str, Any] = {"cells": 1, "cpus": 2, "gpus": 0, "threads": 1, "device": "cpu", "precision": "float32"}
GPU: dict[str, Any] = {**CPU, "cpus": 8, "gpus": 1, "device": "cuda"}


def choose(
    monkeypatch: pytest.MonkeyPatch,
    costs: Mapping[int, float],
    trials: int = 1000,
    memory: int = 1,
    pack: int | None = None,
    **options: Any,
) -> Sizing:
    """Choose sizes by costs of a member; a member takes so many of 100 bytes."""

    def measure(workload: Any, method: str, pack: int, *_: Any, **__: Any) -> Row:
        return Row(costs[pack], memory * pack)

    for name in ("require_gpu", "release_memory"):
        monkeypatch.setattr(sizing, name, lambda device: None)
    monkeypatch.setattr(sizing, "has_mps", lambda: False)
    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 100)
    return choose_sizes(WORKLOADS["digits"], "bp", trials=trials, pack=pack, **{**CPU, **options})


def test_it_grows_while_members_get_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = choose(monkeypatch, {1: 10, 2: 6, 4: 4, 8: 3.9, 16: 1})
    assert (sizes.pack, sizes.cost) == (4, 4)
    assert sizes.costs == {1: 10, 2: 6, 4: 4}
    assert choose(monkeypatch, {1: 10, 2: 11}).pack == 1


def test_every_worker_keeps_four_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = {1: 16, 2: 8, 4: 4, 8: 2, 16: 1}
    assert choose(monkeypatch, cheap, trials=7).pack == 1
    assert choose(monkeypatch, cheap, trials=20).pack == 2
    assert choose(monkeypatch, cheap, trials=200).pack == 16


def test_the_packs_of_all_searches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = {1: 16, 2: 8, 4: 4, 8: 2, 16: 1}
    assert choose(monkeypatch, cheap, trials=40, memory=0, cpus=16).pack == 1
    assert choose(monkeypatch, cheap, trials=40, memory=0, cpus=16, cells=13).pack == 8
    # But each search keeps four of its own.
    assert choose(monkeypatch, cheap, trials=20, memory=0, cpus=1, cells=39).pack == 4


def test_it_stays_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # 60 % of 100 bytes for two workers are 30 each.
    assert choose(monkeypatch, {1: 16, 2: 8, 4: 4, 8: 2, 16: 1}, memory=6).pack == 4


def test_packs_on_a_gpu_have_eight_members_where_trials_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes it hardly longer for eight members than for one (docs/notebook.md)."""
    costs = {size: 8 / size for size in (1, 2, 4, 6, 8, 16, 32, 64, 128)}
    assert choose(monkeypatch, costs, trials=100, **{**GPU, "gpus": 64}).pack == 8
    assert choose(monkeypatch, costs, trials=100, **{**GPU, "gpus": 64, "cells": 39}).pack == 16
    assert choose(monkeypatch, costs, trials=1000, **GPU).pack == 32
    assert choose(monkeypatch, costs, trials=6, **GPU).pack == 6
    # 60 bytes hold three of 20.
    assert choose(monkeypatch, costs, trials=1000, memory=20, **GPU).pack == 2


def test_brackets_on_a_gpu_have_18_members_where_a_search_has_three_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {size: 9 / size for size in (6, 9, 18, 36, 72)}
    options = {**GPU, "brackets": (9, 18, 36, 72)}
    assert choose(monkeypatch, costs, trials=100, **options).pack == 18
    assert choose(monkeypatch, costs, trials=53, **options).pack == 9
    assert choose(monkeypatch, costs, trials=6, **options).pack == 6
    # Both are measured: the workers decide.
    assert choose(monkeypatch, costs, trials=100, **{**options, "gpus": 64}).costs.keys() == {9, 18}
    assert choose(monkeypatch, costs, trials=100, **{**options, "gpus": 64, "cells": 39}).pack == 18
    # One that does not fit is trained in parts, as a bracket needs its members.
    assert choose(monkeypatch, costs, trials=100, memory=20, **options) == Sizing(9)


def test_brackets_on_cpus_have_9_or_27_members(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = dict.fromkeys((9, 16, 27), 1.0)
    for trials, cpus, cells, pack in ((54, 2, 1, 9), (216, 2, 1, 27), (108, 4, 1, 9), (108, 4, 4, 27)):
        assert choose(monkeypatch, costs, trials, cpus=cpus, cells=cells, brackets=(9, 27), memory=0).pack == pack


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 64), st.booleans(), st.booleans())
def test_all_workers_and_searches_have_packs(trials: int, cells: int, workers: int, gpu: bool, halving: bool) -> None:
    brackets = (9, 18, 36, 72) if halving else ()
    sizes = pack_sizes(trials, cells=cells, concurrent=workers, device="cuda" if gpu else "cpu", brackets=brackets)
    each = 3 if gpu else 4
    assert sizes == sorted(sizes)
    assert 1 <= sizes[0] <= trials
    for size in sizes[1:]:
        assert trials // size >= each
        # On GPUs a bracket of 18 is allowed wherever a search has three of them; the workers decide later.
        assert -(-trials // size) * cells >= each * workers or (gpu and halving and size == 18)


def test_a_size_that_does_not_fit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the measurement itself may run out of memory, and what it took must be free for the packs."""
    freed: list[str] = []

    def measure(workload: Any, method: str, pack: int, *_: Any, **__: Any) -> Row:
        if pack > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Row(1 / pack, pack)

    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "require_gpu", lambda device: None)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 100)
    monkeypatch.setattr(sizing, "release_memory", freed.append)
    size = choose_sizes(WORKLOADS["digits"], "bp", trials=1000, pack=None, **GPU)
    assert (size.pack, freed) == (4, ["cuda"] * 2)


def test_an_error_of_another_kind_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any, **__: Any) -> Row:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(sizing, "measure", measure)
    with pytest.raises(RuntimeError, match="illegal"):
        choose_sizes(WORKLOADS["digits"], "bp", trials=9, pack=None, **CPU)


def test_a_pack_that_was_asked_for_is_measured_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, {7: 2.0}, pack=7) == Sizing(7)
    assert choose(monkeypatch, {7: 2.0}, pack=7, **GPU) == Sizing(7, costs={7: 2.0})


def test_feedback_epochs_cost_their_part() -> None:
    """With as many feedback epochs between joint ones as the schedule has."""
    workload = get_workload("cifar10")
    row: Any = Row(2.0, 1, batches=0.1, forward=0.2, feedback=0.3, adam=0.2)
    assert sizing.epoch_seconds(row, workload, "bp") == pytest.approx(2.0)
    between = workload.feedback_schedule(get_method("dtp"))["fb_epochs_between"]
    assert sizing.epoch_seconds(row, workload, "dtp") == pytest.approx(2.0 * (1 + 0.7 * between))


def test_a_real_measurement_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    sizes = choose_sizes(WORKLOADS["digits"], "bp", trials=16, pack=None, **CPU)
    assert sizes.pack in (1, 2)
    assert sizes.cost > 0
    assert torch.get_num_threads() == before


def test_the_time_of_a_run_has_its_feedback_epochs() -> None:
    row: Any = Row(2.0, 0, batches=0.1, forward=0.1, feedback=0.2, adam=0.2)
    # A joint epoch takes 2 s and an evaluation 0.06; a feedback epoch half of the joint one's.
    assert run_seconds(row, "bp", 10, 15) == pytest.approx(10 * 2.06)
    assert run_seconds(row, "dtp", 10, 0) == pytest.approx(10 * 2.06)
    assert run_seconds(row, "dtp", 10, 15) == pytest.approx(10 * 2.06 + 15 * 1.0)
