"""Golden files: the engine computes their numbers, and a wrong engine or a wrong file is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SHARED, Inside
from tpbench.engine import METHODS, TpbenchError, UsageError
from tpbench.engine.golden import ALIASES, SHIPPED, GoldenFile, compare_golden_file, golden_files
from tpbench.engine.golden_rules import NOT_COVERED, RULE_FILES

FLOAT32_BOUNDS = {"gradients": 5e-6, "first step": 1e-6, "last step": 1e-6}


def check(path: Path, precision: torch.dtype, members: int) -> None:
    report = compare_golden_file(path, precision, members)
    assert report.passed, report
    if precision == torch.float32:
        assert [(q, report.errors[q]) for q, bound in FLOAT32_BOUNDS.items() if report.errors[q] > bound] == []


@pytest.mark.golden
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_every_golden_file(golden_path: Path, precision: torch.dtype, members: int) -> None:
    with np.load(golden_path, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
    if "sizes" not in meta:
        pytest.skip("the engine has no layers but dense ones")
    if golden_path.stem in NOT_COVERED:
        pytest.skip(NOT_COVERED[golden_path.stem])
    if golden_path.stem in RULE_FILES:
        report = compare_golden_file(golden_path, precision, members)
        assert report.passed, report
        assert {"gradients", "activities"} <= set(report.errors)
        return
    if ALIASES.get(meta["method"], meta["method"]) not in METHODS:
        pytest.skip(f"the engine has no method {meta['method']}")
    check(golden_path, precision, members)


@pytest.mark.data
def test_every_golden_file_of_the_field_is_compared_or_not_covered(shared_data: Path) -> None:
    names = {path.stem for path in golden_files(shared_data / "golden_rules")}
    assert names == set(RULE_FILES) | set(NOT_COVERED)


_ALTERED = {
    "kolen-pollack-tanh": "after1/Q2",
    "weight-mirror-tanh": "noise2",
    "usf": "s2/dW1",
    "frsf": "afterN/W2",
    "brsf": "M2",
    "fa-biotorch": "s1/db2",
    "dfa-biotorch": "B2",
    "fw-dtp": "s1/hhat1",
    "l-drl-tanh": "noise_y1",
    "dfc-ssa": "s1/dQ4",
    "dfc-ssa-plain": "afterN/b1",
    "pepita-tanh": "F",
}


@pytest.mark.data
@pytest.mark.parametrize("name", _ALTERED)
def test_a_deviation_of_a_millionth_fails_in_a_file_of_the_field(name: str, shared_data: Path, tmp_path: Path) -> None:
    assert set(_ALTERED) == set(RULE_FILES)
    path = alter(shared_data / "golden_rules" / f"{name}.npz", tmp_path / f"{name}.npz", _ALTERED[name], 1 + 1e-6)
    assert not compare_golden_file(path).passed


@pytest.mark.data
def test_the_command_compares_the_fields_files(shared_data: Path, tpbench_inside: Inside) -> None:
    ended = tpbench_inside("verify", "fixtures", str(shared_data / "golden_rules"))
    assert ended.returncode == 0, ended.stderr
    assert all(name in ended.stdout for name in (*RULE_FILES, *NOT_COVERED))


@pytest.mark.data
def test_the_authors_rules_have_golden_files(shared_data: Path) -> None:
    assert {GoldenFile(path).name for path in golden_files(shared_data / "golden")} == {
        *("bp", "dfa", "dtp", "dtpdrl", "ddtp-linear", "ddtp-rhl", "ddtp-rhl-rec", "ddtp-control", "gnt", "gnt-damped")
    }


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("path", golden_files(SHIPPED), ids=lambda path: path.stem)
def test_every_golden_file_of_the_package(path: Path, precision: torch.dtype, members: int) -> None:
    check(path, precision, members)
    folder = "golden_conv" if path.name.startswith("conv-") else "golden"
    beside = SHARED / folder / path.name.removeprefix("conv-")
    assert not beside.exists() or beside.read_bytes() == path.read_bytes()


def alter(source: Path, target: Path, name: str, factor: float) -> Path:
    """Copy a golden file with one array scaled."""
    with np.load(source, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = arrays[name] * factor
    np.savez(target, **arrays)
    return target


@pytest.mark.parametrize(
    "name", ["s0/h2", "s0/hhat2", "s0/dW3", "s0/rec_loss1", "s0/dQ2", "after1/W2", "afterN/Q1", "noise1"]
)
def test_a_deviation_of_a_millionth_fails(tmp_path: Path, name: str) -> None:
    path = alter(SHIPPED / "ddtp-linear.npz", tmp_path / "altered.npz", name, 1 + 1e-6)
    assert not compare_golden_file(path).passed


def test_a_gradient_that_is_wrong_in_float32_fails(tmp_path: Path) -> None:
    path = alter(SHIPPED / "dtp.npz", tmp_path / "altered.npz", "s0/dW2", 1.001)
    assert not compare_golden_file(path, torch.float32, 2).passed


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_command_passes_and_fails(precision: str, tmp_path: Path, tpbench_inside: Inside) -> None:
    good = tpbench_inside("verify", "fixtures", str(SHIPPED), "--precision", precision, "--pack", "2")
    assert good.returncode == 0, good.stderr
    assert "ddtp-linear.npz" in good.stdout
    alter(SHIPPED / "bp.npz", tmp_path / "bp.npz", "s0/dW1", 1.001)
    bad = tpbench_inside("verify", "fixtures", str(tmp_path), "--precision", precision)
    assert bad.returncode == 1
    assert "gradients" in bad.stderr


def test_a_folder_without_golden_files_is_refused(tmp_path: Path, tpbench_inside: Inside) -> None:
    assert tpbench_inside("verify", "fixtures", str(tmp_path / "absent")).returncode == 2
    assert tpbench_inside("verify", "fixtures", str(SHIPPED), "--precision", "bf16").returncode == 2
    with pytest.raises(UsageError):
        golden_files(tmp_path)


def test_a_damaged_golden_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(TpbenchError, match=r"x\.npz"):
        compare_golden_file(tmp_path / "x.npz")


def test_an_array_that_is_missing_is_named(tmp_path: Path) -> None:
    with np.load(SHIPPED / "bp.npz", allow_pickle=False) as file:
        np.savez(tmp_path / "x.npz", **{key: file[key] for key in file.files if key != "after1/W2"})
    with pytest.raises(TpbenchError, match="after1/W2"):
        compare_golden_file(tmp_path / "x.npz")
