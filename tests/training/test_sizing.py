"""The choice of a pack size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tpbench.training import sizing
from tpbench.workloads import WORKLOADS


class Row:
    def __init__(self, per_member: float, memory: int) -> None:
        self.member_epochs_per_second, self.peak_memory = 1 / per_member, memory


def choose(monkeypatch: pytest.MonkeyPatch, costs: dict[int, float], trials: int = 1000, memory: int = 1) -> int:
    def measure(workload: Any, method: str, pack: int, *_: Any, **__: Any) -> Row:
        return Row(costs[pack], memory * pack)

    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 100)
    return sizing.choose_pack(
        WORKLOADS["digits"], "bp", trials=trials, concurrent=2, threads=1, device="cpu", precision="float32"
    )


def test_it_grows_while_members_get_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, {1: 10, 2: 6, 4: 4, 8: 3.9, 16: 1}) == 4
    assert choose(monkeypatch, {1: 10, 2: 11}) == 1


def test_every_worker_keeps_four_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = {1: 16, 2: 8, 4: 4, 8: 2, 16: 1}
    assert choose(monkeypatch, cheap, trials=7) == 1
    assert choose(monkeypatch, cheap, trials=20) == 2
    assert choose(monkeypatch, cheap, trials=200) == 16


def test_it_stays_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # 60 % of 100 bytes for two workers are 30 each.
    assert choose(monkeypatch, {1: 16, 2: 8, 4: 4, 8: 2, 16: 1}, memory=6) == 4


def test_a_size_that_does_not_fit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the measurement itself may run out of memory, and what it took must be free for the packs."""
    freed = []

    def measure(workload: Any, method: str, pack: int, *_: Any, **__: Any) -> Row:
        if pack > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Row(1 / pack, pack)

    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 100)
    monkeypatch.setattr(sizing, "release_memory", freed.append)
    size = sizing.choose_pack(
        WORKLOADS["digits"], "bp", trials=1000, concurrent=1, threads=1, device="cuda", precision="float32"
    )
    assert (size, freed) == (4, ["cuda"] * 4)


def test_an_error_of_another_kind_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any, **__: Any) -> Row:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(sizing, "measure", measure)
    with pytest.raises(RuntimeError, match="illegal"):
        sizing.choose_pack(
            WORKLOADS["digits"], "bp", trials=9, concurrent=1, threads=1, device="cpu", precision="float32"
        )


def test_a_real_measurement_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    size = sizing.choose_pack(
        WORKLOADS["digits"], "bp", trials=16, concurrent=2, threads=1, device="cpu", precision="float32"
    )
    assert size in (1, 2)
    assert torch.get_num_threads() == before
