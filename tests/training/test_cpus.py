"""The cores that may be used: affinity, and the quota of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.training.test_memory import write
from tpbench.sweeps.cluster import choose_resources
from tpbench.training import devices as cpus
from tpbench.training.devices import cpu_limit, limited_threads


@pytest.fixture(autouse=True)
def eight_of_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def version_1(quota: str, period: str = "100000", folder: str = "sys/fs/cgroup/cpu") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, 8),
        # Version 2: the smallest of a group and those around it.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "500000 100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "max 100000\n"}, 8),
        # What lies outside of what the container sees.
        ({"proc/self/cgroup": "0::/../box\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        # Rounded down, but at least one.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "390000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        # More than the process is bound to.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1200000 100000\n"}, 8),
        # Version 1, as docker mounts it and as a machine without containers does.
        ({"proc/self/cgroup": "3:cpu,cpuacct:/docker/1\n", **version_1("400000")}, 4),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job\n",
                **version_1("-1", folder="sys/fs/cgroup/cpu,cpuacct"),
                **version_1("100000", "50000", folder="sys/fs/cgroup/cpu,cpuacct/job"),
            },
            2,
        ),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/\n", **version_1("-1")}, 8),
        # Strange files are no limit.
        ({"proc/self/cgroup": "::\n0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000\n"}, 8),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000 0\n"}, 8),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], usable: int) -> None:
    found = cpu_limit(write(tmp_path, files))
    assert (found.usable, found.cores) == (usable, 16)
    assert found.reason == ("affinity" if usable == 8 else "cgroup quota")


def test_a_quota_limits_what_a_sweep_uses_and_torchs_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "cpu_limit", lambda: cpus.CpuLimit(1, 16, "cgroup quota"))
    assert choose_resources(None, None, None).cpus == 1
    assert choose_resources(5, None, None).cpus == 5
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1] if asked else 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with limited_threads():
        assert asked == [1]
    assert asked == [1, 8]
    with limited_threads(3):
        assert asked[2:] == [3]
    with limited_threads(9):
        assert asked[2:] == [3, 8]
    # What a person has set stays.
    asked.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    with limited_threads():
        assert asked == []
