"""What commands print depends neither on the terminal's encoding nor on what rich takes for markup."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console

from tests.conftest import CONFIGURATION, Ended, Inside
from tests.results.records import record
from tpbench.cli import app
from tpbench.cli.app import PANELS, OptionsCommand
from tpbench.engine import METHODS
from tpbench.results import RunStore
from tpbench.results.formats import REPLACE, listing, plain_table, showable
from tpbench.results.runs import PUBLISHED
from tpbench.search.definition import SweepDefinition
from tpbench.sweeps import jobs
from tpbench.training.console import redirect_output
from tpbench.training.progress import LiveView, PlainView

HOSTILE = "[b]x[/b] [n] :x: é"
RUN = ("--config", "c.yaml", "--seeds", "0,1", "--epochs", "1")

COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "sweep": (("digits", "bp", "--space", "é.yaml"), 2),
    "sweeps": ((), 0),
    "run": (("digits", "bp", *RUN), 0),
    "reproduce": (("--dry-run", "--workloads", "mnist", "--methods", "bp"), 0),
    "align": (("digits", "bp", *RUN), 0),
    "methods": ((), 0),
    "workloads": ((), 0),
    "table": (("s6",), 0),
    "leaderboard": ((), 0),
    "compare": (("bp", "dtp"), 0),
    "figure": (("é",), 2),
    "plot": (("forest", "mnist"), 0),
    "report": (("--output", "é.html"), 0),
    "bench": (("--workloads", "digits", "--methods", "bp", "--seconds", "0.01"), 0),
    "doctor": ((), 0),
    "submit": (("digits", "bp", "--results", "/é", "--address", "http://head:1"), 0),
    "status": (("--address", "http://head:1"), 0),
    "logs": (("é", "--address", "http://head:1"), 0),
    "stop": (("é", "--address", "http://head:1"), 0),
    "data get": (("é",), 2),
    "data import": (("mnist", "é.npz"), 2),
    "data list": (("--data", "é"), 0),
    "results check": ((), 0),
    "results merge": (("results", "é"), 0),
    "results pack": (("é.zip",), 0),
    "results export": (("é.csv",), 0),
    "results remove": (("é",), 2),
    "results export-network": (("é", "é.pt"), 2),
    "results track": (("results", "--track", "tensorboard:é"), 0),
    "verify device": ((), 0),
    "verify fixtures": (("é",), 2),
    "verify method": (("bp",), 0),
    "verify theory": ((), 2),
    "show config": (("mnist", "ddtp-rhl"), 0),
    "show space": (("dfa",), 0),
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the application, by the words that call it."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    yield from walk(typer.main.get_command(app), ())


InAscii = Callable[..., Ended]


@pytest.fixture
def in_ascii(tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch) -> InAscii:
    """The command line where standard output and error are ASCII; what it prints must be."""

    def call(*arguments: str) -> Ended:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            ended = tpbench_inside(*arguments)
        out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams)  # type: ignore[attr-defined]
        return Ended(ended.returncode, out, err)

    return call


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with runs, a sweep, and a cluster that answers."""
    store = RunStore(tmp_path / "results")
    for method in ("bp", "dtp"):
        for seed in range(3):
            copy: dict[str, Any] = {"label": HOSTILE, "fingerprint": "a" * 64}
            for data in ({}, copy):
                store.publish(record(method, seed, [0.5, 0.02 + 0.001 * seed], found=PUBLISHED, **data))
    begin_sweep(tmp_path / "results", "digits-bp-é")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}))
    job = jobs.Job(HOSTILE, HOSTILE, HOSTILE, f"tpbench sweep digits bp --results '/{HOSTILE}'")
    monkeypatch.setattr(jobs, "jobs", lambda address: [job])
    monkeypatch.setattr(jobs, "submit", lambda *arguments: HOSTILE)
    monkeypatch.setattr(jobs, "logs", lambda *arguments: "2.0 ± 0.1 é\n")
    monkeypatch.setattr(jobs, "stop", lambda *arguments: True)


def begin_sweep(results: Path, name: str, command: str = "tpbench sweep digits bp") -> None:
    folder = results / "sweeps" / name
    folder.mkdir(parents=True)
    definition = SweepDefinition("digits", "bp", "f" * 64, {}, 4, 2, (0,), 0, 1, 1)
    (folder / "sweep.json").write_text(json.dumps(definition.plain()))
    (folder / "command").write_text(command + "\n", encoding="utf-8")


