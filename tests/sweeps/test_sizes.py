"""How workers are shared by the work, and where sizes are measured. Without Ray; see test_gpus.py for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpbench.engine import TpbenchError
from tpbench.search.definition import SweepDefinition
from tpbench.search.packed_tpe import RANDOM_FIRST
from tpbench.sweeps import sizes
from tpbench.sweeps.nodes import Needs, NodeFindings
from tpbench.sweeps.sizes import SizeRequest, fitting_all, measure_on_nodes, share_workers
from tpbench.training.choice import CellChoice
from tpbench.training.sizing import Sizing


def search(trials: int = 100, halving: int = 0) -> SweepDefinition:
    return SweepDefinition("digits", "bp", "f" * 64, {}, trials, 27, tuple(range(10)), 0, 1, 1, halving=halving)


ONE = st.tuples(
    st.integers(1, 300),
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(1e-3, 1e3), min_size=1),
    st.sampled_from([0, 3]),
)


@given(st.lists(ONE, min_size=1, max_size=12), st.integers(1, 64))
def test_workers_are_shared_whatever_the_searches(
    searches: list[tuple[int, dict[int, float], int]], workers: int
) -> None:
    definitions = [search(trials, halving) for trials, _, halving in searches]
    shares = share_workers(definitions, [costs for _, costs, _ in searches], workers)
    full = []
    for (trials, costs, _), (pack, lag) in zip(searches, shares, strict=True):
        assert pack in costs
        assert lag >= 1
        most = max(0.6 * trials, RANDOM_FIRST)
        assert lag == 1 or lag * pack <= most
        full.append((lag + 1) * pack > most)
    # All workers are busy as long as all searches go on, unless each has all that it may have in flight.
    assert sum(lag for _, lag in shares) >= workers or all(full)
    assert shares == share_workers(definitions, [costs for _, costs, _ in searches], workers)


def test_a_search_whose_packs_last_longer_has_more_of_them_in_flight() -> None:
    shares = share_workers([search() for _ in range(10)], [{4: 9.0}, *[{4: 1.0}] * 9], 18)
    assert shares == [(4, 10), *[(4, 2)] * 9]
    # What it may not have goes to the others.
    shares = share_workers([search() for _ in range(10)], [{16: 9.0}, *[{4: 1.0}] * 9], 18)
    assert shares == [(16, 3), *[(4, 3)] * 9]


def test_a_search_that_would_end_last_has_smaller_packs() -> None:
    costs = {8: 1.2, 16: 1.0}
    assert share_workers([search() for _ in range(8)], [costs] * 8, 8) == [(16, 2)] * 8
    # It alone has half of the work: three packs of 16 in flight are not enough for its part of the workers.
    long = {size: 7 * cost for size, cost in costs.items()}
    assert share_workers([search() for _ in range(8)], [long, *[costs] * 7], 16)[0] == (8, 7)
    assert share_workers([search()], [costs], 64) == [(8, 7)]
    assert share_workers([search()], [costs], 1) == [(16, 2)]


def test_as_many_packs_in_flight_as_hyperopt_draws_at_random_in_any_case() -> None:
    assert share_workers([search(trials=6)], [{2: 1.0}], 3) == [(2, 4)]
    assert share_workers([search(trials=30)], [{4: 1.0}], 16) == [(4, 5)]


def test_the_sizes_that_fit_all_kinds_of_gpu() -> None:
    small, large = Sizing(8, 3, {4: 5.0, 8: 2.0}), Sizing(32, 2, {8: 1.0, 16: 0.7, 32: 0.5})
    assert fitting_all([large, small]) == Sizing(8, 2, {8: 2.0})
    assert fitting_all([large]) == large


class PlayedMeasurements:
    """Measures in place of Ray: by kind of GPU the nodes, and what each lacks of which sweep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, list[str]], lacks: dict[str, str]) -> None:
        self.kinds, self.lacks = kinds, lacks
        self.started: list[list[tuple[str, str, str]]] = []
        """Sweep, kind and node of all that ran at the same time."""
        self.running: list[tuple[SizeRequest, str, str]] = []
        self.cancelled = 0
        self.broken = 0
        """Number of measurements that end without an answer, the first ones."""
        hosts = {node: f"host-{node}" for nodes in kinds.values() for node in nodes}
        monkeypatch.setattr(sizes, "capable_nodes", lambda share: hosts)
        monkeypatch.setattr(sizes, "gpu_kinds", lambda share: kinds)
        monkeypatch.setattr(sizes, "Measurements", lambda share, say: self)

    def start(self, one: SizeRequest, kind: str, avoid: set[str]) -> None:
        nodes = self.kinds[kind] if kind else [node for nodes in self.kinds.values() for node in nodes]
        node = min(set(nodes) - avoid, default="new")
        self.running.append((one, kind, node))

    def results(self, enough: object) -> Iterator[tuple[SizeRequest, str, str, Sizing | str]]:
        self.started.append([(one.name, kind, node) for one, kind, node in self.running])
        while self.running:
            one, kind, node = self.running.pop()
            if self.broken:
                self.broken -= 1
                yield one, kind, "", "CUDA error"
                continue
            lack = self.lacks.get(f"{one.name} {node}")
            size = 8 if kind == "A100" else 16
            yield one, kind, node, lack or Sizing(size, costs={8: 2.0, size: 1.0})

    def cancel(self) -> None:
        self.cancelled += 1


