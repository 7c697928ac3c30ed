"""Training without a validation set: all samples train, the last epoch counts, and no test error is compared."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tpbench as package
from tests.conftest import CONFIGURATION, Inside
from tests.engine.test_training import finish, trainer
from tests.results.records import record, store_of
from tpbench.engine import CURVES, METHODS, Problem, TpbenchError, Trainer, UsageError, load_checkpoint, save_checkpoint
from tpbench.engine.protocol import UNVALIDATED_CURVES
from tpbench.reports.page import make_report
from tpbench.results import RunRecord, RunStore, choose_cells
from tpbench.results.artifacts import NewerFormat, digest, verify_format
from tpbench.results.frames import export_frame, runs_frame
from tpbench.results.networks import TrainedNetwork, network_of
from tpbench.results.ranking import leaderboard
from tpbench.results.runs import PUBLISHED
from tpbench.results.tables import Column, loss_columns, loss_notes, loss_rows, loss_table
from tpbench.search.spaces import is_published, published_configuration
from tpbench.training.pack import PackJob
from tpbench.training.plan import PackSettings, plan_seeds
from tpbench.training.tracking import selected_metrics
from tpbench.workloads import Workload, get_workload, load_problem


@pytest.fixture
def all_train(small_problem: Problem) -> Problem:
    return replace(small_problem, validation_size=0)


def without(run: RunRecord, losses: list[float] | None = None) -> RunRecord:
    """The run as one without a validation set, with these training losses."""
    curves = {"test_error": run.curves["test_error"], **({"train_loss": losses} if losses else {})}
    return replace(run, curves=curves)


def without_validation(
    method: str, losses: dict[int, list[float]], epochs: int | None = None, **more: Any
) -> list[RunRecord]:
    made = []
    for seed, curve in losses.items():
        run = record(method, seed, [0.02] * len(curve), epochs=epochs or len(curve), **{"found": PUBLISHED, **more})
        made.append(without(run, curve))
    return made


# The engine


def test_all_samples_train_and_none_validate(all_train: Problem) -> None:
    training, validation = all_train.split(3)
    assert sorted(training.tolist()) == list(range(300))
    assert len(validation) == 0
    assert all_train.training_size == 300
    with pytest.raises(ValueError, match="-1"):
        replace(all_train, validation_size=-1)


@pytest.mark.parametrize("name", ["bp", "ddtp-linear"])
def test_the_last_epoch_is_selected_and_nothing_is_validated(all_train: Problem, name: str) -> None:
    t = trainer(all_train, name, [0, 1], epochs=4, keep=True)
    reports = []
    while not t.done:
        reports.append(t.advance())
    assert {report.best_validation_error for report in reports} == {None}
    for p, history in enumerate(t.histories):
        assert tuple(history.curves) == UNVALIDATED_CURVES
        assert not history.validated
        assert (history.epochs, history.selected_epoch) == (4, 3)
        assert history.at_selected("validation_error") is None
        assert history.at_selected("test_error") == history.curves["test_error"][-1]
        assert history.curves["test_error"][-1] == pytest.approx(1 - t.correct[p].mean())
        assert all(torch.equal(values, t.kept[p][name]) for name, values in t.pack.member(p).items())
        assert set(selected_metrics(history)) == {"epoch", "train_error", "test_error"}


def test_the_training_loss_is_over_all_samples(all_train: Problem, small_problem: Problem) -> None:
    """With a step size of next to nothing it is the loss of the first network over all samples."""
    t = trainer(all_train, "bp", [0], epochs=1, changes=[{"lr": 1e-12}])
    x, y = all_train.batch(torch.arange(300)[None], t.dtype)
    losses, _, _ = all_train.loss(t.pack.propagate(x)[-1], y)
    assert finish(t).histories[0].curves["train_loss"][0] == pytest.approx(float(losses.mean()), rel=1e-5)
    others = [finish(trainer(p, "bp", [0], epochs=1)).histories[0].curves for p in (all_train, small_problem)]
    assert others[0]["train_loss"] != others[1]["train_loss"]


def test_a_checkpoint_continues_to_the_same_curves(all_train: Problem, tmp_path: Path) -> None:
    whole = finish(trainer(all_train, "ddtp-linear", [0, 1], epochs=3))
    first, second = (trainer(all_train, "ddtp-linear", [0, 1], epochs=3) for _ in range(2))
    first.advance()
    first.advance()
    save_checkpoint(first, tmp_path / "c.pt")
    load_checkpoint(second, tmp_path / "c.pt")
    assert finish(second).histories == whole.histories


def test_pruning_needs_no_validation_set(all_train: Problem) -> None:
    t: Trainer = finish(trainer(all_train, "bp", [0], epochs=4, changes=[{"lr": 1e-9}], prune=(2, 0.01)))
    assert [(h.status, h.epochs) for h in t.histories] == [("pruned", 2)]


# Files


def test_only_runs_without_a_validation_set_have_the_newer_format(tmp_path: Path) -> None:
    plain, run = record(seed=1), without(record(), [0.5, 0.3])
    for one, written in ((run, 2), (plain, 1)):
        text = one.to_json()
        assert json.loads(text)["format"] == written
        assert RunRecord.from_json(text, "x") == one
    with pytest.raises(NewerFormat):  # what older versions do
        verify_format(run.to_json(), "", 1)
    body = json.loads(run.to_json())
    assert (body["selected_epoch"], body["validation_error"], body["test_error"]) == (1, None, pytest.approx(0.03))
    # The definition, and with it the id, says nothing of it.
    assert run.definition.id == record().definition.id == "8b53798e65a96a56fb322ea9"
    store = store_of(tmp_path, [run, plain])
    assert {one.definition.seed: one.validated for one in store.summaries()} == {0: False, 1: True}
    assert {one.definition.seed: one.validated for one in RunStore(tmp_path).summaries()} == {0: False, 1: True}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"curves": {"train_loss": [0.5, 0.3]}},
        {"curves": {"test_error": [0.5, 0.3], "validation_loss": [0.5, 0.3]}},
    ],
)
def test_files_that_lack_other_curves_are_damaged(change: dict[str, Any]) -> None:
    body = {**json.loads(without(record(), [0.5, 0.3]).to_json()), **change}
    del body["checksum"]
    with pytest.raises(TpbenchError, match=r"f\.json"):
        RunRecord.from_json(json.dumps({**body, "checksum": digest(body)}), "f.json")


def test_committed_runs_are_written_as_they_were_read() -> None:
    archive = Path(__file__).parents[1] / "results" / "digits.zip"
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.startswith("runs/") and name.endswith(".json")]
        texts = [file.read(name).decode() for name in names[:20]]
    assert len(texts) == 20
    for text in texts:
        run = RunRecord.from_json(text, "x")
        assert run.validated
        assert run.to_json() == text


def test_an_export_has_the_last_epoch(tmp_path: Path) -> None:
    runs = [without(record(), [0.5, 0.3]), record(seed=1)]
    frame = runs_frame(runs)
    assert frame["selected_epoch"].tolist() == [2, 2]
    assert frame["validation_error"].isna().tolist() == [True, False]
    assert frame["test_error"].tolist() == pytest.approx([3.0, 3.0])
    assert len(export_frame(runs)) == 2


# Workloads


def declared(folder: Path, **keys: object) -> Workload:
    path = folder / "loss.yaml"
    path.write_text(yaml.safe_dump({"name": "digits-loss", "like": "digits", "network": [16], "epochs": 2, **keys}))
    return get_workload(str(path))


def test_a_workload_of_a_file_may_have_no_validation_set(tmp_path: Path) -> None:
    workload = declared(tmp_path, validation_size=0)
    assert workload.validation_size == 0
    assert load_problem(workload)[0].training_size == workload.samples == 1437
    other = declared(tmp_path)
    assert (other.validation_size, other.source == workload.source) == (240, False)
    (tmp_path / "again.yaml").write_text(workload.to_yaml())
    again = get_workload(str(tmp_path / "again.yaml"))
    assert again == workload
    for wrong in (-1, 0.5 / 1437, 1437):
        with pytest.raises(UsageError, match=r"143[67]"):
            declared(tmp_path, validation_size=wrong)


def train(folder: Path, workload: Workload, **changes: float) -> RunStore:
    """Train BP, with changes of its configuration that would be refused."""
    given = {name: CONFIGURATION[name] for name in METHODS["bp"].hyperparameters}
    configuration = {**workload.complete(METHODS["bp"], given), **changes}
    plan = plan_seeds(workload, "bp", configuration, (0, 1), 2, PUBLISHED)
    PackJob(plan, PackSettings(str(folder), keep_networks=True)).run()
    return RunStore(folder)


def test_packs_store_the_last_network_and_its_predictions(tmp_path: Path) -> None:
    store = train(tmp_path / "r", declared(tmp_path, validation_size=0))
    for run in store.records():
        assert set(run.curves) == set(CURVES) - {"validation_loss", "validation_error", "reconstruction_loss"}
        assert (run.validated, run.history.selected_epoch) == (False, 1)
        network = network_of(store, run)
        assert (network.selected_epoch, network.validation_error) == (1, None)
        assert TrainedNetwork.from_bytes(network.to_bytes(), "x").format == 2
        (correct,) = [predictions.correct for _, predictions in store.all_predictions([run]) if predictions]
        assert 1 - correct.mean() == pytest.approx(run.curves["test_error"][-1])


def test_a_run_that_diverges_at_once_is_known_to_have_no_validation_set(tmp_path: Path) -> None:
    store = train(tmp_path / "r", declared(tmp_path, validation_size=0), lr=1e38)
    assert {(run.status, run.history.epochs, run.validated, run.format) for run in store.records()} == {
        ("diverged", 0, False, 2)
    }
    assert {run.validated for run in RunStore(tmp_path / "r").summaries()} == {False}
    frame = loss_rows(store)
    assert frame["diverged"].tolist() == [2]
    assert frame["train_loss_mean"].isna().all()


def test_the_authors_configurations_for_losses_are_known() -> None:
    workload = get_workload("cifar10-conv-loss")
    found = {method: published_configuration(workload, method) for method in ("bp", "dfa", "ddtp-linear")}
    assert [found[method]["epsilon"][0] for method in found] == pytest.approx(
        [2.6463e-7, 1.982e-7, 7.9528e-6], rel=1e-4
    )
    assert {name: len(value) for name, value in found["ddtp-linear"].items() if isinstance(value, list)} == {
        "lr_eta": 4,
        "epsilon": 4,
    }
    schedule = [found["ddtp-linear"][name] for name in ("fb_pretrain_epochs", "fb_epochs_between")]
    assert schedule == list(workload.feedback_schedule(METHODS["ddtp-linear"]).values()) == [10, 1]
    assert not is_published(workload, "ddtp-control")


# Tables


def test_the_table_of_losses_says_what_trained_on_all_samples(tmp_path: Path) -> None:
    losses = {seed: [9.0, 0.1 + 0.01 * seed] for seed in range(10)}
    store = store_of(
        tmp_path,
        without_validation("bp", losses, epochs=2, workload="digits", precision="bf16"),
        without_validation("dfa", {0: [0.5]}, workload="digits"),
        [record("bp", seed, workload="mnist") for seed in range(3)],
    )
    frame = loss_rows(store).set_index(["workload", "method"])
    bp = frame.loc["digits", "bp"]
    assert bp["train_loss_mean"] == pytest.approx(0.145)
    assert bp["train_loss_std"] == pytest.approx(0.030277, rel=1e-4)
    assert (bp["seeds"], bp["epochs"], bp["precision"], bp["validated"]) == (10, 2, "bf16", False)
    assert frame.loc["mnist", "bp"]["validated"]
    assert {"2 epochs", "bf16"} <= set(bp["marks"].split("; "))
    text = loss_table(store, "md", "digits")
    assert "MNIST" not in text
    assert text.count("| BP") == text.count("| DFA") == 1
    rows = csv.DictReader(io.StringIO(loss_table(store, "csv", "digits")))
    assert [(row["method"], row["seeds"], row["epochs"]) for row in rows] == [("bp", "10", "2"), ("dfa", "1", "1")]
    with pytest.raises(TpbenchError):
        loss_table(store, "text", "cifar10")


def test_the_table_of_losses_names_copies_of_the_data(tmp_path: Path) -> None:
    losses = {seed: [0.5] * 300 for seed in range(10)}
    copy = without_validation("bp", losses, workload="cifar10-conv-loss", label="JPEG copy")
    exact = without_validation("dfa", losses, workload="cifar10-conv-loss", fingerprint="e" * 64)
    frame = loss_rows(store_of(tmp_path, copy, exact))
    assert frame["marks"].tolist() == ["", ""]
    assert loss_columns(frame) == [Column("cifar10-conv-loss", ""), Column("cifar10-conv-loss", "JPEG copy")]
    # The legend, what trained on all samples, and what is no exact data set.
    assert len(loss_notes(frame)) == 3
    assert len(loss_notes(frame[frame["data"] == "exact"])) == 2


def test_cells_without_a_validation_set_are_in_no_ranking(tmp_path: Path) -> None:
    """A store of both kinds compares the others, and the page of the store has a section for these."""
    losses = {seed: [0.5, 0.1] for seed in range(3)}
    store = store_of(
        tmp_path,
        *(without_validation(method, losses, workload="digits") for method in ("bp", "dfa")),
        [record(method, seed, workload="mnist") for seed in range(3) for method in ("bp", "dfa")],
    )
    assert {cell.workload for cell in choose_cells(store.summaries()).values() if cell.validated} == {"mnist"}
    assert set(leaderboard(store)["workload"]) == {"mnist"}
    sections = {section.id: section for section in make_report(store, "tpbench report").content["sections"]}
    (table,) = sections["losses"].tables
    assert [row[0].text for row in table.rows] == ["BP", "DFA"]
    (curves,) = sections["losses"].groups
    assert len(curves.figures) == 1
    assert len(sections["provenance"].folds[0].tables) == 2


def test_a_method_whose_seeds_all_diverged_has_no_entry_in_the_legend_of_curves(tmp_path: Path) -> None:
    losses = {seed: [0.5, 0.1] for seed in range(3)}
    store = store_of(
        tmp_path,
        without_validation("bp", losses, workload="digits", epochs=2),
        without_validation("dfa", losses, workload="digits", epochs=2, status="diverged"),
    )
    sections = {section.id: section for section in make_report(store, "tpbench report").content["sections"]}
    (curves,) = sections["losses"].groups
    assert [name for name, *_ in curves.legend] == ["BP"]


LOSS = "name: digits-loss\nlike: digits\nnetwork: [16]\nvalidation_size: 0\nepochs: 2\n"


def test_commands_train_it_and_refuse_to_compare_it(tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "loss.yaml").write_text(LOSS)
    (tmp_path / "bp.yaml").write_text(yaml.safe_dump({"lr": 0.003, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}))
    trained = tpbench_inside("run", "loss.yaml", "bp", "--config", "bp.yaml", "--n-seeds", "3")
    assert trained.returncode == 0, trained.stderr
    losses = [run.curves["train_loss"][-1] for run in RunStore(tmp_path / "results").records()]
    assert len(losses) == 3
    table = tpbench_inside("table", "loss", "loss.yaml", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(table.stdout))
    assert float(row["train_loss_mean"]) == pytest.approx(sum(losses) / 3, rel=1e-4)
    for arguments in (
        ("table", "loss", "digits-loss"),
        ("table", "s6"),
        ("plot", "curves", "digits-loss"),
        ("report",),
        ("results", "check"),
        ("workloads", "loss.yaml"),
    ):
        ended = tpbench_inside(*arguments)
        assert ended.returncode == 0, (arguments, ended.stderr)
    ids = [run.definition.id for run in RunStore(tmp_path / "results").summaries()]
    for arguments in (
        ("leaderboard",),
        ("leaderboard", "digits-loss"),
        ("compare", "bp", "dfa", "--workload", "digits-loss"),
        ("compare", *ids[:2]),
        ("table", "overview"),
        ("table", "epochs"),
        ("table", "field"),
        ("table", "s6", "digits-loss"),
        ("plot", "forest", "digits-loss"),
        ("plot", "cost", "digits-loss"),
        ("sweep", "loss.yaml", "bp", "--trials", "2"),
        ("run", "loss.yaml", "bp", "--config", "best"),
    ):
        ended = tpbench_inside(*arguments)
        assert ended.returncode == 2, (arguments, ended.stderr)
        assert len(ended.stderr.splitlines()) == 1
    for function, names in ((package.leaderboard, ()), (package.compare, ("bp", "dfa"))):
        with pytest.raises(UsageError):
            function(str(tmp_path / "results"), *names, workload="digits-loss")  # type: ignore[operator]
    frame = package.table(str(tmp_path / "results"), "loss")
    assert frame["validated"].tolist() == [False]
    assert len(frame.attrs["notes"]) == 2


def test_a_tuning_label_of_such_runs_alone_is_none(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    store.publish(record("bp", 0, [0.02], found=PUBLISHED))
    for run in without_validation("dfa", {0: [0.5, 0.1]}, epochs=100, found={"by": "file"}):
        store.publish(run)
    for arguments in (("leaderboard",), ("plot", "forest", "mnist")):
        ended = tpbench_inside(*arguments, "--tuning", "file")
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
