"""Search spaces: the paper's intervals, wrong files, and the samples of HyperOpt."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hyperopt.pyll import stochastic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.search.hyperopt import HyperOptSearch

from tpbench.engine import METHODS, SCHEDULE, UsageError
from tpbench.results.runs import tuning_budget
from tpbench.search.spaces import (
    is_published,
    load_configuration,
    load_space,
    published_configuration,
    space_for,
    spaces_folder,
    supplied_configuration,
)
from tpbench.workloads import WORKLOADS

BETAS = ["choice", 0.9, 0.99, 0.999]


def log(lower: float, upper: float) -> list[Any]:
    return ["log_uniform", lower, upper]


def feedback_table(largest_eta: float, largest_sigma: float, wd_fb: list[Any]) -> dict[str, list[Any]]:
    return {
        "lr_eta": log(1e-6, 1e-4),
        "beta1": BETAS,
        "beta2": BETAS,
        "epsilon": log(1e-8, 1e-4),
        "lr_fb": log(3e-5, 5e-3),
        "beta1_fb": BETAS,
        "beta2_fb": BETAS,
        "epsilon_fb": log(1e-8, 1e-4),
        "eta": log(1e-2, largest_eta),
        "sigma": log(1e-3, largest_sigma),
        "wd_fb": wd_fb,
    }


# Typed from Tables S2-S5 of the paper, not from the YAML files.
S2 = feedback_table(1e-1, 1e-1, log(1e-7, 1e-4))
S3 = feedback_table(3e-1, 3e-1, ["constant", 0.0])
S4 = feedback_table(3e-1, 3e-1, log(1e-7, 1e-4))
S5 = {"lr": log(1e-5, 1e-2), "beta1": BETAS, "beta2": BETAS, "epsilon": log(1e-8, 1e-3)}
PAPER = {
    "dtpdrl": S2,
    "ddtp-linear": S2,
    "ddtp-rhl": S2,
    "ddtp-rhl-extra-fb": S2,
    "ddtp-rhl-rec-extra-fb": S2,
    "ddtp-control": S2,
    "dtp": S3,
    "dtp-pretrained": S4,
    "bp": S5,
    "dfa": S5,
}


@pytest.mark.parametrize("method", PAPER)
def test_every_interval_is_the_papers(method: str) -> None:
    assert space_for(method).describe() == PAPER[method]


def test_every_method_has_a_space() -> None:
    for method in METHODS:
        assert set(space_for(method).ranges) == set(METHODS[method].names)


def test_hyperopt_samples_the_intervals_log_uniformly() -> None:
    space = space_for("ddtp-linear")
    expressions = space.to_hyperopt()
    generator = np.random.default_rng(0)
    samples = [stochastic.sample(expressions, generator) for _ in range(400)]
    for name, lower, upper in (("lr_eta", 1e-6, 1e-4), ("sigma", 1e-3, 1e-1)):
        values = np.array([s[name] for s in samples])
        assert values.min() >= lower
        assert values.max() <= upper
        middle = math.sqrt(lower * upper)
        assert 0.4 < float((values < middle).mean()) < 0.6
    assert {s["beta1"] for s in samples} == {0.9, 0.99, 0.999}


def test_constants_are_not_searched() -> None:
    space = space_for("dtp")
    assert space.constants == {"wd_fb": 0.0}
    assert "wd_fb" not in space.to_hyperopt()


GOOD = """table: mine
methods: [bp]
hyperparameters:
  lr: {log_uniform: [1e-5, 1.0e-2]}
  beta1: {choice: [0.9]}
  beta2: {constant: 0.99}
  epsilon: {uniform: [1.0e-8, 1.0e-3]}
