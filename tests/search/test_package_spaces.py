"""Search spaces beyond the paper's: of the field's rules, of packages, and of several files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.conftest import Inside
from tests.engine.test_plugins import install
from tests.results.records import record
from tpbench.engine import METHODS, TpbenchError, UsageError, all_methods, get_method
from tpbench.options import SweepOptions, format_command, parse_older_command, recorded
from tpbench.results import RunStore
from tpbench.results.paper import PAPER_WORKLOADS, paper_cell, reference_numbers
from tpbench.results.runs import PUBLISHED
from tpbench.search.configurations import find_configuration, search_inputs
from tpbench.search.definition import SweepDefinition, portable_options
from tpbench.search.spaces import (
    format_configuration,
    is_published,
    load_space,
    published_configuration,
    published_files,
    space_for,
    space_template,
    spaces_folder,
    spaces_for,
)
from tpbench.training.choice import CellChoice, choose_all
from tpbench.training.plan import PackSettings
from tpbench.workloads import WORKLOADS

FIELD = ["kp", "wm", "usf", "frsf", "brsf", "drtp", "dkp", "fw-dtp", "dtp-lee", "l-drl", "dfc-ssa", "pepita", "pc"]
THREE = WORKLOADS["mnist-3x256"]

# --- the field's rules ---


@pytest.mark.parametrize("method", FIELD)
def test_a_rule_of_the_field_has_the_forward_adam_of_bp_or_dtp(method: str) -> None:
    ranges, other = space_for(method).ranges, space_for("bp" if "lr" in METHODS[method].names else "dtp").ranges
    assert list(ranges) == [name for name in space_for(method).ranges if name in METHODS[method].names]
    assert all(ranges[name] == other[name] for name in ("lr", "lr_eta", "beta1", "beta2", "epsilon") if name in other)
    assert "wd" not in ranges or ranges["wd"].constant == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_template_is_a_valid_space(method: str, tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(space_template(method))
    assert set(space_for(method, path).ranges) == set(METHODS[method].names)


# --- configurations of another repository ---


def test_published_configurations_of_three_layers_are_those_of_their_source() -> None:
    bp, dfa, dfc = (published_configuration(THREE, method) for method in ("bp", "dfa", "dfc-ssa"))
    assert (bp["lr"], dfa["lr"]) == (0.000297764587844326, 0.00026298517958226435)
    assert dfc["lr_eta"] / dfc["eta"] == pytest.approx(0.001188786936042919, rel=1e-12)
    assert (dfc["times_fb"], dfc["fb_pretrain_epochs"], dfc["fb_epochs_between"]) == (48, 10, 2)
    assert dfc["tau_fb"] >= dfc["dt_fb"]
    assert not is_published(WORKLOADS["mnist"], "dfc-ssa")
    assert (
        find_configuration(CellChoice.of("mnist-3x256", "dfc-ssa"), "published", PackSettings("r")).found == PUBLISHED
    )
    assert "mnist-3x256" not in PAPER_WORKLOADS


@pytest.mark.data
def test_published_configurations_of_three_layers_are_the_shared_ones(shared_data: Path) -> None:
    shared = yaml.safe_load((shared_data / "published_rules.yaml").read_text())
    given = shared["deep_feedback_control"]["configurations"]["configs_mnist"]["mnist_dfc_ssa"]
    theirs = given["in_file"] | given["as_run_where_different"]
    names = {
        "damping_dfc": "alpha_di",
        "leak_fb": "alpha_fb",
        "k_p_fb": "k_p_fb",
        "dt_fb": "dt_di_fb",
        "tau_fb": "time_constant_ratio_fb",
        "tau_apical_fb": "apical_time_constant_fb",
        "times_fb": "tmax_di_fb",
        "sigma": "sigma_fb",
        "sigma_output_fb": "sigma_output_fb",
        "wd_fb": "feedback_wd",
        "frozen_output_fb": "freeze_fb_weights_output",
        "clip": "clip_grad_norm",
        "fb_pretrain_epochs": "epochs_fb",
        "fb_epochs_between": "extra_fb_epochs",
        "eta": "target_stepsize",
        **{name: name for name in ("beta1", "beta2", "epsilon", "lr_fb", "beta1_fb", "beta2_fb", "epsilon_fb")},
    }
    ours = published_configuration(THREE, "dfc-ssa")
    assert set(ours) == {*names, "hwd_fb", "lr_eta"}
    assert {name: ours[name] for name in names} == {name: theirs[theirs_name] for name, theirs_name in names.items()}


def test_a_search_of_three_layers_can_start_from_its_published_configurations() -> None:
    cells, _ = choose_all("mnist-3x256", "bp,dfa,dfc-ssa")
    options = SweepOptions.read({"workloads": "mnist-3x256", "methods": "bp,dfa,dfc-ssa", "start": "published"})
    assert [one.known.origin for one in search_inputs(cells, options)] == ["published"] * 3


def test_files_of_configurations_hold_no_spaces() -> None:
    assert {path.name for path in published_files()} <= {path.name for path in spaces_folder().glob("*.yaml")}
    for path in set(spaces_folder().glob("*.yaml")) - set(published_files()):
        if path.name != "digits.yaml":
            assert load_space(path).methods


# --- several files, and hyperparameters that a method lacks ---

TWO = """methods: [bp, gnt]
hyperparameters:
  lr: {log_uniform: [1e-4, 1e-2]}
  beta1: {constant: 0.9}
  beta2: {constant: 0.99}
  epsilon: {constant: 1e-8}
  damping: {choice: [0.1, 1]}