def words_of(command: Any) -> list[str]:
    """The words of the example in a command's help."""
    start, example = command.epilog.split(": ", 1)
    assert start == "Example"
    return shlex.split(example)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "verify theory"])
def test_every_command_has_an_example_that_its_grammar_takes(command: str, tmp_path: Path) -> None:
    found = dict(commands())[command]
    program, *words = words_of(found)
    assert (program, words[: command.count(" ") + 1]) == ("tpbench", command.split())
    context = found.make_context(command, words[command.count(" ") + 1 :])
    if isinstance(found, OptionsCommand):
        found.read(context)


def test_every_parameter_has_a_text_and_no_flag_shows_a_type() -> None:
    for name, command in commands():
        for parameter in command.get_params(typer.Context(command)):
            assert parameter.help, (name, parameter.name)
            if getattr(parameter, "is_flag", False):
                assert parameter.metavar == "", (name, parameter.name)


def test_the_list_of_commands_is_grouped() -> None:
    application = typer.main.get_command(app)
    listed = application.list_commands(typer.Context(application))  # type: ignore[attr-defined]
    panels = [application.commands[name].rich_help_panel for name in listed]  # type: ignore[attr-defined]
    assert panels == sorted(panels, key=PANELS.index)
    assert set(panels) == set(PANELS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "digits", "bp", "--epochs", "0"),
        ("run", "digits", "bp", "--epochs", "many"),
        ("sweep", "digits", "bp", "--trials", "-1"),
        ("bench", "--seconds", "0"),
        ("bench", "--seconds", "nan"),
        ("verify", "fixtures", ".", "--pack", "1001"),
        ("report", "--watch", "--every", "0.5"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_the_option_and_the_range(
    tpbench_inside: Inside, arguments: tuple[str, ...]
) -> None:
    ended = tpbench_inside(*arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {arguments[-2]} ")
    assert re.search(r"from \S+ to \S+$", line)


def test_methods_are_a_line_each_and_one_shows_all_of_it(tpbench_inside: Inside) -> None:
    lines = tpbench_inside("methods").stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(METHODS)]] == list(METHODS)
    assert max(map(len, lines)) <= 100
    for name, method in METHODS.items():
        assert method.formula
        assert method.formula.isascii()
        shown = tpbench_inside("methods", name).stdout
        assert method.formula in shown
        assert all(f" {hyperparameter} " in shown for hyperparameter in method.names)
    rows = json.loads(tpbench_inside("methods", "--json", "bp", "gnt").stdout)
    assert [row["name"] for row in rows] == ["bp", "gnt"]
    assert [row["convolutions"] for row in rows] == [True, False]
    assert set(rows[1]["hyperparameters"]) == set(METHODS["gnt"].names)
    assert tpbench_inside("methods", "pb").returncode == 2


