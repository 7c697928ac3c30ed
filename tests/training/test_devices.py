"""The names of devices, and nodes whose GPU torch cannot use."""

from __future__ import annotations

import pytest
import torch

from tpbench.engine import TpbenchError
from tpbench.training.devices import require_gpu
from tpbench.training.sizing import choose_sizes
from tpbench.workloads import WORKLOADS

REASON = "The NVIDIA driver on your system is too old (found version 12080)."


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError(REASON + "\nPlease update your GPU driver")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


def test_a_driver_that_is_too_old_is_named_with_its_node(old_driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    with pytest.raises(TpbenchError, match="node-7") as raised:
        require_gpu("cuda")
    assert REASON in str(raised.value)
    assert "\n" not in str(raised.value)
    require_gpu("cpu")


def test_it_is_found_when_sizes_are_measured(old_driver: None) -> None:
    digits = WORKLOADS["digits"]
    with pytest.raises(TpbenchError, match="driver"):
        choose_sizes(
            digits, "bp", trials=4, cells=1, pack=2, cpus=2, gpus=1, threads=1, device="cuda", precision="float32"
        )
