"""Free memory counts the page cache as free, and a container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tpbench.workloads import memory

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 16 * GIB

    monkeypatch.setattr(psutil, "virtual_memory", Memory)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, limit: object, used: int, cached: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {cached}\n",
    }


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    """As on macOS."""
    assert memory.available_memory(tmp_path) == 16 * GIB


def test_linux_says_what_the_machine_has_without_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "virtual_memory")
    files = {"proc/meminfo": f"MemTotal: {8 * 2**20} kB\nMemAvailable:    {3 * 2**20} kB\n"}
    assert memory.available_memory(write(tmp_path, files)) == 3 * GIB


def test_the_narrowest_group_of_version_2_counts_and_its_page_cache_is_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        **group("sys/fs/cgroup/job", 4 * GIB, 3 * GIB, GIB),
        **group("sys/fs/cgroup/job/step", "max", 2 * GIB),
    }
    assert memory.available_memory(write(tmp_path, files)) == 2 * GIB


def test_a_container_that_sees_its_own_group_as_the_outermost(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", GIB, 2 * GIB)}
    assert memory.available_memory(write(tmp_path, files)) == 0


def test_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "7:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n",
        # As docker mounts it: the container's own group, under no path.
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}\n",
    }
    assert memory.available_memory(write(tmp_path, files)) == 2 * GIB


def test_strange_files_are_no_limit(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "nonsense\n::\n0::/a\n", "sys/fs/cgroup/a/memory.max": "-\n"}
    assert memory.available_memory(write(tmp_path, files)) == 16 * GIB


def test_what_the_kernel_killed_is_counted_in_the_group_of_this_process_or_in_the_system(tmp_path: Path) -> None:
    assert memory.oom_kills(tmp_path) == 0
    files = {
        "proc/vmstat": "nr_free_pages 1\noom_kill 2\n",
        "proc/self/cgroup": "5:memory:/job\n0::/job/step\n",
        "sys/fs/cgroup/job/step/memory.events": "low 0\noom 4\noom_kill 3\noom_group_kill 9\n",
        "sys/fs/cgroup/job/memory.events": "oom_kill 4\n",
        "sys/fs/cgroup/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
    }
    for count, name in ((3, "job/step/memory.events"), (4, "job/memory.events"), (5, "memory/job/memory.oom_control")):
        assert memory.oom_kills(write(tmp_path, files)) == count
        (tmp_path / "sys/fs/cgroup" / name).unlink()
        del files[f"sys/fs/cgroup/{name}"]
    assert memory.oom_kills(tmp_path) == 2
