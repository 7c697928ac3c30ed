"""Training that keeps right and wrong of every test sample, and ``run --again`` for runs that were stored without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import CONFIGURATION
from tpbench.engine import Problem, Trainer, get_method
from tpbench.engine.network import squared_error
from tpbench.results import RunStore
from tpbench.results.networks import NETWORKS
from tpbench.training.choice import CellChoice
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings, plan_seeds
from tpbench.training.running import run_seeds
from tpbench.workloads import get_workload

BP = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def trainer(problem: Problem, epochs: int = 4, method: str = "bp") -> Trainer:
    return Trainer(get_method(method), problem, [CONFIGURATION] * 3, [0, 1, 2], epochs=epochs)


def test_the_kept_bits_are_those_of_the_selected_epoch(small_problem: Problem) -> None:
    made = trainer(small_problem)
    while not made.done:
        made.advance()
        for member, history in enumerate(made.histories):
            assert made.correct[member].shape == (len(small_problem.y_test),)
            assert 1 - made.correct[member].mean() == pytest.approx(history.at_selected("test_error"), abs=1e-12)


def test_a_checkpoint_holds_them(small_problem: Problem) -> None:
    made = trainer(small_problem)
    made.advance()
    state = made.checkpoint()
    other = trainer(small_problem)
    other.restore(state)
    assert all(np.array_equal(other.correct[p], made.correct[p]) for p in range(3))
    # One of version 0.2.0 has none, and the training goes on.
    del state["correct"]
    other = trainer(small_problem)
    other.restore(state)
    assert other.correct == {}
    other.advance()


def test_a_loss_that_classifies_nothing_keeps_none(small_problem: Problem) -> None:
    labels = torch.nn.functional.one_hot(small_problem.y_train, 3).float()
    tests = torch.nn.functional.one_hot(small_problem.y_test, 3).float()
    made = trainer(replace(small_problem, y_train=labels, y_test=tests, loss=squared_error))
    made.advance()
    assert made.correct == {}


def plan(seeds: tuple[int, ...] = (0, 1)) -> PackPlan:
    return plan_seeds(get_workload("digits"), "bp", BP, seeds, 3, {})


def settings(folder: Path, **changes: object) -> PackSettings:
    return replace(PackSettings(str(folder)), **changes)


@pytest.fixture
def trained(tmp_path: Path) -> RunStore:
    PackJob(plan(), settings(tmp_path, keep_networks=True)).run()
    return RunStore(tmp_path)


def strip(store: RunStore) -> dict[str, bytes]:
    """Take the predictions away, as version 0.2.0 wrote none; returns the files of the runs."""
    for path in store.runs.glob("*.bits"):
        path.unlink()
    return {path.name: path.read_bytes() for path in store.runs.iterdir()}


def test_runs_are_published_with_their_bits_and_the_day(trained: RunStore) -> None:
    for record in trained.records():
        found = trained.predictions(record)
        assert found is not None
        assert 1 - found.correct.mean() == pytest.approx(record.test_error, abs=1e-12)
        assert len(str(record.provenance["day"]).split("-")) == 3


def test_again_adds_bits_where_the_curves_are_equal(trained: RunStore) -> None:
    before = strip(trained)
    assert PackJob(plan(), settings(trained.folder)).missing == []
    job = PackJob(plan(), settings(trained.folder, again=True))
    assert len(job.missing) == 2
    job.run()
    assert {name: (trained.runs / name).read_bytes() for name in before} == before
    assert all(trained.predictions(record) for record in trained.records())
    assert not trained.replaced.exists()
    assert PackJob(plan(), settings(trained.folder, again=True)).missing == []


def test_again_replaces_run_bits_and_network_where_they_differ(trained: RunStore) -> None:
    strip(trained)
    first, second = trained.records()
    # As another processor would have trained it.
    other = replace(first, curves={**first.curves, "test_loss": [v + 1e-9 for v in first.curves["test_loss"]]})
    trained.path(first.definition.id).write_text(other.to_json())
    found = run_seeds(
        CellChoice.of("digits", "bp"), BP, {}, (0, 1), 3, settings(trained.folder, again=True), progress=False
    )
    by_id = {record.definition.id: record for record in found}
    assert by_id[first.definition.id].curves == first.curves
    assert by_id[first.definition.id].replaces == (other.curves_digest,)
    assert by_id[second.definition.id].replaces == ()
    aside = sorted(path.suffix for path in trained.replaced.iterdir())
    assert aside == [".json"]
    fresh = RunStore(trained.folder)
    assert all(fresh.predictions(record) for record in fresh.records())
    assert fresh.damaged == []
    # The network of this training was there already.
    assert len(NETWORKS.names_in(fresh.folder)) == 2


def test_again_passes_over_runs_that_diverged_at_once(tmp_path: Path) -> None:
    wild = plan_seeds(get_workload("digits"), "bp", {**BP, "lr": 1e30}, (0,), 3, {})
    PackJob(wild, settings(tmp_path)).run()
    (record,) = RunStore(tmp_path).records()
    if record.history.selected_epoch is not None:
        pytest.skip("it survived an epoch here")
    assert PackJob(wild, settings(tmp_path, again=True)).missing == []