"""


def test_a_space_may_name_what_one_of_its_methods_lacks(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    bp, gnt = spaces_for([("mnist", "bp"), ("mnist", "gnt")], [path])
    assert list(gnt.ranges) == [*bp.ranges, "damping"]
    # Alone or beside another method, a sweep of BP has the same definition.
    alone = tmp_path / "one.yaml"
    alone.write_text(TWO.replace(", gnt", "").replace("  damping: {choice: [0.1, 1]}\n", ""))
    assert space_for("bp", alone).describe() == bp.describe()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[bp, gnt]", "[bp, dfa]", 7),
        ("  damping: {choice: [0.1, 1]}\n", "", 1),
        ("{log_uniform: [1e-4, 1e-2]}", "{constant: 1e-3}", 2),
        ("damping:", "dampin:", 7),
    ],
    ids=["none has it", "missing", "nothing to search", "unknown"],
)
def test_a_wrong_space_of_two_methods_names_the_line(tmp_path: Path, old: str, new: str, line: int) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO.replace(old, new))
    with pytest.raises(UsageError, match=rf"two\.yaml:{line}: "):
        load_space(path)


def test_several_files_give_each_method_its_space(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(TWO)
    other.write_text(TWO.replace("[bp, gnt]", "[bp]").replace("  damping: {choice: [0.1, 1]}\n", ""))
    bp, gnt, dtp = (("digits", method) for method in ("bp", "gnt", "dtp"))
    assert [space.path.name for space in spaces_for([gnt, dtp], [one])] == ["one.yaml", "dtp.yaml"]
    with pytest.raises(UsageError, match=r"other\.yaml.*bp.*one\.yaml"):
        spaces_for([bp, gnt], [one, other])
    with pytest.raises(UsageError, match="dtp"):
        spaces_for([dtp], [one])
    given = {"workloads": "digits", "methods": "bp,dtp", "space": [one, other]}
    options = SweepOptions.read(given)
    assert options.space == (str(one), str(other))
    assert recorded(options.plain())["space"] == ["one.yaml", "other.yaml"]
    assert portable_options({**options.plain(), "space": ["one.yaml", str(other)]})["space"][1] == str(other)
    command = format_command(options.plain())
    assert command.count("--space") == 2
    assert parse_older_command(command) == options.plain()


# --- spaces of some workloads ---

CONVOLUTIONAL = WORKLOADS["cifar10-conv"]
OWN = ("bp", "dfa", "ddtp-linear", "ddtp-control", "ddtp-rhl", "drtp", "dkp")


def test_a_workload_may_have_a_space_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fresh_methods: None
) -> None:
    own, default = spaces_for([("cifar10-conv", "bp"), ("cifar10", "bp")])
    assert (own.path.name, default.path.name) == ("own-cifar10-conv.yaml", "bp-dfa.yaml")
    assert space_for("bp") == default
    assert space_for("fa", workload="cifar10-conv").path.name == "bp-dfa.yaml"
    # A file that is given comes first, where it is for the workload.
    mine = tmp_path / "mine.yaml"
    mine.write_text("workloads: [digits]\n" + TWO)
    spaces = spaces_for([("digits", "bp"), ("cifar10-conv", "bp"), ("digits", "gnt")], [mine])
    assert [space.path.name for space in spaces] == ["mine.yaml", "own-cifar10-conv.yaml", "mine.yaml"]
    with pytest.raises(UsageError, match=r"mine\.yaml.*on digits"):
        spaces_for([("mnist", "bp")], [mine])
    assert space_for("bp", mine).path == mine
    mine.write_text("workloads: [mnsit]\n" + TWO)
    with pytest.raises(UsageError, match="'mnsit' misspelt"):
        spaces_for([("mnist", "bp")], [mine])
    mine.write_text("workloads: [one]\n" + TWO)
    with pytest.raises(UsageError, match="no search space for dtp") as caught:
        spaces_for([("one", "dtp")], [mine])  # an own workload is no slip
    assert "misspelt" not in str(caught.value)
    # A workload that is left out, and a name that is none: misspelt, perhaps.
    mine.write_text("workloads: [one, tow]\n" + TWO)
    capsys.readouterr()
    spaces = spaces_for([("one", "bp"), ("two", "bp")], [mine])
    assert [space.path.name for space in spaces] == ["mine.yaml", "bp-dfa.yaml"]
    said = capsys.readouterr().err
    assert all(word in said for word in ("mine.yaml", "two", "'tow'"))
    # An own workload of other commands.
    assert [space.path.name for space in spaces_for([("one", "bp"), ("one", "dtp")], [mine])] == [
        "mine.yaml",
        "dtp.yaml",
    ]
    assert capsys.readouterr().err == ""


def test_every_method_that_can_train_the_convolutional_network_is_searched_in_its_space() -> None:
    trained = {method for method in METHODS if not CONVOLUTIONAL.refusal(method)}
    assert set(OWN) <= trained
    cells, _ = choose_all("cifar10-conv", ",".join(sorted(trained)))
    inputs = search_inputs(
        cells, SweepOptions.read({"workloads": "cifar10-conv", "methods": ",".join(sorted(trained))})
    )
    for cell, one in zip(cells, inputs, strict=True):
        assert one.space.path.name == "own-cifar10-conv.yaml"
        single = one.space.of_network(get_method(cell.method), CONVOLUTIONAL.architecture)
        rate = "lr_eta" if "lr_eta" in one.space.ranges else "lr"
        names = {f"{name}_{layer}" for name in (rate, "epsilon") for layer in (1, 2, 3, 4)}
        assert names <= set(single.searched)


def test_a_definition_knows_the_space_of_its_workload() -> None:
    space = space_for("bp", workload="cifar10-conv").describe()
    sweep = SweepDefinition("cifar10-conv", "bp", "f" * 64, space, 2, 1, (0,), 0, 2, 1)
    assert sweep.paper_space
    assert not replace(sweep, workload="cifar10").paper_space


def test_published_configurations_of_the_convolutional_network() -> None:
    published = {method for method in METHODS if is_published(CONVOLUTIONAL, method)}
    assert published == {"bp", "dfa", "ddtp-linear", "ddtp-control"}
    bp, linear = (published_configuration(CONVOLUTIONAL, method) for method in ("bp", "ddtp-linear"))
    assert bp["lr"][3] == 1.0011818742335523e-06
    assert bp["epsilon"][1] == 0.00019809119366335256
    assert "fb_pretrain_epochs" not in bp
    assert (linear["lr_eta"][1], linear["eta"]) == (0.000885500279951265, 0.015962099947441903)
    assert (linear["fb_pretrain_epochs"], linear["fb_epochs_between"]) == (10, 1)
    # A search of the own space can start from each.
    cells, _ = choose_all("cifar10-conv", ",".join(sorted(published)))
    options = SweepOptions.read(
        {"workloads": "cifar10-conv", "methods": ",".join(sorted(published)), "start": "published"}
    )
    assert [one.known.origin for one in search_inputs(cells, options)] == ["published"] * 4
    # One decade or more lies beyond every published number.
    for cell, one in zip(cells, search_inputs(cells, options), strict=True):
        single = one.space.of_network(get_method(cell.method), CONVOLUTIONAL.architecture)
        for name, value in one.known.values[0].items():
            lower, upper = single.ranges[name].values
            assert lower * 10 <= value <= upper / 10, (cell.method, name)


def test_the_command_line_takes_several_files(tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(TWO)
    two = tpbench_inside("sweep", "digits", "bp,dtp", "--space", "one.yaml", "--space", "absent.yaml")
    assert (two.returncode, "absent.yaml" in two.stderr) == (2, True)


# --- what packages bring ---

RULE = """from dataclasses import replace
from pathlib import Path
from tpbench.engine import METHODS, Hyperparameter
RULE = replace(
    METHODS["fa"],
    title="Mine",
    hyperparameters=(*METHODS["fa"].hyperparameters, Hyperparameter("gain", "a factor")),
    settings=Path(__file__).with_name("tp_mine.yaml"),
)
"""
SETTINGS = """source: A and B, 2026
space:
  lr: {log_uniform: [1e-4, 1e-2]}
  beta1: {constant: 0.9}
  beta2: {constant: 0.99}
  epsilon: {constant: 1e-8}
  gain: {uniform: [0.5, 2]}
