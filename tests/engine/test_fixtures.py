"""The golden fixtures, and that a wrong engine or a wrong file is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Inside
from tpbench.engine import TpbenchError
from tpbench.engine.fixtures import fixture_files, verify_fixture

pytestmark = pytest.mark.data


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_every_fixture_passes(shared_data: Path, precision: torch.dtype, members: int) -> None:
    reports = [verify_fixture(path, precision, members) for path in fixture_files(shared_data / "golden")]
    assert len(reports) == 10
    for report in reports:
        assert report.passed, report


def altered(source: Path, target: Path, name: str, factor: float) -> Path:
    """A copy of a fixture with one array scaled."""
    with np.load(source, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = arrays[name] * factor
    np.savez(target, **arrays)
    return target


@pytest.mark.parametrize(
    "name", ["s0/h2", "s0/hhat2", "s0/dW3", "s0/rec_loss1", "s0/dQ2", "after1/W2", "afterN/Q1", "noise1"]
)
def test_a_deviation_of_a_millionth_fails(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = altered(shared_data / "golden" / "dtpdrl.npz", tmp_path / "dtpdrl.npz", name, 1 + 1e-6)
    assert not verify_fixture(path).passed


def test_command_line_passes_and_fails(shared_data: Path, tmp_path: Path, tpbench_inside: Inside) -> None:
    golden = shared_data / "golden"
    good = tpbench_inside("verify", "fixtures", str(golden))
    assert good.returncode == 0, good.stderr
    assert "ddtp-rhl-rec.npz" in good.stdout
    altered(golden / "bp.npz", tmp_path / "bp.npz", "s0/dW1", 1.001)
    bad = tpbench_inside("verify", "fixtures", str(tmp_path))
    assert bad.returncode == 1
    assert "gradients" in bad.stderr
    assert tpbench_inside("verify", "fixtures", str(tmp_path / "absent")).returncode == 2


def test_a_damaged_fixture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(TpbenchError, match=r"x\.npz"):
        verify_fixture(tmp_path / "x.npz")
