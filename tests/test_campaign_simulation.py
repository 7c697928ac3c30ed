"""``benchmarks/campaign.py``: what a simulated campaign keeps, whatever the cluster does. No clock, no Ray, no GPU."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from tests.test_benchmarks import script
from tpbench.engine import example_configuration, get_method
from tpbench.engine.step import PackState
from tpbench.search.brackets import Bracket
from tpbench.workloads import get_workload

SMALL = ("--cells", "digits:bp,digits:dfa,mnist:ddtp-linear", "--trials", "12", "--epochs", "12", "--seeds", "4")
ON_TWO_NODES = (*SMALL, "--nodes", "2", "--gpus-per-node", "4", "--pack", "3", "--lag", "3")


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    return script("campaign")


@pytest.fixture(scope="module")
def costs(campaign: ModuleType) -> Any:
    return campaign.PackCosts()


@pytest.fixture(scope="module")
def simulate(campaign: ModuleType, costs: Any) -> Any:
    """Simulate a command line; returns the simulation and its report."""

    def of(*arguments: object) -> Any:
        return campaign.simulate(campaign.parser().parse_args(list(map(str, arguments))), costs)

    return of


def journals(simulation: Any) -> list[list[tuple[Any, Any]]]:
    """Suggestions and outcomes of every sweep, pack by pack."""
    sweeps = [sweep for command in simulation.commands for sweep in command.sweeps]
    return [[(pack.suggestions, pack.outcomes) for pack in sweep.journal.packs] for sweep in sweeps]


def most_at_once(intervals: list[tuple[float, float]]) -> int:
    """Return how many intervals overlap at most; one that begins where another ends does not."""
    edges = sorted([(end, -1) for _, end in intervals] + [(begin, 1) for begin, _ in intervals])
    running = most = 0
    for _, change in edges:
        running += change
        most = max(most, running)
    return most


def check_rules(simulation: Any, numbers: Any, per_gpu: int = 1) -> None:
    """Check what holds of every campaign."""
    # Each pack is trained once: the search's and those of the final seeds.
    trained = Counter((span.campaign, span.sweep, span.key) for span in simulation.spans if span.result == "ended")
    assert set(trained.values()) == {1}
    for command in simulation.commands:
        for sweep in command.sweeps:
            assert sweep.done
            assert sweep.journal.ended_count == sweep.definition.trials
            seeds = [
                span.members
                for span in simulation.spans
                if (span.campaign, span.sweep) == (command.number, sweep.name)
                and span.key.startswith("final")
                and span.result == "ended"
            ]
            assert sum(seeds) == len(sweep.definition.seeds)
    # No GPU has more packs, or workers, at once than it may have, and each pack lies within a worker's time there.
    packs, workers = defaultdict(list), defaultdict(list)
    for span in simulation.spans:
        packs[span.gpu].append((span.begin, span.end))
    for hold in simulation.holds:
        workers[hold.gpu].append((hold.begin, hold.end))
    for gpu, spans in packs.items():
        assert most_at_once(spans) <= most_at_once(workers[gpu]) <= per_gpu
        assert all(any(b <= begin and end <= e for b, e in workers[gpu]) for begin, end in spans)
    # Nothing is lost in the sums.
    at_most = numbers.wall_minutes / 60 * per_gpu
    assert 0 < numbers.busy <= numbers.held + 1e-9
    assert numbers.held <= at_most * len(workers) + 1e-9
    assert numbers.search + numbers.final == pytest.approx(numbers.busy)
    assert numbers.packs + numbers.attempts_failed == len(simulation.spans)
    assert simulation.stalled == 0


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 999),
    faults=st.sampled_from(["", "gpu", "spot", "late", "gpu,spot", "node"]),
    halving=st.sampled_from([0, 3]),
    checkpoints=st.sampled_from([("2",), ("0",), ("5s", "--checkpoint-thread")]),
    bandwidth=st.sampled_from(["0.01", "2"]),
    campaigns=st.integers(1, 2),
)
def test_whatever_the_cluster_does_each_pack_is_trained_once(
    simulate: Any, seed: int, faults: str, halving: int, checkpoints: tuple[str, ...], bandwidth: str, campaigns: int
) -> None:
    simulation, numbers = simulate(
        *ON_TWO_NODES,
        *("--seed", seed, "--halving", halving, "--jitter", 0.5, "--campaigns", campaigns),
        *("--faults", faults, "--spot-minutes", 1, "--replace-minutes", 0.5, "--late-minutes", 0.5),
        *("--checkpoint-bandwidth", bandwidth, "--checkpoint-every", *checkpoints),
    )
    check_rules(simulation, numbers)
    assert numbers.sweeps_failed == 0


def test_packs_that_share_a_gpu_are_slower_and_no_more_than_it_may_have(simulate: Any) -> None:
    arguments = (*SMALL, "--nodes", 1, "--gpus-per-node", 1, "--trials", 40, "--pack", 2)
    simulation, shared = simulate(*arguments, "--mps")
    assert simulation.commands[0].resources.packs_per_gpu == 4
    check_rules(simulation, shared, per_gpu=4)
    assert max(Counter(round(hold.begin, 6) for hold in simulation.holds).values()) == 4
    alone = simulate(*arguments)[1]
    assert shared.busy > alone.busy
    assert shared.wall_minutes < alone.wall_minutes


def test_no_order_of_events_changes_a_journal(simulate: Any) -> None:
    """With equal pack and lag, searches are the same on any cluster, with any faults."""
    plainly = journals(simulate(*ON_TWO_NODES, "--halving", 3)[0])
    assert [len(packs) for packs in plainly] == [4, 4, 4]
    for others in (
        ("--jitter", 0.9),
        (
            "--faults",
            "gpu,spot",
            "--spot-minutes",
            1,
            "--replace-minutes",
            0.2,
            "--jitter",
            0.5,
            "--checkpoint-every",
            1,
        ),
        ("--nodes", 1, "--gpus-per-node", 1),
        ("--order", "longest", "--parts", 4),
    ):
        assert journals(simulate(*ON_TWO_NODES, "--halving", 3, *others)[0]) == plainly
    assert journals(simulate(*ON_TWO_NODES, "--halving", 3, "--seed", 1)[0]) != plainly
    assert journals(simulate(*ON_TWO_NODES, "--halving", 3, "--lag", 1)[0]) != plainly


def test_a_simulation_is_the_same_each_time(simulate: Any) -> None:
    faults = ("--faults", "spot", "--spot-minutes", 1, "--replace-minutes", 0.2)
    arguments = (*ON_TWO_NODES, *faults, "--jitter", 0.5, "--seed", 3)
    assert simulate(*arguments)[1] == simulate(*arguments)[1]


# Faults


@pytest.mark.parametrize(("nodes", "fault"), [(1, "gpu"), (4, "node"), (4, "gpu")])
def test_what_is_broken_loses_no_sweep_and_few_attempts(simulate: Any, nodes: int, fault: str) -> None:
    simulation, numbers = simulate(
        *SMALL, "--trials", 60, "--pack", 2, "--nodes", nodes, "--gpus-per-node", 8, "--faults", fault
    )
    assert numbers.sweeps_failed == 0
    assert 1 <= numbers.attempts_failed <= 20
    assert numbers.by_kind == {"raised": numbers.attempts_failed}
    broken = {span.gpu for span in simulation.spans if span.result == "raised"}
    assert all(gpu.startswith("node-1/") for gpu in broken)
    assert len(broken) == (1 if fault == "gpu" else 8)
    check_rules(simulation, numbers)


def test_a_lost_nodes_packs_go_on_from_their_checkpoints(simulate: Any) -> None:
    faults = ("--faults", "spot", "--spot-minutes", 1, "--replace-minutes", 0.2)
    arguments = (*ON_TWO_NODES, "--cells", "mnist:ddtp-rhl,mnist:dtp", "--epochs", 60, *faults)
    simulation, often = simulate(*arguments, "--checkpoint-every", 1)
    never = simulate(*arguments, "--checkpoint-every", 0)[1]
    assert often.nodes_lost >= 1
    assert often.by_kind["gone"] >= 1
    assert often.lost < never.lost
    assert often.busy < never.busy
    assert (never.checkpoints, never.checkpoint_gib) == (0, 0)
    # Others take the places of the lost ones.
    assert len({hold.gpu.partition("/")[0] for hold in simulation.holds}) > 2


def test_late_nodes_get_packs_when_they_are_there(simulate: Any) -> None:
    cells = ("--cells", "mnist:ddtp-rhl", "--lag", 9, "--pack", 1, "--trials", 40)
    simulation, _ = simulate(*ON_TWO_NODES, *cells, "--faults", "late", "--late-minutes", 0.4)
    late = [span.begin for span in simulation.spans if span.gpu.startswith("node-2")]
    assert min(late) >= 24
    assert min(span.begin for span in simulation.spans) < 24


# Checkpoints


def test_what_checkpoints_cost(simulate: Any) -> None:
    """The folder's bandwidth is that of all together, and those that wait for it train nothing."""
    arguments = (*ON_TWO_NODES, "--checkpoint-every", 2)
    free, slow = (simulate(*arguments, "--checkpoint-bandwidth", width)[1] for width in (1000, 0.05))
    assert free.checkpoints == slow.checkpoints > 0
    assert free.checkpoint_gib == slow.checkpoint_gib
    assert slow.wall_minutes > free.wall_minutes
    assert 60 * slow.wall_minutes >= slow.checkpoint_gib / 0.05
    assert slow.busy - slow.checkpoint_wait == pytest.approx(free.busy - free.checkpoint_wait)
    beside = simulate(*arguments, "--checkpoint-bandwidth", 0.05, "--checkpoint-thread")[1]
    assert beside.checkpoint_wait == 0
    assert beside.wall_minutes < slow.wall_minutes


