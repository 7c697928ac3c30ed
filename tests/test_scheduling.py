"""Several workers share the suite: the tests that start Ray go to one of them."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import pytest_xdist_make_scheduler
from tests.scheduling import BUILT_ONCE, RAY

ROOT = Path(__file__).parents[1]


class Worker:
    """Stands for a process that runs tests."""

    shutting_down = False

    def __init__(self) -> None:
        self.gateway = SimpleNamespace(id="worker")
        self.given: list[int] = []
        self.ended = 0

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def shared_out(names: list[str], dist: str) -> list[list[str]]:
    """What each of two workers runs."""
    config: Any = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=True), getvalue={"tx": ["2*popen"], "dist": dist}.__getitem__
    )
    scheduler = pytest_xdist_make_scheduler(config, None)
    workers = [Worker(), Worker()]
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, names)
    scheduler.schedule()
    while sum(worker.ended for worker in workers) < len(names):
        for worker in workers:
            if worker.ended < len(worker.given):
                scheduler.mark_test_complete(worker, worker.given[worker.ended])
                worker.ended += 1
    return [[names[index] for index in worker.given] for worker in workers]


def test_one_worker_runs_all_that_starts_ray_and_begins_with_it() -> None:
    of_ray = [name if "::" in name else f"{name}::test_{i}" for i in range(3) for name in RAY]
    of_ray = list(dict.fromkeys(of_ray))
    others = [f"tests/test_other.py::test_{i}" for i in range(40)]
    first, second = shared_out(others + of_ray, "loadgroup")
    assert first[: len(of_ray)] == of_ray
    assert not set(second) & set(of_ray)
    assert sorted(first + second) == sorted(others + of_ray)


def test_what_is_built_once_is_built_by_one_worker() -> None:
    tests = [f"{name}::test_{i}" for name in BUILT_ONCE for i in range(3)]
    workers = shared_out([f"tests/test_other.py::test_{i}" for i in range(40)] + tests, "loadgroup")
    for name in BUILT_ONCE:
        assert sum(any(test.startswith(name) for test in given) for given in workers) == 1


def test_what_is_listed_exists() -> None:
    for name in (*RAY, *BUILT_ONCE):
        path, _, function = name.partition("::")
        tests = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert not function or function in tests


def test_other_ways_to_share_are_left_to_pytest_xdist() -> None:
    config: Any = SimpleNamespace(getvalue={"dist": "load"}.__getitem__)
    assert pytest_xdist_make_scheduler(config, None) is None


def test_no_mark_is_trusted_to_group() -> None:
    marked = [path.name for path in (ROOT / "tests").rglob("*.py") if "xdist_group" in path.read_text()]
    assert marked == [Path(__file__).name]
