"""The command line: listings, typos, wrong input, and runs without Ray."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import tpbench as package
from tests.conftest import CONFIGURATION, SHARED, CommandLine, Inside
from tests.results.records import record
from tpbench.engine import METHODS
from tpbench.results import RunStore
from tpbench.workloads import WORKLOADS


def write_configuration(folder: Path, method: str) -> str:
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump({k: CONFIGURATION[k] for k in METHODS[method].hyperparameters}))
    return str(path)


def test_listings(tpbench_inside: Inside) -> None:
    methods, workloads = tpbench_inside("methods").stdout, tpbench_inside("workloads").stdout
    assert all(name in methods for name in METHODS)
    assert all(name in workloads for name in WORKLOADS)
    assert tpbench_inside("--version").stdout.startswith("tpbench ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "mnist", "ddtp_rhl"], "unknown method 'ddtp_rhl': did you mean 'ddtp-rhl'?"),
        (["sweep", "minst", "bp"], "unknown workload 'minst': did you mean 'mnist'?"),
        (["sweep", "mnist-frozen", "dfa"], "dfa cannot be trained on mnist-frozen"),
        (["run", "digits-conv", "fa"], "fa cannot be trained on digits-conv"),
        (["sweep", "digits-conv", "kp,dtp"], "kp cannot be trained on digits-conv"),
        (["run", "digits-conv", "bp,drtp"], "no configuration of drtp on digits-conv"),
        (["run", "digits-conv", "field,drtp"], "no configuration of drtp on digits-conv"),
        (["align", "digits-conv", "ddtp-rhl-rec"], "ddtp-rhl-rec cannot be trained on digits-conv"),
        (["bench", "--workloads", "digits-conv", "--methods", "fa"], "fa cannot be trained on digits-conv"),
        (["show", "config", "cifar10-conv", "usf"], "usf cannot be trained on cifar10-conv"),
        (["sweep", "digits", "bp", "--trials", "0"], "--trials"),
        (["sweep", "digits", "bp", "--epochs", "-3"], "--epochs"),
        (["sweep", "digits", "bp", "--space", "absent.yaml"], "absent.yaml: could not be read"),
        (["sweep", "digits", "bp", "--pack", "many"], "--pack 'many'"),
        (["bench", "--methods", "bpp"], "unknown method 'bpp': did you mean 'bp'?"),
        (["bench", "--precision", "tf32", "--device", "cpu", "--workloads", "digits"], "on a GPU only"),
        (["run", "digits", "bp", "--config", "published"], "no published configuration of bp on digits"),
        (["run", "mnist", "gnt"], "gnt on mnist"),
        (["run", "digits", "bp", "--config", "absent.yaml"], "'absent.yaml'"),
        (["run", "digits", "bp", "--config", "best"], "holds no run of bp on digits"),
        (["run", "mnist", "bp", "--seeds", "-1"], "seeds '-1'"),
        (["run", "mnist", "bp", "--precision", "float16"], "unknown precision 'float16'"),
        (["sweep", "digits", "bp", "--search-precision", "flaot64"], "search precision 'flaot64': did you mean 'fl"),
        (["submit", "digits", "bp", "--address", "http://h:1", "--search-precision", "x9"], "search precision 'x9'"),
        (["sweep", "digits", "bp", "--gpus", "0", "--precision", "tf32"], "error: precision tf32 exists on a GPU only"),
        (["sweep", "digits", "bp", "--gpus", "0", "--search-precision", "tf32"], "error: search precision tf32 exists"),
        (["run", "mnist", "bp", "--device", "cpu", "--precision", "tf32"], "error: precision tf32 exists on a GPU"),
        (["run", "mnist", "bp", "--device", "tpu"], "unknown device 'tpu'"),
        (["table", "s9"], "unknown table 's9'"),
        (["table", "1", "--format", "pdf"], "unknown format 'pdf'"),
        (["leaderboard", "digit"], "did you mean 'digits'"),
        (["data", "get", "../etc"], "unknown data set '../etc'"),
        (["data", "import", "mnist", "absent.npz"], "absent.npz: there is no such file"),
        (["leaderboard"], "holds no run yet"),
        (["swep"], "swep"),
    ],
)
def test_bad_usage_is_one_clear_error_and_exit_code_2(
    tpbench_inside: Inside, arguments: list[str], message: str
) -> None:
    result = tpbench_inside(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mnist", "bp"], "tpbench data get mnist"),
        (["sweep", "cifar10", "ddtp-rhl"], "tpbench data import cifar10 FILE.npz"),
        (["data", "import", "mnist", "bad.npz"], "bad.npz: damaged"),
    ],
)
def test_failed_work_is_one_clear_error_and_exit_code_1(
    tpbench_inside: Inside, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK")
    result = tpbench_inside(*arguments)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_run_then_table_and_leaderboard(tpbench: CommandLine, tpbench_inside: Inside, tmp_path: Path) -> None:
    configuration = write_configuration(tmp_path, "ddtp-linear")
    first = tpbench("run", "digits", "ddtp-linear", "--config", configuration, "--seeds", "0-2", "--epochs", "2")
    assert first.returncode == 0, first.stderr
    assert "3 seeds" in first.stdout
    again = tpbench_inside("run", "digits", "ddtp-linear", "--config", "best", "--seeds", "0-3", "--epochs", "2")
    assert "3 of" in again.stdout
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 4
    board = tpbench_inside("leaderboard", "--write")
    assert "DDTP-linear" in board.stdout
    frame = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    row = frame.iloc[0]
    assert (row.workload, row.method, row.seeds, row.epochs) == ("digits", "ddtp-linear", "0-3", 2)
    bodies = [json.loads(p.read_text()) for p in (tmp_path / "results" / "runs").glob("*.json")]
    errors = [100 * body["test_error"] for body in bodies]
    assert row.test_error_mean == pytest.approx(np.mean(errors), abs=1e-3)
    assert row.test_error_std == pytest.approx(np.std(errors, ddof=1), abs=1e-3)
    overview = pd.read_csv(io.StringIO(tpbench_inside("table", "overview", "--format", "csv").stdout)).iloc[0]
    assert (overview.workload, overview.could_be_best) == ("digits", "open")
    assert overview.test_error_mean == pytest.approx(row.test_error_mean)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_the_digits_at_once(tmp_path: Path, method: str) -> None:
    package.run("digits", method, seeds=[0], epochs=1, results=tmp_path, progress=False)
    row = package.leaderboard(tmp_path).iloc[0]
    assert (row["method"], row["tuning"]) == (method, "27 x 20 halved")
    assert not np.isnan(row["test_error_mean"])
    assert package.table(tmp_path, "1").empty or "digits" not in set(package.table(tmp_path, "1")["workload"])


@pytest.mark.slow
@pytest.mark.data
def test_mnist_with_the_published_configuration(tpbench: CommandLine, shared_data: Path, tmp_path: Path) -> None:
    imported = tpbench("data", "import", "mnist", str(shared_data / "mnist.npz"))
    assert imported.returncode == 0, imported.stderr
    result = tpbench("run", "mnist", "bp", "--seeds", "0-1", "--epochs", "1")
    assert result.returncode == 0, result.stderr
    (body, _) = [json.loads(p.read_text()) for p in (tmp_path / "results" / "runs").glob("*.json")]
    assert body["data_label"] == ""
    assert body["test_error"] < 0.08
    table = pd.read_csv(io.StringIO(tpbench("table", "1", "--format", "csv").stdout)).set_index(["workload", "method"])
    assert tuple(table.loc[("mnist", "bp"), ["seeds", "epochs", "compared"]]) == ("0-1", 1, "1 epoch")


@pytest.mark.data
def test_a_folder_of_keras_files_is_a_data_folder(tpbench_inside: Inside, shared_data: Path) -> None:
    listing = tpbench_inside("data", "list", "--data", str(SHARED)).stdout
    assert listing.count("ready (exact)") == 2


def test_bench_prints_rows_and_draws(tpbench_inside: Inside, tmp_path: Path) -> None:
    arguments = ("bench", "--workloads", "digits", "--methods", "bp,ddtp-rhl", "--pack", "1,3", "--seconds", "0.05")
    result = tpbench_inside(*arguments, "--json", "--plot", "scaling.png")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(r["method"], r["pack"]) for r in rows] == [("bp", 1), ("bp", 3), ("ddtp-rhl", 1), ("ddtp-rhl", 3)]
    for row in rows:
        assert row["member_epochs_per_second"] == pytest.approx(row["pack"] / (row["step_seconds"] * 38))
        assert sum(row["phases"].values()) == pytest.approx(1)
        assert row["fraction"] == pytest.approx(row["rate"] / row["product_rate"])
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_bench_compares_precisions(tpbench_inside: Inside) -> None:
    arguments = ("bench", "--workloads", "digits", "--methods", "bp", "--pack", "1", "--seconds", "0.05")
    result = tpbench_inside(*arguments, "--device", "cpu", "--precision", "float32,float64")
    assert result.returncode == 0, result.stderr
    assert "times float32" in result.stdout
    rows = [line.split("│")[1:] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [row[3].strip() for row in rows] == ["float32", "float64"]
    assert rows[0][4].strip() == "1.00"
    assert float(rows[1][4]) > 0  # a time: two of them may be equal
    refused = tpbench_inside(*arguments, "--device", "cpu", "--precision", "float32,tf32")
    assert refused.returncode == 2
    assert "tf32" in refused.stderr


# Commands one after the other in a process that has neither: torch is imported once.
WITHOUT_RAY = """
import json, sys
sys.modules["ray"] = sys.modules["hyperopt"] = None
from tpbench.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["tpbench", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("ended", arguments[0])
import pathlib, tpbench
print(tpbench.load_network("results", next(pathlib.Path("results/networks").iterdir()).stem))
"""


def test_runs_and_benchmarks_need_no_ray(tmp_path: Path) -> None:
    """The GPU machine has neither ray nor hyperopt."""
    configuration = write_configuration(tmp_path, "bp")
    commands = [
        ["run", "digits", "bp", "--config", configuration, "--seeds", "0", "--epochs", "1", "--keep-networks"],
        ["bench", "--workloads", "digits", "--methods", "bp", "--seconds", "0.01"],
        ["leaderboard"],
    ]
    process = [sys.executable, "-c", WITHOUT_RAY, json.dumps(commands)]
    result = subprocess.run(process, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("ended ")] == [
        f"ended {command[0]}" for command in commands
    ]
    assert "Linear(in_features=64, out_features=10" in result.stdout


def test_doctor_names_what_is_missing_and_the_remedy(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = tpbench_inside("doctor")
    assert healthy.returncode == 0
    assert "get cifar10" in " ".join(healthy.stdout.split())
    assert "not downloaded yet" in healthy.stdout
    assert "not usable" not in healthy.stdout
    assert "0 damaged" in healthy.stdout
    runs = tmp_path / "results" / "runs"
    runs.mkdir(parents=True)
    (runs / f"{'0' * 24}.json").write_text("{}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    sick = tpbench_inside("doctor").stdout
    assert "1 damaged" in sick
    assert "unset RAY_AUTH_MODE" in sick


def test_a_workload_of_the_store_alone_needs_its_file(tpbench_inside: Inside, tmp_path: Path) -> None:
    RunStore(tmp_path / "results").publish(record("bp", workload="eeg"))
    ended = tpbench_inside("show", "config", "eeg", "bp")
    assert ended.returncode == 2
    assert "eeg.yaml" in ended.stderr


def test_data_that_are_no_npz_file_are_refused_with_what_makes_one(tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "eeg.csv").write_text("a,b\n1,2\n")
    (tmp_path / "eeg.yaml").write_text("name: eeg\nlike: digits\ndata: eeg.csv\n")
    ended = tpbench_inside("workloads", "eeg.yaml")
    assert ended.returncode == 2
    assert "numpy.savez('eeg.npz'" in ended.stderr


def test_the_package_is_a_program(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tpbench", "methods", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tpbench methods" in ended.stdout
