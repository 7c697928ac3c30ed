"""Options: what they take, what they refuse, and how they are written down."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

import tpbench
from tests.conftest import Inside
from tpbench.cli import app
from tpbench.cli.app import OptionsCommand
from tpbench.engine import PRECISIONS, UsageError
from tpbench.options import (
    MODELS,
    PANELS,
    InvalidOptionError,
    Objective,
    Options,
    Precision,
    ReproduceOptions,
    RunOptions,
    SweepOptions,
    continuing,
    format_command,
    format_seeds,
    options_table,
    parse_duration,
    parse_older_command,
    parse_seeds,
    read_seeds,
    recorded,
)
from tpbench.results.paper import ERROR_TABLES
from tpbench.results.runs import OBJECTIVES
from tpbench.training.choice import read_options

SWEEP = {"workloads": "digits", "methods": "bp"}
RUN = {"workload": "digits", "method": "bp"}


def test_choices_are_those_of_the_layers_that_know_them() -> None:
    assert get_args(Precision) == tuple(PRECISIONS)
    assert get_args(Objective) == OBJECTIVES
    assert get_args(ReproduceOptions.model_fields["table"].annotation) == tuple(ERROR_TABLES)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-9", range(10)), ("3", [3]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("1,1-2", [1, 2])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == tuple(seeds)


@pytest.mark.parametrize("text", ["", "-1", "9-0", "a", "1,,2", "4294967296", "1-2-3", "0-99999", "٣", "9" * 5000])
@pytest.mark.parametrize("model", [RunOptions, SweepOptions])
def test_wrong_seeds(model: type[Options], text: str) -> None:
    with pytest.raises(InvalidOptionError) as raised:
        model.read({**(RUN if model is RunOptions else SWEEP), "seeds": text})
    assert (raised.value.parameter, raised.value.value) == ("seeds", text)


@given(st.lists(st.integers(0, 50) | st.integers(0, 2**32 - 1), min_size=1))
def test_seeds_survive_being_written(seeds: list[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == read_seeds(seeds) == tuple(dict.fromkeys(seeds))


def test_seeds_are_written_short() -> None:
    assert format_seeds(range(10)) == "0-9"
    assert format_seeds([0, 1, 2, 7, 5]) == "0-2,7,5"
    assert read_seeds(iter([np.int64(3), 4])) == (3, 4)
    assert parse_seeds(format_seeds(range(25_000))) == tuple(range(25_000))  # longer than one range may be


@pytest.mark.parametrize("seeds", [3, "3", " 3 ", np.int64(3)])
@pytest.mark.parametrize("model", [SweepOptions, ReproduceOptions])
def test_a_number_alone_is_no_list_where_it_was_a_count(model: type[Options], seeds: object) -> None:
    with pytest.raises(InvalidOptionError) as raised:
        model.read({**(SWEEP if model is SweepOptions else {}), "seeds": seeds})
    assert raised.value.parameter == "seeds"


@pytest.mark.parametrize("command", [("sweep", "digits", "bp"), ("reproduce",)])
def test_both_spellings_are_named(tpbench_inside: Inside, command: tuple[str, ...]) -> None:
    ended = tpbench_inside(*command, "--seeds", "10")
    assert ended.returncode == 2
    assert "--n-seeds 10" in ended.stderr
    assert "10-10" in ended.stderr
    with pytest.raises(UsageError) as raised:
        tpbench.sweep("digits", "bp", seeds=10)  # type: ignore[arg-type]
    assert raised.value.parameter == "seeds"
    assert "n_seeds=10" in str(raised.value)
    assert "seeds='10-10'" in str(raised.value)


def test_the_name_of_an_older_version_is_refused_with_that_of_today(tpbench_inside: Inside) -> None:
    for words in (("--final-seeds", "1-3"), ("--final-seeds=1-3",)):
        ended = tpbench_inside("sweep", "digits", "bp", *words)
        assert ended.returncode == 2
        assert "--seeds" in ended.stderr.partition("--final-seeds")[2]
    with pytest.raises(UsageError, match=r"final_seeds .*\bseeds\b"):
        tpbench.sweep("digits", "bp", final_seeds=[1])  # type: ignore[call-arg]


def test_the_seeds_of_each_command() -> None:
    assert SweepOptions.read(SWEEP).seed_list == RunOptions.read(RUN).seed_list == tuple(range(10))
    assert SweepOptions.read({**SWEEP, "n_seeds": 3}).seed_list == (0, 1, 2)
    assert SweepOptions.read({**SWEEP, "seeds": "7,1-2"}).seed_list == (1, 2, 7)
    assert SweepOptions.read({**SWEEP, "seeds": "10-10"}).seed_list == (10,)
    assert RunOptions.read({**RUN, "seeds": "7,1-2"}).seed_list == (7, 1, 2)
    assert RunOptions.read({**RUN, "seeds": "3"}).seed_list == (3,)
    assert MODELS["align"].read(RUN).seed_list == (0,)  # type: ignore[attr-defined]
    with pytest.raises(InvalidOptionError) as raised:
        SweepOptions.read({**SWEEP, "seeds": "1-3", "n_seeds": 3})
    assert raised.value.parameter == "n_seeds"


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1.5h", 5400), ("300s", 300), ("1d", 86400)]
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == ReproduceOptions.read({"budget": text}).budget_seconds == seconds


@pytest.mark.parametrize(
    ("value", "read"),
    [("60s", "60s"), (" 5m ", "5m"), ("1.5h", "1.5h"), ("5", 5), (5, 5), (np.int64(2), 2), ("1000000", 1_000_000)],
)
def test_the_interval_of_checkpoints_is_a_time_or_a_number_of_epochs(value: object, read: int | str) -> None:
    options = RunOptions.read({**RUN, "checkpoint_every": value})
    assert options.checkpoint_every == read
    assert type(options.checkpoint_every) is type(read)
    # A number, which older versions recorded, is read from a command line, from JSON and from a sweep's folder alike.
    plain = json.loads(json.dumps(options.plain()))
    assert plain.get("checkpoint_every", "60s") == read
    older = parse_older_command(f"tpbench sweep digits bp --checkpoint-every '{value}'")
    assert older.get("checkpoint_every", "60s") == read


WRONG: list[tuple[str, object]] = [
    *[("budget", text) for text in ("2", "h", "-1h", "0h", "2 hours", "1e9h", "nan", "", "٣h", 2)],
    *[
        ("checkpoint_every", every)
        for every in (
            "",
            "0",
            "0s",
            "-1",
            "-5s",
            "5 s",
            "1.5",
            "60sec",
            "1000001",
            "9" * 5000,
            "\u0663",
            0,
            1.5,
            True,
            None,
        )
    ],
    *[("pack", pack) for pack in ("", "0", "-1", "1.5", "99999", "Auto", 0, True)],
    *[("halving", factor) for factor in (1, -3, 11, "3", 2.0, True)],
    *[("trials", count) for count in (0, 1.5, True, "3", None)],
    *[("fresh", value) for value in ("no", 1, None)],
    *[("results", value) for value in (5, None, pd.DataFrame({"protocol": [1]}))],
    *[("methods", value) for value in (5, ["bp", 5])],
    *[("track", value) for value in (5, [5])],
    *[("precision", value) for value in ("half", 32)],
    ("objective", "error"),
    ("seeds", b"01"),
    ("seeds", [0.5]),
    ("seeds", []),
    ("seeds", [-1]),
    ("n_seeds", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value)[:20])
def test_a_wrong_value_names_its_parameter(name: str, value: object) -> None:
    model, given = (ReproduceOptions, {}) if name == "budget" else (SweepOptions, SWEEP)
    with pytest.raises(UsageError) as raised:
        read_options(model, {**given, name: value})
    assert raised.value.parameter in (name, "")
    assert raised.value.parameter or isinstance(value, str)


def test_values_become_plain() -> None:
    options = SweepOptions.read(
        {**SWEEP, "methods": ("bp", "dfa"), "trials": np.int64(3), "fresh": np.True_, "pack": "4", "track": "mlflow"}
    )
    assert (options.methods, options.trials, options.fresh, options.pack_size) == ("bp,dfa", 3, True, 4)
    assert (options.track, SweepOptions.read({**SWEEP, "track": ""}).track) == (("mlflow",), ())
    assert SweepOptions.read({**SWEEP, "methods": {"bp": 1, "dfa": 2}}).methods == "bp,dfa"
    assert RunOptions.read({**RUN, "configuration": {"lr": np.float32(0.5)}}).configuration == {"lr": 0.5}
    assert RunOptions.read({**RUN, "configuration": {"lr": np.ones(2)}})  # refused where it is checked
    with pytest.raises(ValueError, match="frozen"):
        options.trials = 5


@pytest.mark.parametrize(("variable", "expected"), [("1", True), ("True", True), ("0", False), ("", False)])
def test_the_environment_decides_where_no_option_does(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: bool
) -> None:
    monkeypatch.setenv("TPBENCH_OFFLINE", variable)
    assert SweepOptions.read(SWEEP).downloads_nothing is expected
    assert "offline" not in SweepOptions.read(SWEEP).plain()
    for value in (True, False):
        assert SweepOptions.read({**SWEEP, "offline": value}).downloads_nothing is value


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (SweepOptions.read(SWEEP), "tpbench sweep digits bp"),
        (
            SweepOptions.read({**SWEEP, "trials": 3, "seeds": [10], "fresh": True, "pack": 4, "track": ["a", "b"]}),
            "tpbench sweep digits bp --trials 3 --pack 4 --fresh --seeds 10-10 --track a --track b",
        ),
        (
            RunOptions.read({**RUN, "seeds": [3], "configuration": "my c.yaml"}),
            "tpbench run digits bp --config 'my c.yaml' --seeds 3",
        ),
        (ReproduceOptions.read({"table": "S6", "n_seeds": 2}), "tpbench reproduce --n-seeds 2"),
        (
            RunOptions.read({**RUN, "configuration": {"lr": 0.1}, "seeds": range(2), "epochs": 1}),
            "tpbench.run('digits', 'bp', {'lr': 0.1}, seeds='0-1', epochs=1)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_are_written_as_a_command_and_read_back(options: Options, command: str) -> None:
    plain = options.plain()
    assert format_command(plain) == command
    assert type(options).read({name: value for name, value in plain.items() if name != "command"}) == options
    assert "--fresh" not in format_command(continuing(plain))


def test_no_place_of_the_machine_is_recorded() -> None:
    given = {
        "workloads": "/home/me/a.yaml,b/c.yml,digits",
        "methods": "bp",
        "space": "../s.yaml",
        "results": "s3://b/x",
        "data": "/d",
        "address": "10.0.0.1:10001",
        "track": ["mlflow:http://host"],
    }
    found = recorded(SweepOptions.read(given).plain())
    assert found == {"command": "sweep", "workloads": "a.yaml,c.yml,digits", "methods": "bp", "space": "s.yaml"}
    assert recorded(found) == found
    for path in ("/home/my name/bp.yaml", "../bp.yaml", r"C:\me\bp.yaml"):
        assert recorded(RunOptions.read({**RUN, "configuration": path}).plain())["configuration"] == "bp.yaml"


@given(st.text() | st.lists(st.sampled_from(["/", "\\", ",", "a", "=", "'"])).map("".join))
def test_no_path_survives_and_recording_twice_changes_nothing(text: str) -> None:
    given = {"workload": text, "method": "bp", "configuration": text}
    found = recorded(RunOptions.read(given).plain())
    assert not set("/\\") & set(str(found["workload"]) + str(found.get("configuration")))
    assert recorded(found) == found
    assert format_command(found).isascii() or format_command(found)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_call_has_the_parameters_of_the_model(command: str) -> None:
    function: Callable[..., Any] = getattr(tpbench, command)
    signature = inspect.signature(function).parameters
    fields = MODELS[command].model_fields
    assert signature.keys() == {*fields, "progress"}
    for name, field in fields.items():
        default = inspect.Parameter.empty if field.is_required() else None if field.default == () else field.default
        assert signature[name].default == default, name


def test_the_command_line_has_the_options_of_the_model() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name, command in commands.items() if isinstance(command, OptionsCommand)} == MODELS.keys()
    for name, model in MODELS.items():
        assert {parameter.name for parameter in commands[name].params} == model.fields().keys()


def test_the_help_of_a_command_groups_its_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, model in MODELS.items():
        panels = model.panels()
        options = [parameter for parameter in commands[name].params if parameter.param_type_name == "option"]
        groups = [parameter.rich_help_panel for parameter in options]
        assert groups == [panels[parameter.name] for parameter in options]
        assert groups == sorted(groups, key=PANELS.index)
    panels = SweepOptions.panels()
    assert {name: panels[name] for name in ("trials", "seeds", "results", "cpus", "search_precision", "track")} == {
        "trials": "Search",
        "seeds": "What is trained",
        "results": "Where",
        "cpus": "Resources",
        "search_precision": "Precision",
        "track": "Tracking",
    }
    assert RunOptions.panels()["again"] == MODELS["align"].panels()["every"] == "What is trained"


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.command)
def test_the_table_has_a_row_for_every_option(model: type[Options]) -> None:
    rows = options_table(model).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == [f"`{name}`" for name in model.fields()]
    assert all(len(row.split(" | ")) == 4 for row in rows)


def test_the_table_shows_a_default_of_zero() -> None:
    assert "| `search_seed` | `0` |" in options_table(SweepOptions)