published:
  digits: {lr: 0.002, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, gain: 1.5}
reference:
  digits: [2.5, 0.1]
  mnist: [1.7]
  cifar10: 40
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_methods: None) -> Path:
    """The settings' file of an installed package with the method ``mine``."""
    install(tmp_path / "site", "tp_mine", RULE, "mine")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "tp_mine", raising=False)
    path = tmp_path / "site" / "tp_mine.yaml"
    path.write_text(SETTINGS)
    return path


def test_a_package_brings_space_configurations_and_reference_numbers(mine: Path) -> None:
    """B-7: nobody has to invent the ranges of somebody else's rule."""
    space = space_for("mine")
    assert (space.path, space.describe()["gain"]) == (mine, ["uniform", 0.5, 2.0])
    digits = WORKLOADS["digits"]
    assert is_published(digits, "mine")
    assert published_configuration(digits, "mine")["gain"] == 1.5
    assert not is_published(WORKLOADS["mnist"], "mine")
    assert paper_cell("digits", "mine") == (2.5, 0.1)
    assert [reference_numbers("mine")[name][0] for name in ("mnist", "cifar10")] == [1.7, 40]
    assert reference_numbers("bp") == reference_numbers("no such method") == {}
    cells, _ = choose_all("digits", "mine,kp")
    options = SweepOptions.read({"workloads": "digits", "methods": "mine,kp"})
    assert [one.space.path.name for one in search_inputs(cells, options)] == ["tp_mine.yaml", "field.yaml"]
    started = search_inputs(cells[:1], SweepOptions.read({**options.model_dump(), "start": "published"}))
    assert started[0].known.values == ({"lr": 0.002, "gain": 1.5},)