def test_when_checkpoints_are_written(campaign: ModuleType) -> None:
    timeline = campaign.Timeline((10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0), (9,) * 7)

    def positions(every: str) -> list[int]:
        rule, position, found = campaign.Checkpoints.parse(every, None, own_thread=False), 0, []
        while (position := rule.next(timeline, position)) < 7:
            found.append(position)
        return found

    assert positions("3") == [3, 6]
    assert positions("7") == positions("0") == positions("80s") == []
    assert positions("25s") == [3, 6]
    assert positions("60s") == [6]


@pytest.mark.parametrize(
    ("workload", "method"), [("digits", "bp"), ("digits", "dfa"), ("digits", "ddtp-rhl-rec"), ("mnist-frozen", "dtp")]
)
def test_the_bytes_of_a_checkpoint_are_those_of_a_packs_state(campaign: ModuleType, workload: str, method: str) -> None:
    known, rule = get_workload(workload), get_method(method)
    pack = PackState(
        rule, known.architecture, [example_configuration(rule)], [0], trained=known.trained_layers, initialise=False
    )
    state = sum(t.numel() * t.element_size() for t in tree_leaves(pack.state()))
    tests = campaign.known_test_size(known.data)
    # The optimisers' step counters, and what lies between two arrays so that each begins where it should, are left out.
    assert campaign.parameter_bytes(known, method)[0] == pytest.approx(state + tests, rel=0.005)