@pytest.mark.parametrize(("workload", "all_methods"), [("digits", True), ("digits-conv", False)])
def test_a_workload_lists_the_methods_that_train_it(
    tpbench_inside: Inside, workload: str, all_methods: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (line,) = [x for x in tpbench_inside("workloads", workload).stdout.splitlines() if "trained by" in x]
    names = re.findall(r"[a-z0-9-]+", line.split("│")[2])
    assert names == (["all"] if all_methods else [m for m in METHODS if not METHODS[m].convolution_refusal])


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_word_of_a_table_is_broken_where_there_is_room(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("tpbench.results.formats.Console", lambda **settings: Console(force_terminal=True, width=width))
    rows = [("ddtp-linear", "2.05 ± 0.14 [without seeds 3-9]", "+0.00 [-0.18, +0.18]", "no difference shown")]
    shown = listing(("method", "test error (%)", "difference", "verdict"), rows)
    words = {word for cell in rows[0] for word in cell.split()}
    plain = set(re.sub(r"\x1b\[[0-9;]*m|[│┃]", " ", shown).split())
    assert words <= plain
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= width


def test_boxes_are_plain_letters_in_the_c_locale(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tpbench", "run", "digits"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert ended.returncode == 2
    assert b"METHODS" in ended.stderr
    assert ended.stderr.isascii()


def test_every_command_is_tried() -> None:
    assert dict(commands()).keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_depends_on_the_encoding(in_ascii: InAscii, filled: None, command: str) -> None:
    arguments, code = COMMANDS[command]
    ended = in_ascii(*command.split(), *arguments)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code, ended
    assert ended.stdout or ended.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_help_depends_on_the_encoding_or_holds_markup(in_ascii: InAscii, command: str) -> None:
    ended = in_ascii(*command.split(), "--help")
    assert ended.returncode == 0
    assert "Usage:" in ended.stdout
    if command:
        found = dict(commands())[command]
        texts = [found.help, *(getattr(parameter, "help", "") for parameter in found.params)]
        # rich would take it for a style or an emoji, and leave it out.
        assert not [text for text in texts if text and re.search(r"\[(?!default|required)|:\w+:", text)]


def test_what_cannot_be_shown_is_spelled(in_ascii: InAscii, filled: None) -> None:
    board = in_ascii("leaderboard").stdout
    assert "3.10 +- 0.10" in board
    assert r"\xe9" in board
    # Its columns stay where they are.
    assert len({len(line) for line in board.splitlines() if line.startswith(("|", "+"))}) == 1
    assert showable("a ± b ≠ c …", io.TextIOWrapper(io.BytesIO(), encoding="latin-1")) == "a ± b != c ..."
    assert showable("\udcff ✓", io.TextIOWrapper(io.BytesIO(), encoding="ascii")) == r"\udcff \u2713"
    assert "±" in listing(["x"], [["±"]])


def test_what_comes_past_rays_noise_and_progress_is_spelled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        with redirect_output(tmp_path / "log") as stream:
            PlainView(Console(file=stream)).say("é: 2.0 ± 0.1")
    assert capfd.readouterr().out == "\\xe9: 2.0 +- 0.1\n"


@pytest.mark.parametrize("live", [False, True])
def test_progress_shows_brackets(live: bool) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=REPLACE, write_through=True)
    console = Console(file=stream, force_terminal=live, width=60)
    view = LiveView(console) if live else PlainView(console)
    if isinstance(view, LiveView):
        view.progress.start()
    view.start("[red]epochs[/red]", 4)
    view.update("[red]epochs[/red]", 4, 4, 0.5)
    view.say(f"{HOSTILE} " + "long " * 20)
    if isinstance(view, LiveView):
        view.progress.stop()
    written = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "[red]epochs[/red]" in written
    assert HOSTILE.replace("é", r"\xe9") + " long" in written


def test_no_text_passes_through_richs_markup(tpbench_inside: Inside, filled: None, tmp_path: Path) -> None:
    shown = HOSTILE.split(" é")[0]
    for command in (("leaderboard",), ("table", "s6"), ("compare", "bp", "dtp"), ("status", "--address", "http://h:1")):
        printed = " ".join(re.sub(r"[│┃|]", " ", tpbench_inside(*command).stdout).split())
        assert all(word in printed for word in HOSTILE.split()), (command, printed)
    begin_sweep(tmp_path / "results", shown.replace("/", "!"))
    assert shown.replace("/", "!") in tpbench_inside("sweeps").stdout
    for slip in (("run", HOSTILE, "bp"), ("table", HOSTILE), ("plot", "search", HOSTILE)):
        assert HOSTILE in tpbench_inside(*slip).stderr
    assert HOSTILE in listing([HOSTILE], [[HOSTILE]], HOSTILE, HOSTILE)
    assert str(plain_table(HOSTILE, [HOSTILE], HOSTILE).caption) == HOSTILE


def test_commands_stand_below_tables_in_one_piece(tpbench_inside: Inside, filled: None, tmp_path: Path) -> None:
    command = "tpbench sweep digits bp --space " + "/long" * 80
    begin_sweep(tmp_path / "results", "digits-bp-5521969e", command)
    assert command in tpbench_inside("sweeps").stdout.splitlines()
    command = f"tpbench sweep digits bp --results '/{HOSTILE}'"
    assert command in tpbench_inside("status", "--address", "http://head:1").stdout.splitlines()
    folder = tmp_path / ("d" * 180)
    command = "tpbench data get cifar10"
    assert command in tpbench_inside("data", "list", "--data", str(folder)).stdout
    assert command in tpbench_inside("doctor", "--data", str(folder)).stdout