def test_the_commands_take_what_a_package_brings(mine: Path, tpbench_inside: Inside, tmp_path: Path) -> None:
    shown = tpbench_inside("show", "space", "mine")
    assert yaml.safe_load(shown.stdout)["hyperparameters"]["gain"] == {"uniform": [0.5, 2.0]}
    config = tpbench_inside("show", "config", "digits", "mine")
    assert yaml.safe_load(config.stdout)["gain"] == 1.5
    assert "A and B, 2026" in config.stdout
    run = tpbench_inside("run", "digits", "mine", "--seeds", "0", "--epochs", "1")
    assert run.returncode == 0, run.stderr
    (stored,) = RunStore(tmp_path / "results").records()
    assert (stored.search_info, stored.definition.configuration["gain"]) == (PUBLISHED, 1.5)
    board = tpbench_inside("leaderboard", "digits")
    assert "2.50 ± 0.10" in board.stdout


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("gain: {uniform: [0.5, 2]}", "gain: {uniform: [3, 2]}", 7),
        ("gain: {uniform", "gian: {uniform", 7),
        ("  gain: {uniform: [0.5, 2]}\n", "", 2),
        ("gain: 1.5", "gain: -1", 9),
        (", gain: 1.5", "", 9),
        ("[2.5, 0.1]", "[2.5, 0.1, 3]", 11),
        ("source:", "sauce:", 1),
    ],
    ids=["bounds", "name", "missing", "value", "incomplete", "numbers", "key"],
)
def test_a_wrong_file_names_package_file_and_line(mine: Path, old: str, new: str, line: int) -> None:
    assert old in SETTINGS
    mine.write_text(SETTINGS.replace(old, new))

    def read() -> None:
        space_for("mine")
        published_configuration(WORKLOADS["digits"], "mine")

    with pytest.raises(TpbenchError, match=rf"'mine' of the package 'tp_mine': .*tp_mine\.yaml:{line}: ") as raised:
        read()
    assert not isinstance(raised.value, UsageError)


