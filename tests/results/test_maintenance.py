"""Checking, merging and exporting stores."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Inside
from tests.results.records import counts, record
from tpbench.results import RunStore


@pytest.fixture
def stores(tmp_path: Path) -> tuple[RunStore, RunStore]:
    """a has the seeds 0-2, b the seeds 2-4."""
    a, b = RunStore(tmp_path / "a"), RunStore(tmp_path / "b")
    for seed in range(3):
        a.publish(record(seed=seed))
        b.publish(record(seed=seed + 2))
    return a, b


def test_merge_copies_what_is_new(stores: tuple[RunStore, RunStore], tpbench_inside: Inside) -> None:
    _, b = stores
    before = {p.name: p.read_bytes() for p in b.runs.iterdir()}
    assert counts(tpbench_inside("results", "merge", "a", "b").stdout) == [2, 1]
    assert sorted(r.definition.seed for r in b.records()) == [0, 1, 2, 3, 4]
    assert {name: (b.runs / name).read_bytes() for name in before} == before
    assert counts(tpbench_inside("results", "merge", "a", "b").stdout) == [0, 3]
    assert tpbench_inside("results", "merge", "absent", "b").returncode == 2


def test_check_names_what_is_damaged_and_touches_nothing(
    stores: tuple[RunStore, RunStore], tpbench_inside: Inside
) -> None:
    a, _ = stores
    assert counts(tpbench_inside("results", "check", "--results", "a").stdout)[:2] == [3, 0]
    path = a.publish(record(seed=7))
    path.write_text(path.read_text()[:-9])
    result = tpbench_inside("results", "check", "--results", "a")
    assert result.returncode == 1
    assert path.name in result.stderr
    assert path.exists()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_export_has_a_row_per_run(
    stores: tuple[RunStore, RunStore], tmp_path: Path, tpbench_inside: Inside, form: str
) -> None:
    name = f"runs.{form}"
    result = tpbench_inside("results", "export", name, "--format", form, "--results", "a")
    assert result.returncode == 0, result.stderr
    frame = pd.read_csv(tmp_path / name) if form == "csv" else pd.read_parquet(tmp_path / name)
    assert sorted(frame.seed) == [0, 1, 2]
    assert frame.test_error.tolist() == pytest.approx([3.0] * 3)
    assert frame.hp_lr.tolist() == [1e-3] * 3
    assert tpbench_inside("results", "export", name, "--format", "xml").returncode == 2


def test_an_archive_holds_the_runs_and_comes_back(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(3):
        store.publish(record(seed=seed))
    assert counts(tpbench_inside("results", "pack", "runs.zip").stdout) == [3]
    first = (tmp_path / "runs.zip").read_bytes()
    tpbench_inside("results", "pack", "runs.zip")
    assert (tmp_path / "runs.zip").read_bytes() == first  # the same runs, the same bytes
    assert counts(tpbench_inside("results", "merge", "runs.zip", "back").stdout) == [3, 0]
    assert list(RunStore(tmp_path / "back").records()) == list(store.records())


@pytest.mark.parametrize("name", ["../../evil.json", "runs/../../evil.json", "/etc/evil.json", "runs/x.json"])
def test_an_archive_with_other_names_is_refused(tmp_path: Path, tpbench_inside: Inside, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        archive.writestr(name, "{}")
    result = tpbench_inside("results", "merge", "runs.zip", "into")
    assert result.returncode == 2
    assert "neither" in result.stderr
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"\x00" * 200])
def test_a_broken_archive_is_one_line(tmp_path: Path, tpbench_inside: Inside, content: bytes) -> None:
    (tmp_path / "runs.zip").write_bytes(content)
    result = tpbench_inside("results", "merge", "runs.zip", "into")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
