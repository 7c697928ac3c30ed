"""Training a pack to published runs, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CONFIGURATION
from tests.results.records import record
from tests.training.memory import allow_one_member
from tpbench.engine import METHODS, EpochReport, TpbenchError, UsageError
from tpbench.results import RunStore
from tpbench.results.runs import PUBLISHED
from tpbench.search.brackets import Bracket
from tpbench.training.devices import choose_device
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackPlan, PackSettings, find_run, plan_seeds
from tpbench.workloads import WORKLOADS


def digits_plan(method: str = "ddtp-linear", seeds: tuple[int, ...] = (0, 1), epochs: int = 3) -> PackPlan:
    given = {k: CONFIGURATION[k] for k in METHODS[method].hyperparameters}
    configuration = WORKLOADS["digits"].complete(METHODS[method], given)
    return plan_seeds(WORKLOADS["digits"], method, configuration, seeds, epochs, PUBLISHED)


class InterruptedTrainingError(Exception):
    pass


OPTIONS = {"command": "run", "workload": "digits", "method": "ddtp-linear", "epochs": 3, "results": "/a/b"}


def test_runs_are_published_with_curves_and_provenance(tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    settings = PackSettings(str(tmp_path), options=OPTIONS)
    outcomes = PackJob(digits_plan(), settings).run(reports.append)
    records = {r.definition.id: r for r in RunStore(tmp_path).records()}
    assert [o.run for o in outcomes] == [d.id for d in PackJob(digits_plan(), settings).definitions]
    for outcome in outcomes:
        record = records[outcome.run]
        assert record.status == outcome.status == "finished"
        assert {len(values) for values in record.curves.values()} == {3}
        assert record.test_error == outcome.test_error
        assert record.provenance["command"] == "tpbench run digits ddtp-linear --epochs 3"
        assert record.provenance["options"] == {
            name: OPTIONS[name] for name in ("command", "workload", "method", "epochs")
        }
        assert record.provenance["precision"] == "float32"
        assert record.pack_members == 2
        assert record.search_info == PUBLISHED
        assert record.wall_time_s > 0
    # 2 pretraining epochs, 3 joint ones, 1 feedback epoch between each.
    assert [r.phase.kind for r in reports] == ["feedback"] * 2 + ["joint", "feedback", "joint", "feedback", "joint"]
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    settings = PackSettings(str(tmp_path))
    first = PackJob(digits_plan(seeds=(0, 1)), settings).run()
    job = PackJob(digits_plan(seeds=(1, 2)), settings)
    assert [d.seed for d in job.missing] == [2]
    assert job.run()[0] == first[1]
    again = PackJob(digits_plan(seeds=(0, 1, 2)), settings)
    assert again.missing == []
    assert again.run()[:2] == first


def test_an_interrupted_pack_continues_from_its_checkpoint_to_the_same_runs(tmp_path: Path) -> None:
    plan = digits_plan(method="ddtp-rhl")
    undisturbed = PackJob(plan, PackSettings(str(tmp_path / "a"))).run()

    def stop(report: EpochReport) -> None:
        if report.done == 4:
            raise InterruptedTrainingError

    settings = PackSettings(str(tmp_path / "b"), checkpoint_every=3)
    with pytest.raises(InterruptedTrainingError):
        PackJob(plan, settings).run(stop)
    assert len(list((tmp_path / "b" / "checkpoints").glob("*.pt"))) == 1
    done: list[int] = []
    assert PackJob(plan, settings).run(lambda report: done.append(report.done)) == undisturbed
    assert done[0] == 4  # epochs 1-3 are in the checkpoint
    for store in ("a", "b"):
        curves = [r.curves for r in RunStore(tmp_path / store).records()]
        assert curves == [r.curves for r in RunStore(tmp_path / "a").records()]


def test_a_damaged_checkpoint_costs_its_epochs_only(tmp_path: Path) -> None:
    settings = PackSettings(str(tmp_path), checkpoint_every=1)
    job = PackJob(digits_plan(), settings)
    job.checkpoint_path.parent.mkdir()
    job.checkpoint_path.write_bytes(b"not a checkpoint")
    assert [o.status for o in job.run()] == ["finished", "finished"]


def test_equal_members_are_trained_once(tmp_path: Path) -> None:
    outcomes = PackJob(digits_plan(seeds=(5, 5)), PackSettings(str(tmp_path))).run()
    assert outcomes[0] == outcomes[1]
    assert len(list(RunStore(tmp_path).records())) == 1


def test_a_pack_that_does_not_fit_is_trained_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = digits_plan(seeds=(0, 1, 2))
    expected = [o.run for o in PackJob(plan, PackSettings(str(tmp_path / "a"))).run()]
    allow_one_member(monkeypatch)
    assert [o.run for o in PackJob(plan, PackSettings(str(tmp_path / "b"))).run()] == expected
    assert "3 members" in caplog.text
    assert {r.pack_members for r in RunStore(tmp_path / "b").records()} == {1}


def test_a_sweep_is_not_trained_on_other_data_than_it_began_with(tmp_path: Path) -> None:
    plan = replace(digits_plan(seeds=(0,)), fingerprint="f" * 64)
    with pytest.raises(TpbenchError, match="ffffffff"):
        PackJob(plan, PackSettings(str(tmp_path)))


def test_a_sweep_is_not_trained_with_another_rule_than_it_began_with(tmp_path: Path) -> None:
    """A package's rule that is edited while a sweep runs: workers that start later import the new one."""
    plan = replace(digits_plan(seeds=(0,)), method_source="mypackage 1.0 0123456789abcdef")
    with pytest.raises(TpbenchError, match="0123456789abcdef"):
        PackJob(plan, PackSettings(str(tmp_path)))