"""


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "space.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    return path


def test_a_space_of_ones_own(tmp_path: Path) -> None:
    space = space_for("bp", written(tmp_path))
    assert space.describe()["lr"] == log(1e-5, 1e-2)  # 1e-5 is text to YAML 1.1, a number to people
    with pytest.raises(UsageError, match="dtp"):
        space_for("dtp", written(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("  lr:", "  lrr:", 4, "mean 'lr'"),
        ("[1e-5, 1.0e-2]", "[1.0e-2, 1.0e-5]", 4, "0.01 .*1e-05"),
        ("[1e-5, 1.0e-2]", "[1.0e-2, 1.0e-2]", 4, "not below"),
        ("[1e-5, 1.0e-2]", "[0.0, 1.0e-2]", 4, "logarithm of 0"),
        ("[1e-5, 1.0e-2]", "[-1.0, 1.0e-2]", 4, "logarithm of -1"),
        ("[1e-5, 1.0e-2]", "[1.0e-5]", 4, "at least 2"),
        ("[1e-5, 1.0e-2]", "[.nan, 1.0]", 4, "finite"),
        ("[1e-5, 1.0e-2]", "[small, 1.0]", 4, "'small'"),
        ("log_uniform", "log_uniforn", 4, "mean 'log_uniform'"),
        ("{choice: [0.9]}", "{choice: [1.5]}", 5, ">= 0 and < 1, got 1.5"),
        ("{choice: [0.9]}", "{choice: []}", 5, "at least 1"),
        ("{choice: [0.9]}", "0.9", 5, "mapping"),
        ("[bp]", "[bq]", 2, "'bq'"),
        ("[bp]", "[]", 2, "at least 1"),
        ("[bp]", "[gnt]", 2, "damping"),
        ("table", "tables", 1, "mean 'table'"),
        ("  beta1", "  lr", 5, "'lr' stands"),
        ("[bp]", "[bp", 3, "YAML"),
    ],
)
def test_a_wrong_space_names_file_and_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_space(written(tmp_path, old, new))
    assert f"space.yaml:{line}: " in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "methods: [bp]\n", "\x00", "hyperparameters: {}\n"])
def test_files_that_are_no_space(tmp_path: Path, text: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"space\.yaml"):
        load_space(path)


def test_published_configurations_are_complete() -> None:
    published = yaml.safe_load((spaces_folder() / "published.yaml").read_text())
    cells = [(workload, method) for workload, methods in published.items() for method in methods]
    assert len(cells) == 39
    for workload, method in cells:
        configuration = published_configuration(WORKLOADS[workload], method)
        names = {*METHODS[method].hyperparameters, *(SCHEDULE if METHODS[method].trains_feedback else ())}
        assert set(configuration) == names
    # A departure from the text that the authors' code has, and their numbers with it.
    assert published_configuration(WORKLOADS["mnist"], "ddtp-rhl-extra-fb")["fb_pretrain_epochs"] == 6
    with pytest.raises(UsageError, match="gnt on mnist"):
        published_configuration(WORKLOADS["mnist"], "gnt")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_configuration_on_the_digits(method: str) -> None:
    digits = WORKLOADS["digits"]
    configuration, found = supplied_configuration(digits, method)
    assert set(configuration) >= set(METHODS[method].names)
    budget = tuning_budget(found)
    assert (budget.by, budget.trials, budget.epochs, budget.halving) == ("search", 27, 20, 3)
    assert str(budget) == "27 x 20 halved"
    ranges = space_for(method).ranges
    assert all(ranges[name].holds(configuration[name]) for name in METHODS[method].names)
    assert not is_published(digits, method)


def test_a_configuration_that_comes_with_tpbench_is_of_the_digits_alone() -> None:
    with pytest.raises(UsageError, match="gnt on mnist"):
        supplied_configuration(WORKLOADS["mnist"], "gnt")


@pytest.mark.data
def test_published_configurations_are_the_shared_ones(shared_data: Path) -> None:
    shared = yaml.safe_load((shared_data / "published_hyperparameters.yaml").read_text())
    assert yaml.safe_load((spaces_folder() / "published.yaml").read_text()) == shared


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-3\nbeta1: 0.9\nbeta2: 0.99\n", r"configuration\.yaml:1: .*epsilon"),
        ("lr: 1e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\nsigma: 1\n", r"configuration\.yaml:5: .*'sigma'"),
        ("lr: -1\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", r"configuration\.yaml:1: .*> 0 and < 1e"),
        ("lr: .nan\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", r"configuration\.yaml:1: lr .*nan"),
        ("lr: fast\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", r"configuration\.yaml:1: lr .*'fast'"),
        ("lr: [1]\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", r"configuration\.yaml:1: lr .*1"),
        ("lr: 1" + "0" * 400 + "\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", r"configuration\.yaml:1: lr "),
        ("just text", "mapping"),
        ("lr: 2020-13-45\n", r"configuration\.yaml:1: "),
    ],
)
def test_a_wrong_configuration_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "configuration.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_configuration(WORKLOADS["digits"], "bp", path)


def test_a_configuration_file_gets_the_workloads_schedule(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    chosen = {k: v for k, v in published_configuration(WORKLOADS["mnist"], "dtpdrl").items() if k not in SCHEDULE}
    path.write_text(yaml.safe_dump(chosen))
    assert load_configuration(WORKLOADS["digits"], "dtpdrl", path) == {
        **chosen,
        "fb_pretrain_epochs": 2,
        "fb_epochs_between": 1,
    }


NARROW = ("[0.001, 0.0010000000000000002]", "[1.0e-3, 1.0000000001e-3]")


@pytest.mark.parametrize("kind", ["log_uniform", "uniform"])
@pytest.mark.parametrize("bounds", NARROW)
def test_a_range_without_width_is_refused(tmp_path: Path, kind: str, bounds: str) -> None:
    with pytest.raises(UsageError, match=r"space\.yaml:4: .*too close"):
        load_space(written(tmp_path, "{log_uniform: [1e-5, 1.0e-2]}", f"{{{kind}: {bounds}}}"))


@pytest.mark.parametrize("kinds", [["constant: 0.1"], ["choice: [0.1]", "constant: 0.1", "choice: [0.1, 0.1]"]])
def test_a_space_that_searches_nothing_is_refused(tmp_path: Path, kinds: list[str]) -> None:
    path = tmp_path / "space.yaml"
    ranges = zip(METHODS["bp"].hyperparameters, itertools.cycle(kinds), strict=False)
    path.write_text("methods: [bp]\nhyperparameters:\n" + "".join(f"  {name}: {{{kind}}}\n" for name, kind in ranges))
    with pytest.raises(UsageError, match=r"space\.yaml:2: .*nothing to search"):
        load_space(path)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lower=st.floats(1e-12, 0.9),
    width=st.sampled_from([1e-12, 3e-9, 1e-6, 0.1, 1e9]),
    kind=st.sampled_from(["log_uniform", "uniform"]),
    values=st.lists(st.floats(0, 0.99), min_size=1, max_size=3),
)
def test_what_is_not_refused_hyperopt_searches(
    tmp_path: Path, lower: float, width: float, kind: str, values: list[float]
) -> None:
    """Also narrow ranges, wide ones and choices among equal values, with TPE's models and not its first draws alone."""
    path, upper = tmp_path / "space.yaml", lower * (1 + width)
    entries = {
        "lr": {kind: [lower, upper]},
        "beta1": {"choice": values},
        "beta2": {"constant": 0.9},
        "epsilon": {"uniform": [1e-9, 1e-3]},
    }
    path.write_text(yaml.safe_dump({"methods": ["bp"], "hyperparameters": entries}))
    try:
        space = load_space(path)
    except UsageError as error:
        assert str(error).startswith(f"{path}:")  # noqa: PT017
        return
    search = HyperOptSearch(space.to_hyperopt(), metric="e", mode="min", random_state_seed=1, n_initial_points=3)
    for k in range(8):
        suggestion = search.suggest(str(k))
        assert lower * (1 - 1e-12) <= suggestion["lr"] <= upper * (1 + 1e-12)
        search.on_trial_complete(str(k), {"e": suggestion["lr"] + suggestion["beta1"]})
