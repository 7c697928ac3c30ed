"""Members of a pack may end in any way: the others are published as if they had been alone, and all can be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import CONFIGURATION, Inside
from tpbench.engine import METHODS, Method, Minibatch, Problem, TpbenchError, Trainer
from tpbench.engine.methods import gradient_targets
from tpbench.results import RunStore
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.spaces import space_for
from tpbench.training import pack as packs
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings
from tpbench.workloads import WORKLOADS

HEALTHY = {k: CONFIGURATION[k] for k in METHODS["ddtp-linear"].hyperparameters} | {
    "lr_eta": 2e-3,
    "fb_pretrain_epochs": 1,
    "fb_epochs_between": 0,
}
ENDS: dict[str, tuple[dict[str, float], str]] = {
    "healthy": ({}, "finished"),
    "in feedback pretraining": ({"sigma": 1e-25}, "diverged"),
    "in the first epoch": ({"lr_eta": 1e30}, "diverged"),
    "later": ({}, "diverged"),  # by the fixture below: its seed is 99
    "pruned": ({"lr_eta": 1e-12, "sigma": 0.051}, "pruned"),
}
EPOCHS = 3


@pytest.fixture
def small(small_problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """digits is the small problem, prunes after two epochs, and seed 99 becomes non-finite in the last epoch."""
    dataset = SimpleNamespace(fingerprint="f" * 64, label="")
    monkeypatch.setattr(packs, "load_problem", lambda *_: (small_problem, dataset))
    monkeypatch.setitem(WORKLOADS, "digits", replace(WORKLOADS["digits"], prune=(2, 0.5)))
    advance = Trainer.advance

    def poisoned(trainer: Trainer) -> Any:
        if trainer.position == len(trainer.phases) - 1 and 99 in trainer.pack.seeds:
            trainer.pack.forward["W1"][list(trainer.pack.seeds).index(99)] = torch.nan
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", poisoned)


def plan_of(members: list[tuple[str, int]]) -> PackPlan:
    configurations = tuple({**HEALTHY, **ENDS[end][0]} for end, _ in members)
    seeds = tuple(99 if end == "later" else seed for end, seed in members)
    return PackPlan(WORKLOADS["digits"], "ddtp-linear", configurations, seeds, EPOCHS, prune=True)


@pytest.mark.usefixtures("small")
@settings(
    phases=[Phase.generate],
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    members=st.lists(st.tuples(st.sampled_from(sorted(ENDS)), st.integers(0, 2)), min_size=1, max_size=5),
    fitting=st.integers(1, 5),
)
def test_healthy_members_are_published_as_if_alone(
    tmp_path: Path, members: list[tuple[str, int]], fitting: int
) -> None:
    shutil.rmtree(tmp_path / "together", ignore_errors=True)
    train = PackJob._train

    def limited(job: PackJob, *arguments: Any) -> Any:
        if len(job.missing) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(job, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackJob, "_train", limited)
        outcomes = PackJob(plan_of(members), PackSettings(str(tmp_path / "together"))).run()
    assert [outcome.status for outcome in outcomes] == [ENDS[end][1] for end, _ in members]
    together, alone = RunStore(tmp_path / "together"), RunStore(tmp_path / "alone")
    for member, outcome in zip(members, outcomes, strict=True):
        (single,) = PackJob(plan_of([member]), PackSettings(str(tmp_path / "alone"))).run()
        assert (single.run, single.status) == (outcome.run, outcome.status)
        one, other = together.read(outcome.run), alone.read(outcome.run)
        assert (one is None) == (other is None) == (outcome.status == "pruned")
        if one and other:
            assert (one.definition, one.status) == (other.definition, other.status)
            # Products this small are summed in another order in a larger pack, whether its members fail or not.
            assert one.curves.keys() == other.curves.keys()
            for name in one.curves:
                assert one.curves[name] == pytest.approx(other.curves[name], rel=1e-4, abs=0.02), name
    again = PackJob(plan_of(members), PackSettings(str(tmp_path / "together"))).run()
    assert [outcome.status for outcome in again] == [outcome.status for outcome in outcomes]


@pytest.fixture
def mixed_store(small: None, tmp_path: Path) -> str:
    """A store with runs that ended in every way, and a sweep that tells of them."""
    results = tmp_path / "results"
    members = [(end, 0) for end in ENDS]
    outcomes = PackJob(plan_of(members), PackSettings(str(results))).run()
    definition = SweepDefinition(
        "digits", "ddtp-linear", "f" * 64, space_for("ddtp-linear").describe(), 6, EPOCHS, (0,), 0, 5, 1
    )
    folder = SweepFolder(results / "sweeps" / definition.id)
    _, journal = folder.begin(definition, {})
    journal.add_pack([{"sigma": {**HEALTHY, **ENDS[end][0]}["sigma"]} for end, _ in members])
    journal.end_pack(0, outcomes)
    journal.add_pack([{"sigma": 0.1}])
    journal.end_pack(1, [])
    return definition.id


@pytest.mark.parametrize("only", [None, "in feedback pretraining"])
def test_every_reading_command_takes_every_end(
    mixed_store: str, tpbench_inside: Inside, tmp_path: Path, only: str | None
) -> None:
    if only:  # a store whose single run has no epoch at all
        for path in (tmp_path / "results" / "runs").iterdir():
            if json.loads(path.read_text())["curves"]:
                path.unlink()
    commands = [
        "leaderboard",
        "leaderboard --format md",
        "leaderboard --write",
        "table 1",
        "table s6 --format latex",
        "table overview",
        "table epochs --baseline ddtp-linear",
        "table 1 --format csv",
        "plot forest digits",
        "plot cost digits",
        f"plot search {mixed_store}",
        "report",
        "results check",
        "results export runs.csv",
        "results export runs.parquet --format parquet",
        "results pack runs.zip",
        "results merge runs.zip other",
        "sweeps",
    ]
    for command in commands:
        ended = tpbench_inside(*command.split())
        assert ended.returncode == 0, (command, ended)
        assert "nan" not in ended.stdout, command
    for command in ("plot curves digits", "compare ddtp-linear bp", "compare ddtp-linear dfa --baseline ddtp-linear"):
        ended = tpbench_inside(*command.split())
        assert ended.returncode in (0, 1), (command, ended)
        assert ended.stderr.count("\n") <= 1, (command, ended)


def write(tmp_path: Path, **changes: float) -> str:
    given = {name: CONFIGURATION[name] for name in METHODS["ddtp-linear"].hyperparameters} | changes
    (tmp_path / "c.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    return "c.yaml"


def test_a_run_all_of_whose_seeds_diverge_fails(tpbench_inside: Inside, tmp_path: Path) -> None:
    arguments = ("digits", "ddtp-linear", "--config", write(tmp_path, sigma=1e-25), "--epochs", "1", "--seeds", "0-1")
    for _ in range(2):  # trained, and from the store
        ended = tpbench_inside("run", *arguments)
        assert ended.returncode == 1
        assert "all of 2 seeds" in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert [record.status for record in RunStore(tmp_path / "results").records()] == ["diverged"] * 2
    aligned = tpbench_inside("align", *arguments)
    assert aligned.returncode == 1
    assert (aligned.stderr.count("diverged"), aligned.stderr.count("\n")) == (1, 1)


def test_align_and_run_without_enough_memory_fail(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trainer: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "advance", full)
    ended = tpbench_inside("align", "digits", "ddtp-linear", "--config", write(tmp_path), "--epochs", "1")
    assert ended.returncode == 1
    assert "1 seeds" in ended.stderr
    alone = tpbench_inside("run", "digits", "ddtp-linear", "--config", write(tmp_path), "--seeds", "0-2")
    assert alone.returncode == 1
    assert "memory" in alone.stderr


def test_diverged_seeds_do_not_enter_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.results.records import record
    from tpbench.cli.app import print_records

    gone = [record("bp", seed, [0.5], status="diverged") for seed in (2, 3)]
    print_records([record("bp", 0, [0.01]), record("bp", 1, [0.03]), gone[0]], "bp", "digits")
    printed = capsys.readouterr().out
    assert "3.00 ± 1.41 %" in printed
    assert "1 diverged" in printed
    with pytest.raises(TpbenchError, match="diverged"):
        print_records(gone, "bp", "digits")


@pytest.mark.parametrize("command", ["run", "align"])
def test_hidden_layers_without_update_are_one_warning(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def upper_only(batch: Minibatch) -> list[Tensor]:
        return [target * (i > 1) for i, target in enumerate(gradient_targets(batch), start=1)]

    rule = Method("Idle", "trains no first layer", upper_only, METHODS["bp"].hyperparameters)
    monkeypatch.setitem(METHODS, "idle", rule)
    (tmp_path / "c.yaml").write_text("lr: 1.0e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    ended = tpbench_inside(command, "digits", "idle", "--config", "c.yaml", "--seeds", "0", "--epochs", "2")
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout + ended.stderr).count("warning: Idle") == 1
