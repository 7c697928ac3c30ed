"""What a command does not need it does not import: judged by the modules that are loaded, never by a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.records import alignment_record, keep_alignments, record
from tpbench.results import RunStore

# One command after the other; the answer to each: what it printed, and what has been loaded since the first.
_LOADED = """
import io, json, os, sys
from contextlib import redirect_stdout
from tpbench.cli import main
answers, look_for = [], sys.argv[1:]
for arguments, environment in json.load(sys.stdin):
    sys.argv, printed = ["tpbench", *arguments], io.StringIO()
    os.environ.update(environment)
    with redirect_stdout(printed):
        try:
            main()
        except SystemExit:
            pass
    answers.append([printed.getvalue(), [name for name in look_for if name in sys.modules]])
print("\\n" + json.dumps(answers))
"""
TRAINING = (
    "torch",
    "ray",
    "hyperopt",
    "matplotlib",
    "sklearn",
    "scipy.stats",
    "scipy.optimize",
    "jinja2",
    "s3fs",
    "tensorboard",
    "mlflow",
)
TABLES = ("pandas", "scipy", *TRAINING)


Call = tuple[list[str], dict[str, str]]


def called(folder: Path, calls: list[Call], look_for: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """Call commands with these arguments and variables in one process.

    Returns:
        What each printed, and which of the modules had been loaded by then.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED, *look_for],
        cwd=folder,
        input=json.dumps(calls),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TPBENCH_DATA": str(folder / "data")},
    )
    return [(text, loaded) for text, loaded in json.loads(ended.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small store and a sweep."""
    made = tmp_path_factory.mktemp("imports")
    for method in ("bp", "dtp", "ddtp-linear"):
        for seed in range(4):
            RunStore(made / "results").publish(record(method, seed, [0.5, 0.02 + seed / 1000]))
    keep_alignments(made / "results", alignment_record("fashion-mnist", "bp", [1.0] * 5))
    (made / "results" / "sweeps" / "mnist-bp-12345678").mkdir(parents=True)
    (made / "results" / "sweeps" / "mnist-bp-12345678" / "sweep.json").write_text("{}")
    return made


NAMES = ("--help", "methods", "run mnist pb", "results check --help")
"""Commands that read no record."""
LIGHT = (
    *NAMES,
    "sweep --help",
    "swep",
    "sweep minst bp",
    "table 9",
    "plot curves minst",
    "figure 9",
    "workloads",
    "sweeps",
    "data list",
    "results check",
)


MODELS = ("tpbench.results.schemas", "tpbench.search.journal")
"""The models of records."""


@pytest.fixture(scope="module")
def loaded_by_commands(folder: Path) -> dict[str, set[str]]:
    """Which of the modules have been loaded after each of LIGHT, one after the other in one process."""
    answers = called(folder, [(command.split(), {}) for command in LIGHT], (*TABLES, *MODELS))
    return {command: set(loaded) for command, (_, loaded) in zip(LIGHT, answers, strict=True)}


def test_help_slips_and_lists_import_nothing_heavy(loaded_by_commands: dict[str, set[str]]) -> None:
    heavy = {command: loaded - set(MODELS) for command, loaded in loaded_by_commands.items()}
    assert {command: loaded for command, loaded in heavy.items() if loaded} == {}


def test_help_and_names_do_not_import_the_models_of_records(loaded_by_commands: dict[str, set[str]]) -> None:
    assert {command: loaded_by_commands[command] for command in NAMES} == {command: set() for command in NAMES}


OF_TABLES = (
    "leaderboard",
    "table 1",
    "table s6 --format csv",
    "table s7",
    "table angles",
    "table overview",
    "table epochs",
    "compare bp dtp",
)


def test_tables_need_neither_torch_nor_slow_statistics(folder: Path) -> None:
    answers = called(folder, [(command.split(), {}) for command in OF_TABLES], TRAINING)
    for command, (text, loaded) in zip(OF_TABLES, answers, strict=True):
        assert loaded == [], command
        assert "bp" in text or "BP" in text, command


CODE = {
    "package": "import tpbench; assert 'load_runs' in dir(tpbench)",
    "mailbox": "import tpbench.sweeps.mailbox",
    "names": "from tpbench import *; run, load_runs, TpbenchError",
    "packages": "import tpbench.engine, tpbench.results, tpbench.workloads, tpbench.results.store",
    "digits": "tpbench.workloads.load('digits')",
    "store": (
        "tpbench.load_runs(store); tpbench.load_curves(store); "
        "import warnings; warnings.simplefilter('ignore'); tpbench.load_trials(store); "
        "tpbench.leaderboard(store); tpbench.table(store, 's6'); tpbench.compare(store, 'bp', 'dtp')"
    ),
    "page": "import tpbench.reports.page, tpbench.reports.forest",
}
"""Python code that imports ever more, so that one process tells of all."""
_STEPS = """
import sys
before, store = set(sys.modules), sys.argv[1]
for code in sys.argv[2:]:
    exec(code)
    print(*(set(sys.modules) - before))
"""


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[str, set[str]]:
    """The modules that have been loaded after each piece of CODE, one after the other in one process."""
    command = [sys.executable, "-c", _STEPS, str(folder / "results"), *CODE.values()]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return {name: set(line.split()) for name, line in zip(CODE, lines, strict=True)}


def test_packages_are_imported_without_torch(loaded: dict[str, set[str]]) -> None:
    assert not {"torch", "pandas"} & loaded["packages"]
    assert "torch" not in loaded["page"]


def test_every_public_name_is_there() -> None:
    import tpbench
    from tpbench import engine, results, workloads

    for package in (tpbench, engine, results, workloads):
        assert all(hasattr(package, name) for name in package.__all__)
        assert not hasattr(package, "nothing_of_that_name")


def test_the_package_is_imported_in_no_time(loaded: dict[str, set[str]]) -> None:
    """Nothing of it is read but its first file; what is heavy waits until a name is used."""
    assert loaded["package"] <= {"tpbench", "__future__"}
    assert not {"numpy", *TABLES} & loaded["names"]


def test_reading_a_store_from_python_needs_no_torch(loaded: dict[str, set[str]]) -> None:
    assert not set(TRAINING) & loaded["store"]


def test_a_method_does_not_import_the_packages_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tpbench.engine import get_method, method_names, method_title

    information = tmp_path / "heavy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[tpbench.methods]\nheavy-rule = tp_heavy_rule:RULE\n")
    (tmp_path / "tp_heavy_rule.py").write_text(
        "from dataclasses import replace\nfrom tpbench.engine import METHODS\n"
        "RULE = replace(METHODS['bp'], title='Heavy')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_method("dtp").title == method_title("dtp") == "DTP"
    assert "heavy-rule" in method_names()
    assert "tp_heavy_rule" not in sys.modules
    assert get_method("heavy-rule").title == "Heavy"


COMPLETED = {
    "sweep mn": ["mnist", "mnist-3x256", "mnist-frozen"],
    "sweep mnist ddtp-rhl-r": ["ddtp-rhl-rec", "ddtp-rhl-rec-extra-fb"],
    "compare bp gn": ["gnt"],
    "leaderboard cif": ["cifar10", "cifar10-conv", "cifar10-conv-loss"],
    "leaderboard --baseline gn": ["gnt"],
    "table o": ["overview"],
    "plot search ": ["mnist-bp-12345678"],
    "plot curves cif": ["cifar10", "cifar10-conv", "cifar10-conv-loss"],
    "plot tuning cif": ["cifar10", "cifar10-conv", "cifar10-conv-loss"],
    "plot --results nowhere search ": [],
    "figure s": ["s2", "s3", "s4", "s5", "s6"],
    "table s": ["s6", "s7"],
    "sweep digits bp --start pu": ["published"],
}


def test_the_shell_completes_names_without_importing_anything(folder: Path) -> None:
    calls: list[Call] = []
    for line in COMPLETED:
        words = {"COMP_WORDS": f"tpbench {line}", "COMP_CWORD": str(len(line.split(" ")))}
        variables = {"_TPBENCH_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": f"tpbench {line}", **words}
        calls.append(([], variables))
    answers = called(folder, calls, TABLES)
    assert {line: text.split() for line, (text, _) in zip(COMPLETED, answers, strict=True)} == COMPLETED
    assert answers[-1][1] == []


def test_completion_can_be_installed(folder: Path) -> None:
    called(
        folder,
        [
            (
                ["--install-completion", "bash"],
                {"HOME": str(folder), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
            )
        ],
    )
    assert "_TPBENCH_COMPLETE" in (folder / ".bash_completions" / "tpbench.sh").read_text()


def test_a_process_of_a_sweep_imports_no_more_than_its_work_needs(loaded: dict[str, set[str]]) -> None:
    assert not {"torch", "ray", "pandas", "pydantic"} & loaded["mailbox"]
    assert not {"sklearn", "scipy.stats"} & loaded["digits"]
