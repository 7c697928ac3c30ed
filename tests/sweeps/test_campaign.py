"""Sweeps and campaigns from the command line's side, where no Ray is needed: packs are trained in this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.conftest import Inside
from tests.results.records import counts
from tests.sweeps.playing import FINGERPRINT, no_ray, run_here
from tpbench.engine import TpbenchError, UsageError
from tpbench.engine import precision as products
from tpbench.options import SweepOptions
from tpbench.results import RunStore
from tpbench.results.runs import PUBLISHED, tuning_budget
from tpbench.search.definition import SweepDefinition, SweepFolder, sweep_status
from tpbench.search.journal import Journal
from tpbench.search.spaces import space_for
from tpbench.sweeps import campaign, sizes
from tpbench.sweeps.campaign import SweepResult, other_label, run_sweeps
from tpbench.sweeps.cluster import Resources
from tpbench.sweeps.session import Session, on_device
from tpbench.training.choice import CellChoice, choose_all
from tpbench.training.plan import Outcome, PackSettings
from tpbench.training.progress import SilentView
from tpbench.training.sizing import Sizing

CELL = {"workloads": "digits", "methods": "bp"}
OPTIONS: dict[str, Any] = {**CELL, "trials": 3, "seeds": [1, 2], "epochs": 1, "pack": 2, "cpus": 2, "gpus": 0}

Run = Callable[..., list[SweepResult]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``tpbench sweep`` on digits for one epoch, without Ray."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)

    def call(workloads: str = "digits", methods: str = "bp", **options: object) -> list[SweepResult]:
        cells, _ = choose_all(workloads, methods)
        settings = PackSettings(str(tmp_path), precision=str(options.pop("precision", "float32")))
        return run_sweeps(cells, SweepOptions.read({**OPTIONS, **options}), settings)

    return call


def folders(results: Path) -> list[SweepFolder]:
    return [SweepFolder(path) for path in sorted((results / "sweeps").iterdir())]


def test_the_search_trains_one_seed_and_the_final_runs_those_that_were_asked_for(run: Run, tmp_path: Path) -> None:
    (result,) = run()
    assert (result.state, result.tried) == ("done", 3)
    records = list(RunStore(tmp_path).records())
    assert sorted(record.definition.seed for record in records) == [0, 0, 0, 1, 2]
    assert {r.search_info["role"] for r in records if r.definition.seed == 0} == {"search"}
    assert {r.search_info["role"] for r in records if r.definition.seed} == {"final"}
    assert result.records == [r for r in result.records if r.search_info["seeds"] == [1, 2]]
    assert "digits,exact,bp,3 x 1,1-2,1," in (tmp_path / "leaderboard.csv").read_text()


def test_a_campaign_is_its_sweeps(run: Run, tmp_path: Path) -> None:
    together = run(methods="bp,dfa")
    assert [result.cell.method for result in together] == ["bp", "dfa"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert run(methods="bp")[0].records == together[0].records
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()} == before


def test_done_means_that_the_final_runs_are_in_the_store(run: Run, tmp_path: Path) -> None:
    (first,) = run()
    (folder,) = folders(tmp_path)
    assert sweep_status(folder).state == "done"
    RunStore(tmp_path).path(first.records[0].definition.id).unlink()
    assert sweep_status(folder).state == "interrupted"
    (again,) = run()
    assert [record.curves for record in again.records] == [record.curves for record in first.records]
    assert sweep_status(folder).state == "done"


def test_what_a_finished_sweep_tells_comes_from_the_store(run: Run, tmp_path: Path) -> None:
    (first,) = run()
    journal = Journal.open(folders(tmp_path)[0].journal_path)
    assert journal.final
    journal.finish([replace(outcome, test_error=0.0) for outcome in journal.final])
    assert run()[0].records == first.records


def test_a_sweep_that_an_older_version_ran_in_another_precision_is_no_answer(run: Run, tmp_path: Path) -> None:
    store, record = RunStore(tmp_path), run()[0].records[0]
    store.path(record.definition.id).unlink()
    store.publish(replace(record, provenance={**record.provenance, "precision": "float64"}))
    with pytest.raises(TpbenchError, match=r"float64 .*older version"):
        run()


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (
            [Outcome("0" * 24, "pruned", 0.9, 0.9), Outcome("1" * 24, "diverged", 1.0, None)],
            "none of the 2 configurations learnt anything (1 diverged, 1 stopped early); start another sweep with more "
            "--trials, more than 1 --epochs or another --space",
        ),
        ([], "every pack of the search failed: see Ray's log; start another sweep with --fresh"),
    ],
)
def test_a_search_that_found_nothing_has_failed_for_good(
    run: Run,
    tmp_path: Path,
    tpbench_inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: list[Outcome],
    message: str,
) -> None:
    def nothing(sweeps: list[campaign.SearchedSweep], *_: object, **__: object) -> None:
        (sweep,) = sweeps
        sweep.next_pack()
        sweep.ended("0", outcomes, campaign.Workers(2))

    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", nothing)
    (first,) = run(trials=2)
    assert (first.state, first.failure) == ("failed", message)
    (folder,) = folders(tmp_path)
    listed = tpbench_inside("sweeps", "--results", str(tmp_path)).stdout
    assert " failed " in listed
    assert f"{folder.folder.name}, failed:\n{message}" in listed
    assert "tpbench sweep" not in listed
    # The same command again says the same, before any Ray is started.
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", None)
    assert run(trials=2)[0].failure == message


def test_one_that_fails_does_not_stop_the_others(
    run: Run, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(sweeps: list[campaign.SearchedSweep], *arguments: object, **more: object) -> None:
        sweeps[0].fail("nothing learnt")
        run_here(sweeps, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", some)
    command = (
        "sweep",
        "digits",
        "bp,dfa",
        "--trials",
        "3",
        "--epochs",
        "1",
        "--n-seeds",
        "2",
        "--pack",
        "2",
        "--cpus",
        "2",
    )
    result = tpbench_inside(*command)
    assert result.returncode == 1
    assert "nothing learnt" in result.stderr
    assert [" failed " in line for line in result.stdout.splitlines() if " digits-" in line] == [True, False]


def test_a_leaderboard_that_cannot_be_written_is_a_warning(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaderboard.csv").mkdir()
    assert run()[0].state == "done"
    assert "warning: leaderboard.csv " in capfd.readouterr().out


def test_pairs_that_make_no_sense_are_left_out_and_an_error_alone() -> None:
    cells, left = choose_all("mnist,mnist-frozen", "dfa,bp")
    assert [(c.workload.name, c.method) for c in cells] == [("mnist", "dfa"), ("mnist", "bp"), ("mnist-frozen", "bp")]
    (reason,) = left
    assert reason.startswith("dfa ")
    assert "mnist-frozen: " in reason
    with pytest.raises(UsageError, match=r"^dfa .* mnist-frozen"):
        choose_all("mnist-frozen", "dfa")
    every, _ = choose_all("all", "all")
    assert len(every) == 39
    assert choose_all("mnist,mnist", "bp")[0] == [CellChoice.of("mnist", "bp")]
    for wrong in (("mnist,", "bp"), ("minst", "bp"), ("mnist", "bpp"), ("", "bp")):
        with pytest.raises(UsageError):
            choose_all(*wrong)


def test_the_lag_is_a_sweeps_share_of_the_workers_and_one(run: Run, tmp_path: Path) -> None:
    run(methods="bp,dfa", cpus=5)
    assert {folder.read().lag for folder in folders(tmp_path)} == {4}
    run(methods="dtp")
    assert {folder.read().lag for folder in folders(tmp_path)} == {4, 3}


def test_the_search_may_have_a_precision_of_its_own(run: Run, tmp_path: Path) -> None:
    (result,) = run(seeds=(0, 1), search_precision="float64")
    (folder,) = folders(tmp_path)
    best = Journal.read(folder.journal_path).best()
    store = RunStore(tmp_path)
    assert best is not None
    # The run that was selected is of seed 0, and no final run though that seed is one of them.
    selected = store.read(best[1].run)
    assert selected is not None
    assert (selected.precision, selected.definition.seed, selected.search_info["role"]) == ("float64", 0, "search")
    assert [(r.precision, r.definition.seed) for r in result.records] == [("float32", 0), ("float32", 1)]
    again = replace(selected.definition, precision="float32")
    assert result.records[0].definition == again
    assert result.records[0].curves != selected.curves
    assert {r.search_info["search_precision"] for r in result.records} == {"float64"}
    roles = sorted((r.search_info["role"], r.definition.precision) for r in store.records())
    assert roles == [("final", "float32")] * 2 + [("search", "float64")] * 3
    assert sweep_status(folder).search_precision == "float64"
    row = (tmp_path / "leaderboard.csv").read_text().splitlines()[1]
    assert row.startswith("digits,exact,bp,3 x 1 in float64,0-1,1,")
    assert f",{tuning_budget(result.records[0].search_info)}," in row
    assert f"{100 * fmean(r.test_error or 1 for r in result.records):.4f}" in row
    before = {path.name for path in store.runs.iterdir()}
    assert run(seeds=(0, 1), search_precision="float64")[0].records == result.records
    assert {path.name for path in store.runs.iterdir()} == before


def test_a_precision_that_holds_anyway_makes_no_other_sweep(run: Run, tmp_path: Path) -> None:
    run()
    run(search_precision="float32")
    assert [folder.read().search_precision for folder in folders(tmp_path)] == [""]


def test_sizes_are_measured_in_the_precision_of_the_search(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def sizes_of(*_: object, precision: str, **__: object) -> Sizing:
        measured.append(precision)
        return Sizing(2)

    monkeypatch.setattr(sizes, "choose_sizes", sizes_of)
    run(search_precision="float64")
    assert measured == ["float64"]
    assert re.search(r"packs .*2, .*float64, .*2 seeds .*float32\n", capfd.readouterr().out)


def choose(
    results: Path, monkeypatch: pytest.MonkeyPatch, sizing: Callable[..., Sizing], resources: Resources, **options: Any
) -> tuple[list[SweepDefinition], Resources, list[str]]:
    """Choose the sizes of digits bp and dfa, as ``sizing`` measures them; returns what was said, too."""
    monkeypatch.setattr(sizes, "choose_sizes", sizing)
    read = SweepOptions.read({**OPTIONS, "methods": "bp,dfa", "pack": "auto", **options})
    planned = []
    for cell in choose_all("digits", "bp,dfa")[0]:
        space = space_for(cell.method)
        definition = SweepDefinition.of(read, cell.workload, cell.method, FINGERPRINT, space.describe())
        folder = SweepFolder(results / "sweeps" / definition.id)
        planned.append(campaign.PlannedSweep(cell, space, definition, folder))
    view = Lines()
    session = Session(view, PackSettings(str(results), device="cuda"), resources, planned[0].folder)
    chosen = [one.definition for one in campaign._choose_sizes(planned, read, session)]
    for one, definition in zip(planned, chosen, strict=True):
        one.folder.begin(definition, {})
    return chosen, session.resources, view.said


class Lines(SilentView):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_command_that_goes_on_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def sizing(workload: object, method: str, **_: object) -> Sizing:
        measured.append(method)
        return Sizing(16, 2 if method == "bp" else 3, {8: 0.2, 16: 0.1})

    gpu, many = Resources(8, 1), {"trials": 100, "seeds": [0]}
    first = choose(tmp_path, monkeypatch, sizing, gpu, **many)
    assert measured == ["bp", "dfa"]
    assert [(d.pack, d.packs_per_gpu, d.cost) for d in first[0]] == [(16, 2, 0.1), (16, 3, 0.1)]
    # All share the GPU alike.
    assert first[1].packs_per_gpu == 2
    again = choose(tmp_path, monkeypatch, sizing, gpu, **many)
    assert measured == ["bp", "dfa"]
    assert again[:2] == first[:2]
    # On CPUs there is nothing to measure; from CPUs to a GPU there is how many share it, and the pack stays.
    on_cpus = choose(tmp_path / "cpus", monkeypatch, sizing, Resources(8), pack=3, **many)[0]
    assert [(d.pack, d.packs_per_gpu) for d in on_cpus] == [(16, 0)] * 2
    assert measured == ["bp", "dfa"] * 2
    moved, resources, _ = choose(tmp_path / "cpus", monkeypatch, sizing, gpu, pack=3, **many)
    assert [(d.pack, d.lag) for d in moved] == [(d.pack, d.lag) for d in on_cpus]
    assert resources.packs_per_gpu == 2
    assert measured == ["bp", "dfa"] * 3


@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_with_a_pack_that_was_asked_for_no_measurement_changes_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    def sizing(workload: object, method: str, *, pack: int, **_: object) -> Sizing:
        return Sizing(pack, 1, {pack: factor if method == "bp" else 1.0})

    chosen = choose(tmp_path, monkeypatch, sizing, Resources(8, 8), pack=4, trials=100)[0]
    assert [(d.pack, d.lag) for d in chosen] == [(4, 5), (4, 5)]
    assert [d.cost for d in chosen] == [factor, 1.0]


def test_idle_gpus_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizing(*_: object, **__: object) -> Sizing:
        return Sizing(8, 1, {8: 0.1})

    *_, said = choose(tmp_path, monkeypatch, sizing, Resources(64, 64), trials=100)
    (line,) = [message for message in said if "GPUs" in message]
    assert counts(line) == [26, 64, 14, 50]
    assert not [m for m in choose(tmp_path, monkeypatch, sizing, Resources(64, 64), trials=100)[2] if "GPUs" in m]
    *_, said = choose(tmp_path / "8", monkeypatch, sizing, Resources(8, 8), trials=100)
    assert not [message for message in said if "GPUs" in message]


@pytest.mark.parametrize("wrong", [{"search_precision": "tf32"}, {"precision": "tf32"}], ids=str)
def test_what_the_device_cannot_do_is_refused_before_anything_begins(
    run: Run, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="precision tf32"):
        run(**wrong)
    assert not list(tmp_path.iterdir())


def test_halving_and_objective_are_part_of_the_sweep_and_said_in_its_runs(run: Run, tmp_path: Path) -> None:
    (halved,) = run(trials=9, pack=9, epochs=9, halving=3, objective="train_loss")
    assert halved.records[0].search_info["halving"] == 3
    assert halved.records[0].search_info["objective"] == "train_loss"
    (folder,) = folders(tmp_path)
    (pack,) = Journal.read(folder.journal_path).packs
    assert pack.outcomes is not None
    ends = [(outcome.status, outcome.epochs) for outcome in pack.outcomes]
    assert ends.count(("finished", 9)) == 1
    assert ends.count(("stopped", 1)) == 6
    assert ends.count(("stopped", 3)) == 2
    kept = {record.definition.id for record in RunStore(tmp_path).records()}
    assert {o.run for o in pack.outcomes if o.status == "stopped"}.isdisjoint(kept)
    status = sweep_status(folder)
    assert (status.member_epochs, status.member_epochs_full) == (9 + 6 + 6, 81)
    run(trials=9, pack=9, epochs=9)
    assert len(folders(tmp_path)) == 2


def test_what_a_clusters_nodes_can_compute_is_not_told_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "slow_bfloat16", lambda device: "this one is slow")
    settings, here = PackSettings("results"), Resources(8, 0)
    with pytest.raises(UsageError, match=r"^search precision.*: this one"):
        on_device(settings, here, "bf16")
    there = replace(here, address="auto")
    assert on_device(replace(settings, precision="bf16"), there, "bf16").device == "cpu"
    with pytest.raises(UsageError, match="precision tf32"):
        on_device(replace(settings, precision="tf32"), there, "bf16")


def test_a_search_has_epochs_of_its_own_and_begins_with_what_is_known(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.yaml"
    start.write_text("{lr: 0.002, beta1: 0.9, beta2: 0.99, epsilon: 1.0e-6}")
    options: dict[str, Any] = {
        "trials": 9,
        "pack": 9,
        "epochs": 11,
        "search_epochs": 9,
        "halving": 3,
        "seeds": (0, 1),
        "start": start,
    }
    (result,) = run(**options)
    said = capfd.readouterr().out
    assert all(word in said for word in ("9 configurations, of which 1 known", "9 epochs", "2 seeds for 11 epochs"))
    (folder,) = folders(tmp_path)
    journal = Journal.read(folder.journal_path)
    (pack,) = journal.packs
    assert pack.suggestions[0] == {"lr": 0.002, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}
    # Halved over the epochs of the search.
    ends = [(outcome.status, outcome.epochs) for outcome in pack.outcomes or ()]
    assert sorted(ends) == [("finished", 9)] + [("stopped", 1)] * 6 + [("stopped", 3)] * 2
    status = sweep_status(folder)
    assert (status.member_epochs, status.member_epochs_full) == (9 + 6 + 6, 81)
    assert (status.search_epochs, status.known, status.start) == (9, 1, "file")
    # The final runs are trained anew, seed 0 too.
    best, store = journal.best(), RunStore(tmp_path)
    assert best is not None
    selected = store.read(best[1].run)
    assert selected is not None
    assert (selected.definition.seed, selected.definition.epochs, selected.search_info["role"]) == (0, 9, "search")
    assert [(r.definition.seed, r.definition.epochs) for r in result.records] == [(0, 11), (1, 11)]
    assert {len(r.curves["test_error"]) for r in result.records} == {11}
    assert {(r.search_info["role"], r.search_info["epochs"]) for r in result.records} == {("final", 9)}
    assert result.records[0].definition == replace(selected.definition, epochs=11)
    (row,) = (tmp_path / "leaderboard.csv").read_text().splitlines()[1:]
    assert row.startswith("digits,exact,bp,9 x 9 halved from file,0-1,11,")
    assert f"{100 * fmean(r.test_error or 1 for r in result.records):.4f}" in row
    # The same options, the file under another name: the same sweep, which trains nothing.
    before = {path.name for path in store.runs.iterdir()}
    assert run(**{**options, "start": start.rename(tmp_path / "other.yaml")})[0].records == result.records
    assert {path.name for path in store.runs.iterdir()} == before
    assert len(folders(tmp_path)) == 1


def test_epochs_of_the_search_that_are_those_of_the_final_runs_make_no_other_sweep(run: Run, tmp_path: Path) -> None:
    run()
    run(search_epochs=1)
    assert [folder.read().search_epochs for folder in folders(tmp_path)] == [0]


def test_final_runs_that_tables_show_under_another_label_are_told(run: Run, tmp_path: Path) -> None:
    """A second search of another budget that finds the same configuration has no row of its own."""
    (result,) = run()
    (sweep,) = folders(tmp_path)
    definition, own = sweep.read(), result.records
    assert other_label(definition, own) == ""
    assert other_label(definition, []) == ""
    found = [replace(record, search_info=PUBLISHED) for record in own]
    assert other_label(definition, found) == "published"
    assert other_label(replace(definition, trials=definition.trials + 1), own) == definition.label


def test_known_configurations_and_epochs_are_checked_before_anything_begins(run: Run, tmp_path: Path) -> None:
    for wrong in ({"start": "published"}, {"start": "nowhere.yaml"}, {"search_epochs": 2}):
        with pytest.raises(UsageError):
            run(**wrong)
    assert not list(tmp_path.iterdir())


def test_a_search_that_learnt_nothing_advises_the_epochs_that_it_had(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(sweeps: list[campaign.SearchedSweep], *_: object, **__: object) -> None:
        (sweep,) = sweeps
        sweep.next_pack()
        sweep.ended("0", [Outcome("0" * 24, "pruned", 0.9, 0.9)] * 2, campaign.Workers(2))

    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", nothing)
    failure = run(trials=2, epochs=7, search_epochs=3)[0].failure
    assert failure
    assert "more than 3 --search-epochs" in failure