# Costs


def test_the_fit_is_near_what_was_measured(costs: Any) -> None:
    assert len(costs.steps.errors) == 7
    assert max(map(abs, costs.steps.errors)) < 0.1
    assert max(map(abs, costs.steps.left_out_errors)) < 0.25
    assert min(costs.steps.coefficients) > 0
    with (Path(__file__).parents[1] / "benchmarks" / "h100.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    modelled = 1e3 * costs.steps.seconds(first["workload"], first["method"], "joint", int(first["pack"]))
    assert modelled == pytest.approx(float(first["milliseconds"]) * (1 + costs.steps.errors[0]))


def test_the_counted_launches_are_those_of_the_code() -> None:
    """Where a step was changed, ``python benchmarks/launches.py --csv`` counts anew."""
    launches = script("launches")
    with (Path(__file__).parents[1] / "benchmarks" / "launches.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    for method in ("bp", "ddtp-linear"):
        counted = [tuple(map(str, row)) for row in launches.csv_rows(get_workload("digits"), method)]
        assert counted == [row for row in rows if row[:2] == ("digits", method)]


def test_a_packs_time_is_that_of_its_epochs(costs: Any) -> None:
    """Members that stopped at a rung cost nothing after it; feedback epochs count."""
    workload, bracket = get_workload("mnist"), Bracket(9, 3, "validation_error")

    def epoch(kind: str, members: int) -> float:
        return float(costs.epoch(workload, "ddtp-linear", kind, members))

    joint = [9] + 2 * [3] + 6 * [1]
    # A feedback epoch follows each joint one but the last; the pack has been halved by then.
    between = joint[1:]
    expected = 6 * epoch("feedback", 9) + sum(epoch("joint", m) for m in joint)
    expected += sum(epoch("feedback", m) for m in between)
    timeline = costs.timeline(workload, "ddtp-linear", 9, 9, bracket)
    assert timeline.seconds == pytest.approx(expected)
    assert timeline.members[-1] == 1
    assert costs.timeline(workload, "ddtp-linear", 9, 9).seconds > timeline.seconds
    assert costs.timeline(workload, "ddtp-linear", 9, 9, None, 3).seconds == pytest.approx(
        3 * costs.timeline(workload, "ddtp-linear", 9, 3).seconds
    )


# Rules and the report


def test_the_rules_of_add40e1(simulate: Any) -> None:
    """Sizes of the review's table: packs of 1 on 64 GPUs, of 9 with halving, and finals split to the last seed."""
    arguments = ("--cells", "digits:all", "--epochs", 1, "--rules", "add40e1")
    plain = simulate(*arguments)[1]
    assert (plain.pack_sizes, plain.lags) == ([1], [math.ceil(64 / plain.sweeps) + 1])
    halved = simulate(*arguments, "--halving", 3)[1]
    assert halved.pack_sizes == [9]
    assert halved.packs > plain.sweeps * (12 + 7)


def test_idle_workers_are_held_by_the_old_rules_alone(simulate: Any) -> None:
    # Packs of very different lengths: those that follow wait for the oldest for minutes.
    cells = ("--cells", "mnist:ddtp-rhl,mnist:ddtp-rhl-extra-fb", "--epochs", 100)
    arguments = (*ON_TWO_NODES, *cells, "--trials", 48, "--lag", 4, "--jitter", 0.9, "--checkpoint-every", 0)
    now, before = (simulate(*arguments, "--rules", rules)[1] for rules in ("code", "add40e1"))
    assert now.held < before.held


def test_the_share_of_random_suggestions(simulate: Any) -> None:
    numbers = simulate(*SMALL, "--trials", 100, "--pack", 6, "--lag", 5, "--nodes", 2)[1]
    assert numbers.random_share == pytest.approx(0.30)
    assert simulate(*SMALL, "--trials", 100, "--pack", 6, "--lag", 1, "--nodes", 2)[1].random_share_largest == 0.2


def test_two_equal_campaigns_share_the_time(simulate: Any) -> None:
    simulation, numbers = simulate(*ON_TWO_NODES, "--campaigns", 2)
    assert sum(numbers.shares) == pytest.approx(1)
    assert len(numbers.walls) == 2
    assert numbers.sweeps == 6
    first, second = simulation.commands
    assert first.sweeps[0].journal.packs[0].suggestions != second.sweeps[0].journal.packs[0].suggestions


def test_the_command(campaign: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["campaign.py", *ON_TWO_NODES, "--faults", "gpu", "--campaigns", "2"])
    campaign.main()
    assert len(capsys.readouterr().out.splitlines()) >= 6
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    campaign.main()
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["busy"] <= numbers["held"]
    monkeypatch.setattr(sys, "argv", ["campaign.py", "--faults", "moon"])
    with pytest.raises(SystemExit):
        campaign.main()