def test_a_table_goes_on_where_the_file_of_a_package_is_wrong(
    mine: Path, tpbench_inside: Inside, tmp_path: Path
) -> None:
    mine.write_text("reference: 5\n")
    RunStore(tmp_path / "results").publish(record("mine", 0, [0.5], workload="digits"))
    board = tpbench_inside("leaderboard")
    assert board.returncode == 0
    assert board.stderr.count("tp_mine.yaml:1") == 1


def test_a_path_that_depends_on_the_folder_is_refused(mine: Path) -> None:
    mine.with_name("tp_mine.py").write_text(RULE.replace('Path(__file__).with_name("tp_mine.yaml")', '"tp_mine.yaml"'))
    with pytest.raises(TpbenchError, match=r"'mine' of the package 'tp_mine'.*with_name"):
        get_method("mine")
    assert "mine" not in all_methods()


def test_a_package_without_a_space_gets_a_template(mine: Path, tpbench_inside: Inside) -> None:
    mine.write_text("source: nowhere\n")
    missing = tpbench_inside("sweep", "digits", "mine")
    assert missing.returncode == 2
    assert "tpbench show space mine --template" in missing.stderr
    template = tpbench_inside("show", "space", "mine", "--template")
    mine.with_name("t.yaml").write_text(template.stdout)
    assert load_space(mine.with_name("t.yaml")).methods == ("mine",)


def test_notes_of_a_published_configuration_are_comments() -> None:
    text = format_configuration(THREE, "dfc-ssa")
    assert all(name not in yaml.safe_load(text) for name in ("source", "departs"))


@pytest.mark.data
def test_published_configurations_of_convolutions_are_those_of_the_specification(shared_data: Path) -> None:
    specification = shared_data.parent / "conv.md"
    if not specification.exists():
        pytest.skip("../shared has no conv.md")
    block = specification.read_text(encoding="utf-8").split("```yaml")[1].split("```")[0]
    given, schedule = yaml.safe_load(block), {"fb_pretrain_epochs", "fb_epochs_between", "epochs"}
    for key, workload in {
        "published_conv": "cifar10-conv",
        "published_conv_training_loss": "cifar10-conv-loss",
    }.items():
        for method, theirs in given[key].items():
            declared = WORKLOADS[workload]
            ours = published_configuration(declared, method)
            assert declared.epochs == theirs["epochs"]
            wanted = {name: value for name, value in theirs.items() if name not in schedule}
            assert {name: value for name, value in ours.items() if name not in schedule} == {
                name: value for name, value in wanted.items() if name in get_method(method).names
            }