def test_a_search_prunes_runs_that_the_store_has_like_others(tmp_path: Path) -> None:
    """Its outcome must not depend on what else was trained."""
    given = {k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}
    plan = PackPlan(WORKLOADS["digits"], "bp", ({**given, "lr": 1e-9}, given), (0, 0), 8, prune=True)
    alone = PackJob(plan, PackSettings(str(tmp_path / "a"))).run()
    settings = PackSettings(str(tmp_path / "b"))
    PackJob(replace(plan.part(slice(0, 1)), prune=False), settings).run()
    assert PackJob(plan, settings).run() == alone
    assert [o.status for o in alone] == ["pruned", "finished"]


def test_pruned_runs_are_reported_but_not_published(tmp_path: Path) -> None:
    given = {k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}
    plan = PackPlan(WORKLOADS["digits"], "bp", ({**given, "lr": 1e-9}, given), (0, 0), 8, prune=True)
    outcomes = PackJob(plan, PackSettings(str(tmp_path))).run()
    assert [o.status for o in outcomes] == ["pruned", "finished"]
    assert [r.definition.id for r in RunStore(tmp_path).records()] == [outcomes[1].run]


def test_a_run_that_diverges_in_its_first_epoch_is_published_as_such(tmp_path: Path) -> None:
    plan = digits_plan(seeds=(0,), epochs=1)
    (configuration,) = plan.configurations
    wild = {**configuration, "lr_fb": 9e30, "sigma": 1e30, "lr_eta": 1e30}
    plan = replace(plan, configurations=(wild, configuration), seeds=(0, 0))
    settings = PackSettings(str(tmp_path))
    outcomes = PackJob(plan, settings).run()
    assert [o.status for o in outcomes] == ["diverged", "finished"]
    record = RunStore(tmp_path).read(outcomes[0].run)
    assert record
    assert (dict(record.curves), record.test_error) == ({}, None)
    assert PackJob(plan, settings).run() == outcomes


def test_a_run_of_another_precision_is_no_answer(tmp_path: Path) -> None:
    plan = digits_plan("bp", seeds=(0,), epochs=1)
    first = PackJob(plan, PackSettings(str(tmp_path))).run()
    double = PackJob(plan, PackSettings(str(tmp_path), precision="float64"))
    assert len(double.missing) == 1
    assert double.run() != first
    assert len(list(RunStore(tmp_path).records())) == 2
    assert not PackJob(plan, PackSettings(str(tmp_path), precision="float64")).missing


