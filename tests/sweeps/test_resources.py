"""What a sweep may use: shares of cores and GPUs, addresses, and how packs share a GPU."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine import TpbenchError, UsageError
from tpbench.sweeps import jobs
from tpbench.sweeps.cluster import Resources, check_address, choose_resources, ray_running, require_cluster_path
from tpbench.sweeps.jobs import check_jobs_address, job_command
from tpbench.training import sizing
from tpbench.training.sizing import choose_sizes, share_gpu
from tpbench.workloads import WORKLOADS, get_workload


@given(st.integers(1, 64), st.integers(0, 16), st.integers(1, 4), st.booleans())
def test_shares_fit_the_machine(cpus: int, gpus: int, per_gpu: int, cluster: bool) -> None:
    resources = Resources(cpus, gpus, per_gpu, "auto" if cluster else None, node_cpus=8 if cluster else None)
    share, concurrent = resources.share, resources.concurrent
    assert share["cpu"] >= 1
    assert share["cpu"] * concurrent <= max(cpus, concurrent)
    if cluster:
        assert share["cpu"] <= 8
    if gpus:
        assert 0 < share["gpu"] <= 1
        assert share["gpu"] * concurrent <= gpus + 1e-9
    else:
        assert "gpu" not in share


def test_packs_share_a_gpu_by_memory_and_by_work() -> None:
    gib = 2**30
    assert share_gpu(2 * gib, 80 * gib, trials=1000, pack=4, gpus=1) == 4  # never more than four
    assert share_gpu(20 * gib, 80 * gib, trials=1000, pack=4, gpus=1) == 2  # 60 % of the memory holds two
    assert share_gpu(60 * gib, 80 * gib, trials=1000, pack=4, gpus=1) == 1
    assert share_gpu(2 * gib, 80 * gib, trials=16, pack=4, gpus=1) == 1  # nothing for a second one to do
    assert share_gpu(None, 80 * gib, trials=1000, pack=4, gpus=1) == 1
    assert Resources(8, 2, 3).concurrent == 6
    assert Resources(8, 2, 3).share["gpu"] == pytest.approx(1 / 3)


def test_sizes_are_measured_with_the_pack_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(workload: object, method: str, pack: int, *a: object, **k: object) -> object:
        asked.append(pack)
        return type("Row", (), {"peak_memory": 2**30, "member_epochs_per_second": 1.0, "phases": {}})()

    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "free_memory", lambda device: 80 * 2**30)
    monkeypatch.setattr(sizing, "require_gpu", lambda device: None)
    monkeypatch.setattr(sizing, "has_mps", lambda: True)
    options = {"trials": 400, "cells": 1, "cpus": 8, "threads": 1, "device": "cuda", "precision": "float32"}
    found = choose_sizes(WORKLOADS["mnist"], "bp", pack=7, gpus=2, **options)  # type: ignore[arg-type]
    assert (found.pack, found.packs_per_gpu) == (7, 4)
    assert asked == [7]
    assert choose_sizes(WORKLOADS["mnist"], "bp", pack=7, gpus=0, **options).packs_per_gpu == 1  # type: ignore[arg-type]
    monkeypatch.setattr(sizing, "has_mps", lambda: False)
    assert choose_sizes(WORKLOADS["mnist"], "bp", pack=7, gpus=2, **options).packs_per_gpu == 1  # type: ignore[arg-type]


def play_gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """A GPU with so many GiB free, of which a member takes one; the larger a pack, the cheaper a member."""

    def measure(workload: object, method: str, pack: int, *a: object, **k: object) -> object:
        fields = {"peak_memory": pack * 2**30, "member_epochs_per_second": float(pack), "phases": {}}
        return type("Row", (), fields)()

    for name in ("require_gpu", "release_memory"):
        monkeypatch.setattr(sizing, name, lambda device: None)
    monkeypatch.setattr(sizing, "measure", measure)
    monkeypatch.setattr(sizing, "free_memory", lambda device: free * 2**30)


def test_packs_that_share_gpus_leave_each_other_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    play_gpu(monkeypatch, free=80)
    options = {"pack": None, "cells": 1, "cpus": 8, "threads": 1, "device": "cuda", "precision": "float32"}

    def sizes(trials: int, gpus: int, mps: bool) -> tuple[int, int]:
        monkeypatch.setattr(sizing, "has_mps", lambda: mps)
        found = choose_sizes(WORKLOADS["mnist"], "bp", trials=trials, gpus=gpus, **options)  # type: ignore[arg-type]
        return found.pack, found.packs_per_gpu

    assert sizes(200, 1, mps=True) == (8, 4)  # 16 packs of 12 at least
    assert sizes(10_000, 1, mps=True) == (8, 4)  # a quarter of 48 GiB each
    assert sizes(10_000, 8, mps=False) == (32, 1)  # every GPU has its own


def test_mps_is_where_its_clients_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not sizing.has_mps()
    (tmp_path / "control").touch()
    assert sizing.has_mps()


@pytest.mark.parametrize("address", [None, "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses(address: str | None) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address", ["head", "head:0", "head:99999", "http://head:8265", "ray://head:10001", ":6379", "a b:1", ""]
)
def test_wrong_addresses_are_named(address: str) -> None:
    with pytest.raises(UsageError, match="write 'auto' or HOST:PORT"):
        check_address(address)


def test_what_a_cluster_has_is_found_out_there() -> None:
    assert choose_resources(None, None, "auto") == Resources(0, -1, address="auto")
    assert choose_resources(4, 2, "auto") == Resources(4, 2, address="auto")
    with pytest.raises(UsageError, match="torch sees"):
        choose_resources(None, 99, None)


@pytest.mark.parametrize("address", ["http://head:8265", "https://head", "http://127.0.0.1:8265/"])
def test_dashboards(address: str) -> None:
    assert check_jobs_address(address) == address


@pytest.mark.parametrize("address", ["head:8265", "ftp://head", "http://", "http://a/b/c", "http://user:secret@head"])
def test_wrong_dashboards_are_named(address: str) -> None:
    with pytest.raises(UsageError, match="dashboard"):
        check_jobs_address(address)


def test_a_job_needs_results_that_outlive_it() -> None:
    assert "--address auto" in job_command(["digits", "bp", "--results", "s3://a/b"], "s3://a/b")
    assert "--results '/a b' --address" in job_command(["digits", "bp", "--results", "/a b"], "/a b")
    with pytest.raises(UsageError, match="absolute path"):
        require_cluster_path("results")


def test_workloads_of_files_travel_with_a_job(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=np.arange(80.0).reshape(20, 4), y=np.arange(20) % 2)
    own, like = tmp_path / "own.yaml", tmp_path / "like.yaml"
    own.write_text("name: own\ndata: own.npz\ntest: 0.2\nnetwork: [3]\nbatch_size: 4\n")
    like.write_text("name: like\nlike: digits\nnetwork: [5]\n")
    words = f"{own},digits,{like}"
    command = job_command([words, "bp", "--results", "/shared"], "/shared").split()
    assert command[command.index("sweep") + 1] == "workload-0.yaml,digits,workload-1.yaml"
    with jobs._code({}, jobs.workloads_of_files(words)) as folder:
        carried = [get_workload(str(folder / f"workload-{number}.yaml")) for number in range(2)]
    assert carried == [get_workload(str(own)), get_workload(str(like))]


def test_a_cluster_of_other_versions_is_said_with_all_four(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private.utils import check_version_info

    def init(**_: object) -> None:
        check_version_info({"ray_version": "2.58.1", "python_version": "3.11.99"}, "10.0.0.7")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(TpbenchError) as raised, ray_running(Resources(0, address="head:6379")):
        pass
    text = str(raised.value)
    versions = ("2.58.1", "3.11.99", ray.__version__, platform.python_version())
    assert all(word in text for word in ("head:6379", *versions))
    assert "\n" not in text


def test_files_of_space_and_start_travel_with_a_job(tmp_path: Path) -> None:
    space, start = tmp_path / "s.yaml", tmp_path / "k.yaml"
    space.write_text("a space")
    start.write_text("configurations")
    arguments = ["digits", "bp", "--space", str(space), f"--start={start}", "--results", "/shared"]
    command = job_command(arguments, "/shared")
    assert "--space space.yaml --start=start.yaml --results /shared" in command
    with jobs._code(jobs.carried_files([str(space)], str(start)), []) as folder:
        assert [(folder / name).read_text() for name in ("space.yaml", "start.yaml")] == ["a space", "configurations"]
    assert "--start start.yaml --address" in job_command(["digits", "bp", "--start", "a=b.yaml"], "/shared")
    for words in (["--start", "published"], ["--start=published"]):
        assert " ".join(words) in job_command(["digits", "bp", *words], "/shared")
    assert jobs.carried_files([], "published") == {}
    two = job_command(["digits", "bp,dtp", "--space", "a.yaml", "--space=b.yaml"], "/shared")
    assert "--space space.yaml --space=space-1.yaml --address" in two
    assert list(jobs.carried_files(["a.yaml", "b.yaml"], None)) == ["space.yaml", "space-1.yaml"]