def requests(*names: str, pack: int | None = None, gpus: int = 3) -> list[SizeRequest]:
    arguments: dict[str, Any] = {"pack": pack, "gpus": gpus, "trials": 100, "cells": len(names), "cpus": 4}
    arguments |= {"threads": 1, "device": "cuda" if gpus else "cpu", "precision": "float32"}
    return [SizeRequest(name, CellChoice.of("digits", "bp"), arguments) for name in names]


SHARE = {"cpu": 1.0, "gpu": 1.0}


def findings(lacks: dict[str, dict[str, str]] | None = None) -> NodeFindings:
    return NodeFindings(Needs((), None, "cuda", ""), lacks or {})


def test_all_sweeps_are_measured_at_once_on_each_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedMeasurements(monkeypatch, {"A100": ["a"], "H100": ["b", "c"]}, {})
    said: list[str] = []
    found = measure_on_nodes(requests("one", "other"), SHARE, findings(), said.append)
    assert len(played.started) == 1
    assert sorted(played.started[0]) == [
        (name, kind, node) for name in ("one", "other") for kind, node in (("A100", "a"), ("H100", "b"))
    ]
    # The smaller kind's.
    assert found == dict.fromkeys(("one", "other"), Sizing(8, costs={8: 2.0}))
    assert len(said) == 1
    assert "A100, H100" in said[0]


def test_sizes_are_measured_on_a_node_that_can_train_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedMeasurements(monkeypatch, {"": ["a", "b", "c"]}, {"one b": "no data"})
    known = findings({"a": {"one": "no plug-in"}, "c": {"other": "no plug-in"}})
    said: list[str] = []
    assert measure_on_nodes(requests("one"), SHARE, known, said.append)["one"].pack == 16
    assert played.started == [[("one", "", "b")], [("one", "", "c")]]
    assert known.lacks["b"] == {"one": "no data"}
    assert any("host-b" in line and "no data" in line for line in said)


def test_a_kind_that_cannot_train_a_sweep_has_no_say_in_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedMeasurements(monkeypatch, {"A100": ["a"], "H100": ["b"]}, {"one a": "no memory"})
    found = measure_on_nodes(requests("one", "other"), SHARE, findings(), lambda line: None)
    assert (found["one"].pack, found["other"].pack) == (16, 8)
    assert len(played.started[0]) == 4


@pytest.mark.parametrize(("kinds", "broken", "ends"), [(1, 2, False), (2, 3, False), (1, 3, True)])
def test_a_gpu_that_breaks_a_measurement_ends_no_command(
    monkeypatch: pytest.MonkeyPatch, kinds: int, broken: int, ends: bool
) -> None:
    played = PlayedMeasurements(monkeypatch, dict([("A100", ["a"]), ("H100", ["b"])][:kinds]), {})
    played.broken, known = broken, findings()
    if ends:
        with pytest.raises(TpbenchError, match="CUDA error"):
            measure_on_nodes(requests("one"), SHARE, known, lambda line: None)
        return
    assert measure_on_nodes(requests("one"), SHARE, known, lambda line: None)["one"].pack >= 8
    # Its node has other GPUs.
    assert known.lacks == {}


def test_where_no_node_can_measure_sizes_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = {"one b": "no data", "one c": "no data"}
    played = PlayedMeasurements(monkeypatch, {"A100": ["a"], "H100": ["b", "c"]}, lacks)
    with pytest.raises(TpbenchError) as raised:
        measure_on_nodes(requests("one"), SHARE, findings({"a": {"": "another tpbench"}}), lambda line: None)
    assert all(f"host-{node}" in str(raised.value) for node in "abc")
    assert played.cancelled == 1


def test_a_cluster_without_nodes_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedMeasurements(monkeypatch, {}, {})
    assert measure_on_nodes(requests("one", "other"), SHARE, findings(), lambda line: None)["other"].pack == 16
    assert played.started == [[("one", "", "new"), ("other", "", "new")]]


def test_a_pack_that_was_asked_for_is_measured_on_no_node_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedMeasurements(monkeypatch, {"": ["a"]}, {})
    found = measure_on_nodes(requests("one", pack=5, gpus=0), {"cpu": 1.0}, findings(), lambda line: None)
    assert found == {"one": Sizing(5)}
    assert not played.started


def test_a_kind_that_others_hold_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    said: list[str] = []
    measurements = sizes.Measurements(SHARE, said.append)
    (one,) = requests("one")
    measurements.running = {"first": (one, "H100"), "second": (one, "A100")}
    waits: list[object] = []

    def wait(calls: list[str], timeout: float) -> tuple[list[str], list[str]]:
        waits.append(timeout)
        return [call for call in calls if call == "first"], []

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda call: ("a", Sizing(8)))
    enough = iter([False, False, True])
    found = list(measurements.results(lambda: next(enough)))
    assert [(kind, size) for _, kind, _, size in found] == [("H100", Sizing(8))]
    # Once for the first place, then the result, and thrice for the other kind.
    assert len(waits) == 5
    assert len(said) == 1
    assert "A100" in said[0]