def test_how_a_configuration_was_found_names_no_run(tmp_path: Path) -> None:
    plan, settings = digits_plan(), PackSettings(str(tmp_path))
    ids = [d.id for d in PackJob(plan, settings).definitions]
    assert ids == [d.id for d in PackJob(replace(plan, found={}), settings).definitions]


def test_runs_of_older_versions_answer_to_the_precision_they_were_made_in(tmp_path: Path) -> None:
    """Older versions left the precision out of a run's name; its provenance has it."""
    store, plain = RunStore(tmp_path), record()
    older = replace(plain, provenance={"precision": "float64"})
    store.publish(older)
    assert find_run(store, replace(plain.definition, precision="float64")) == older
    assert find_run(store, replace(plain.definition, precision="tf32")) is None
    with pytest.raises(TpbenchError, match="float64"):
        find_run(store, plain.definition)
    assert find_run(store, replace(plain.definition, seed=1)) is None


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    for wrong in ("gpu", "cuda:x", "meta"):
        with pytest.raises(UsageError, match="unknown device"):
            choose_device(wrong)


def bracket_plan() -> PackPlan:
    """Six configurations of which some do better."""
    given = {k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}
    configurations = tuple({**given, "lr": lr} for lr in (1e-5, 3e-3, 1e-4, 1e-3, 3e-5, 2e-3))
    return PackPlan(WORKLOADS["digits"], "bp", configurations, (0,) * 6, 9)


@pytest.mark.parametrize("parts", [2, 4, 6])
def test_members_that_are_trained_in_parts_are_stopped_together(tmp_path: Path, parts: int) -> None:
    """As if all had been trained at once: who is stopped, when, and every number."""
    bracket = Bracket(9, 3, "validation_error")
    together = PackJob(bracket_plan(), PackSettings(str(tmp_path / "a")), bracket).run()
    reports: list[EpochReport] = []
    apart = PackJob(bracket_plan(), PackSettings(str(tmp_path / "b")), bracket, parts).run(reports.append)
    assert [(o.run, o.status, o.epochs) for o in apart] == [(o.run, o.status, o.epochs) for o in together]
    assert [o.validation_error for o in apart] == pytest.approx([o.validation_error for o in together], abs=0.01)
    assert {o.status for o in together} == {"finished", "stopped"}
    assert not list((tmp_path / "b" / "checkpoints").iterdir())
    shares = [report.done / report.total for report in reports]
    assert shares == sorted(shares)


def test_parts_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    bracket, calls = Bracket(9, 3, "validation_error"), 0
    expected = PackJob(bracket_plan(), PackSettings(str(tmp_path / "a")), bracket, 3).run()
    settings = PackSettings(str(tmp_path / "b"), checkpoint_every=1)

    def stop_at(number: int) -> None:
        def report(_: EpochReport) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                raise InterruptedTrainingError

        PackJob(bracket_plan(), settings, bracket, 3).run(report)

    for number in (3, 7, 13):
        with pytest.raises(InterruptedTrainingError):
            stop_at(number)
    assert PackJob(bracket_plan(), settings, bracket, 3).run() == expected


def test_smaller_parts_leave_no_checkpoints_of_larger_ones(tmp_path: Path) -> None:
    """Where memory runs out again and again."""
    bracket, settings = Bracket(9, 3, "validation_error"), PackSettings(str(tmp_path), checkpoint_every=1)

    def stop(_: EpochReport) -> None:
        raise InterruptedTrainingError

    for parts in (1, 2, 4):
        with pytest.raises(InterruptedTrainingError):
            PackJob(bracket_plan(), settings, bracket, parts).run(stop)
        assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1
    PackJob(bracket_plan(), settings, bracket, 6).run()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_bracket_that_does_not_fit_is_still_halved_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bracket = Bracket(9, 3, "validation_error")
    together = PackJob(bracket_plan(), PackSettings(str(tmp_path / "a")), bracket).run()
    allow_one_member(monkeypatch)
    apart = PackJob(bracket_plan(), PackSettings(str(tmp_path / "b")), bracket).run()
    assert [(o.run, o.status, o.epochs) for o in apart] == [(o.run, o.status, o.epochs) for o in together]
