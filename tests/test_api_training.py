"""Runs and sweeps from Python, on digits for an epoch or two."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import tpbench
from tests.results.records import counts
from tests.sweeps.playing import no_ray, run_here
from tpbench.api import translate_options
from tpbench.cli import app
from tpbench.engine import TpbenchError
from tpbench.options import RunOptions, SweepOptions
from tpbench.results import RunStore
from tpbench.training.pack import PackJob

BP = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the test's own, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(store: str = "results") -> set[str]:
    return {record.provenance["command"] for record in RunStore(Path(store)).records()}


def test_runs_come_back_as_rows_and_are_stored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = tpbench.run("digits", "bp", BP, seeds=range(2), epochs=1)
    assert list(frame.seed) == [0, 1]
    assert set(frame.found_by) == {"python"}
    assert frame.test_error.between(0, 100).all()
    assert "epochs: 1/1" in capsys.readouterr().out
    again = tpbench.run("digits", "bp", BP, seeds="0-1", epochs=1, progress=False)
    assert list(again.id) == list(frame.id)
    assert capsys.readouterr().out == ""
    assert list(tpbench.load_runs("results").id) == sorted(frame.id)
    # Of a row of a frame, whose numbers are numpy's.
    best = frame.filter(like="hp_").iloc[0].rename(lambda name: name.removeprefix("hp_"))
    assert list(tpbench.run("digits", "bp", dict(best), [np.int64(0)], 1, progress=False).id) == [frame.id[0]]
    assert commands() == {f"tpbench.run('digits', 'bp', {BP}, seeds='0-1', epochs=1)"}


def test_what_a_run_records_is_a_command_that_trains_it(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "bp.yaml").write_text("".join(f"{name}: {value}\n" for name, value in BP.items()))
    frame = tpbench.run(
        "digits",
        "bp",
        folder / "elsewhere" / "bp.yaml",
        [0, 3],
        np.int64(1),
        results=folder / "my store",
        data=folder / "data",
        precision="float64",
        device="cpu",
        checkpoint_every=2,
        progress=False,
    )
    (record, *_) = RunStore(folder / "my store").records()
    assert record.provenance["options"] == {
        "command": "run",
        "workload": "digits",
        "method": "bp",
        "configuration": "bp.yaml",
        "seeds": "0,3",
        "epochs": 1,
        "precision": "float64",
        "device": "cpu",
        "checkpoint_every": 2,
    }
    assert set(frame.found_by) == {"file"}
    words = shlex.split(record.provenance["command"])[2:]
    words[words.index("bp.yaml")] = str(folder / "elsewhere" / "bp.yaml")
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    given = {**record.provenance["options"], "configuration": str(folder / "elsewhere" / "bp.yaml")}
    del given["command"]
    assert command.read(command.make_context("run", words)) == RunOptions.read(given)


def test_several_methods_are_trained_one_after_the_other(folder: Path) -> None:
    frame = tpbench.run("digits", ["bp", "dfa"], BP, n_seeds=2, epochs=1, progress=False)
    assert list(zip(frame.method, frame.seed, strict=True)) == [("bp", 0), ("bp", 1), ("dfa", 0), ("dfa", 1)]
    with pytest.warns(UserWarning, match="dfa"), pytest.raises(tpbench.TpbenchError, match="mnist"):  # no such data
        tpbench.run("mnist-frozen", "dfa,bp", BP, offline=True, data=folder)
    with pytest.raises(tpbench.TpbenchError, match="fa cannot be trained on digits-conv"):
        tpbench.run("digits-conv", "fa", BP)


def test_methods_of_a_group_without_a_configuration_are_left_out_with_a_warning(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"left out, .*: drtp$"):
        frame = tpbench.run("digits-conv", "field", seeds=[0], epochs=1, progress=False)
    assert list(frame.method) == ["dkp"]


def test_the_best_configuration_says_which_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    first = tpbench.run("digits", "bp", BP, range(3), 1, data=Path("elsewhere"), progress=False)
    assert commands() == {f"tpbench.run('digits', 'bp', {BP}, seeds='0-2', epochs=1)"}
    found = tpbench.run("digits", "bp", "best", seeds=[7], epochs=1)
    assert found.hp_lr[0] == BP["lr"]
    assert f"run {min(first.id)[:5]}" in capsys.readouterr().out


def test_slips_are_told_before_anything_trains(folder: Path) -> None:
    run, sweep = tpbench.run, tpbench.sweep
    wrong: list[tuple[Any, str]] = [
        (lambda: run("digit", "bp"), ""),
        (lambda: run(["digits"], "bp"), "workload"),
        (lambda: run("digits", "bp", {**BP, "mu": 1}), ""),
        (lambda: run("digits", "bp", {"lr": 1e-2}), ""),
        (lambda: run("digits", "bp", {**BP, "lr": -1}), ""),
        (lambda: run("digits", "bp", "bp.yaml"), "configuration"),
        (lambda: run("digits", "bp", [1]), "configuration"),
        (lambda: run("mnist", "gnt"), ""),
        (lambda: run("digits", "bp", BP, seeds=3), "seeds"),
        (lambda: run("digits", "bp", BP, seeds=[0, -1]), "seeds"),
        (lambda: run("digits", "bp", BP, seeds=[0.5]), "seeds"),
        (lambda: run("digits", "bp", BP, seeds=[]), "seeds"),
        (lambda: run("digits", "bp", BP, seeds="0-"), "seeds"),
        (lambda: run("digits", "bp", BP, epochs=0), "epochs"),
        (lambda: run("digits", "bp", BP, epochs=True), "epochs"),
        (lambda: run("digits", "bp", BP, precision="bfloat16"), ""),
        (lambda: run("digits", "bp", BP, device="gpu"), ""),
        (lambda: run("digits", "bp", BP, progress=1), "progress"),
        (lambda: sweep("digits", []), ""),
        (lambda: sweep("mnist-frozen", "bp", trials=0), "trials"),
        (lambda: sweep("digits", "bp", halving=1), "halving"),
        (lambda: sweep("digits", "bp", pack=0), "pack"),
        (lambda: sweep("digits", "bp", n_seeds=2, seeds=[1]), "n_seeds"),
        (lambda: sweep("digits", "bp", n_seeds=range(2)), "n_seeds"),
        (lambda: sweep("digits", "bp", objective="error"), ""),
        (lambda: sweep("digits", "bp", address="here"), "address"),
        (lambda: sweep("digits", "bp", search_precision="half"), ""),
    ]
    for number, (call, parameter) in enumerate(wrong):
        with pytest.raises(tpbench.UsageError) as raised:
            call()
        assert raised.value.parameter == parameter, number
    assert list(folder.iterdir()) == []


def test_messages_name_arguments(folder: Path) -> None:
    for message, translated in (
        ("is running already: see 'tpbench sweeps'; --fresh starts another", "fresh=True starts another"),
        ("torch sees no GPU here; use --device cpu", "use device='cpu'"),
        ("'tpbench sweep a b --trials 3' and take --config best, or give --config FILE", "configuration='best', or"),
        ("'tpbench sweep a b --trials 3' and take --config best", "'tpbench sweep a b --trials 3'"),
        ("--n-seeds 3 is so many seeds, and --seeds 3-3 the seed 3", "n_seeds=3 is so many seeds, and seeds='3-3' the"),
        ("my--results, a --b", "my--results, a b"),
    ):
        assert translated in translate_options(message)
        assert translate_options(translate_options(message)) == translate_options(message)


def test_an_interrupt_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that goes on after a run that failed must not go on after Ctrl-C."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PackJob, "run", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"is stored\. To continue: tpbench\.run\('digits', 'bp', "):
        tpbench.run("digits", "bp", BP, range(2), 1)


def test_two_threads_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in the middle of its training while the other is."""
    both, before = threading.Barrier(2), PackJob._train

    def train(self: PackJob, heard: Any) -> Any:
        both.wait(60)
        return before(self, heard)

    frames: dict[int, Any] = {}

    def work(seed: int) -> None:
        frames[seed] = tpbench.run("digits", "bp", BP, [seed], 1, results=f"of-{seed}", progress=False)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(PackJob, "_train", train)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    alone = tpbench.run("digits", "bp", BP, range(2), 1, results="alone", progress=False)
    assert [frames[seed].test_error[0] for seed in (0, 1)] == list(alone.test_error)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of sweeps are trained in this process."""
    monkeypatch.setattr("tpbench.sweeps.driver.run_queue", run_here)
    monkeypatch.setattr("tpbench.sweeps.session.ray_running", no_ray)


OPTIONS: dict[str, Any] = {"trials": 2, "n_seeds": 2, "epochs": 1, "pack": 2, "cpus": 2, "progress": False}


def test_a_sweep_gives_its_final_runs_and_a_command_that_continues_it(here: None, folder: Path) -> None:
    frames: list[Any] = []
    thread = threading.Thread(target=lambda: frames.append(tpbench.sweep("digits", ("bp", "dfa"), **OPTIONS)))
    thread.start()
    thread.join()
    assert list(zip(frames[0].method, frames[0].seed, strict=True)) == [("bp", 0), ("bp", 1), ("dfa", 0), ("dfa", 1)]
    (command,) = commands()
    words = shlex.split(command)
    assert words[:2] == ["tpbench", "sweep"]
    parser = get_command(app).commands["sweep"]  # type: ignore[attr-defined]
    given = {name: value for name, value in OPTIONS.items() if name != "progress"}
    options = SweepOptions.read({"workloads": "digits", "methods": "bp,dfa", **given})
    assert parser.read(parser.make_context("sweep", words[2:])) == options
    again = tpbench.sweep("digits", "bp, dfa", **OPTIONS)
    assert list(again.id) == list(frames[0].id)
    board = tpbench.leaderboard("results")
    assert [counts(tuning) for tuning in board.tuning.unique()] == [[2, 1]]  # trials and epochs


def test_pairs_that_make_no_sense_are_left_out_with_a_warning(folder: Path) -> None:
    with (
        pytest.warns(UserWarning, match=r"left out: dfa .*mnist-frozen"),
        pytest.raises(tpbench.TpbenchError, match="mnist"),  # no such data
    ):
        tpbench.sweep("mnist-frozen", ["dfa", "bp"], data=folder, offline=True, **OPTIONS)


def test_a_sweep_that_fails_says_so_and_keeps_the_others(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = PackJob.run

    def run(self: PackJob, *arguments: Any) -> Any:
        if self.plan.method == "dfa":
            raise TpbenchError("no luck today; try --fresh")
        return before(self, *arguments)

    monkeypatch.setattr(PackJob, "run", run)
    with pytest.raises(tpbench.TpbenchError, match=r"^1 of .*digits-dfa-[0-9a-f]{8}: .*fresh=True"):
        tpbench.sweep("digits", "bp,dfa", **OPTIONS)
    assert set(tpbench.load_runs("results").method) == {"bp"}


def test_the_users_own_ray_is_neither_used_unasked_nor_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it is the user's"))
    with pytest.raises(tpbench.UsageError, match=r"address='auto'.*ray\.shutdown"):
        tpbench.sweep("digits", "bp", **OPTIONS)


@pytest.mark.parametrize("name", ["configuration", "results", "precision", "keep_networks", "checkpoint_every"])
def test_none_is_no_value_of_an_option_that_has_another_default(name: str) -> None:
    with pytest.raises(tpbench.UsageError):
        tpbench.run("digits", "bp", **{name: None})
