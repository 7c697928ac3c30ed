"""Spaces with one number for each layer, configurations with lists, and a search of such a space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.tune.search.hyperopt import HyperOptSearch

from tests.sweeps.playing import FINGERPRINT, Workers, pretend
from tpbench.engine import UsageError, get_method
from tpbench.engine.configuration import unflatten
from tpbench.options import SweepOptions
from tpbench.reports.tuning_plots import read_search
from tpbench.results import RunStore
from tpbench.search.configurations import search_inputs
from tpbench.search.definition import SweepDefinition, SweepFolder
from tpbench.search.journal import Journal
from tpbench.search.listing import trials_frame
from tpbench.search.packed_tpe import METRIC, PackedSearch
from tpbench.search.spaces import format_space, load_configuration, load_space, space_for
from tpbench.sweeps.sweep import SearchedSweep
from tpbench.sweeps.sweep import Workers as Known
from tpbench.training.choice import CellChoice
from tpbench.training.plan import Outcome, PackSettings
from tpbench.workloads import get_workload

LOG = [1e-4, 1e-2]
RANGES = {
    "lr": {"log_uniform": LOG, "per_layer": True},
    "beta1": {"choice": [0.9, 0.99], "per_layer": True},
    "beta2": {"constant": 0.99},
    "epsilon": {"log_uniform": [1e-8, 1e-4]},
}
DIGITS = get_workload("digits")
BP = get_method("bp")
ALONE = {"lr_1", "lr_2", "lr_3", "beta1_1", "beta1_2", "beta1_3", "epsilon"}


def written(folder: Path, ranges: dict[str, Any], method: str = "bp") -> Path:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"methods": [method], "hyperparameters": ranges}))
    return path


def test_each_layer_is_a_parameter_of_the_search(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, RANGES))
    assert space.describe() == {
        "lr": ["log_uniform", *LOG, "per_layer"],
        "beta1": ["choice", 0.9, 0.99, "per_layer"],
        "beta2": ["constant", 0.99],
        "epsilon": ["log_uniform", 1e-8, 1e-4],
    }
    single = space.of_network(BP, DIGITS.architecture)
    assert set(single.searched) == ALONE == set(single.to_hyperopt())
    paper = space_for("bp")
    assert paper.of_network(BP, DIGITS.architecture).ranges == paper.ranges


def test_a_space_comes_back_from_its_text_and_from_its_sweep(tmp_path: Path) -> None:
    path = written(tmp_path, RANGES)
    space = load_space(path)
    again = tmp_path / "again.yaml"
    again.write_text(format_space("bp", path))
    assert load_space(again).describe() == space.describe()
    definition = SweepDefinition("digits", "bp", "f" * 64, space.describe(), 3, 1, (0,), 0, 1, 1)
    again.write_text(definition.space_file())
    assert load_space(again).describe() == space.describe()
    assert not definition.paper_space


@pytest.mark.parametrize(
    ("method", "ranges"),
    [
        ("bp", {**RANGES, "beta2": {"constant": 0.99, "per_layer": True}}),
        ("bp", {**RANGES, "lr": {"log_uniform": LOG, "per_layer": "each"}}),
        ("gnt", {**RANGES, "damping": {"log_uniform": [1e-3, 1.0], "per_layer": True}}),
    ],
)
def test_ranges_that_cannot_be_per_layer(tmp_path: Path, method: str, ranges: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"space\.yaml:\d+"):
        load_space(written(tmp_path, ranges, method))


def test_a_method_with_one_number_for_all_layers_refuses_more(tmp_path: Path) -> None:
    ranges = {name: {r.kind: r.values} for name, r in space_for("dtpdrl").ranges.items() if r.kind != "constant"}
    space = load_space(written(tmp_path, {**ranges, "sigma": {"uniform": [0.1, 0.2], "per_layer": True}}, "dtpdrl"))
    assert "sigma_2" in space.of_network(get_method("dtpdrl"), DIGITS.architecture).ranges
    with pytest.raises(UsageError, match="sigma"):
        space.of_network(get_method("dfc-ssa"), DIGITS.architecture)


@pytest.mark.parametrize("lr", ["[1e-3, 2e-3, 3e-3]", "['1e-3', 0.002, 3.0e-3]"])
def test_a_file_with_a_list(tmp_path: Path, lr: str) -> None:
    path = tmp_path / "bp.yaml"
    path.write_text(f"lr: {lr}\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n")
    assert load_configuration(DIGITS, "bp", path)["lr"] == [1e-3, 2e-3, 3e-3]


@pytest.mark.parametrize("lr", ["[1e-3, 2e-3]", "[]", "[1e-3, .nan, 1e-3]", "[1e-3, -1, 1e-3]", "[1, [2], 3]"])
def test_a_file_with_a_wrong_list(tmp_path: Path, lr: str) -> None:
    path = tmp_path / "bp.yaml"
    path.write_text(f"beta1: 0.9\nlr: {lr}\nbeta2: 0.99\nepsilon: 1e-8\n")
    with pytest.raises(UsageError, match=r"bp\.yaml:2"):
        load_configuration(DIGITS, "bp", path)


def test_numbers_and_lists_are_known_configurations_of_such_a_search(tmp_path: Path) -> None:
    start, cell = tmp_path / "start.yaml", CellChoice.of("digits", "bp")
    options = {"workloads": "digits", "methods": "bp", "space": str(written(tmp_path, RANGES)), "start": str(start)}
    start.write_text(
        "[{lr: 0.001, beta1: 0.9, beta2: 0.99, epsilon: 1.0e-6},"
        " {lr: [0.001, 0.002, 0.003], beta1: 0.99, beta2: 0.99, epsilon: 1.0e-6}]"
    )
    (found,) = search_inputs([cell], SweepOptions.read(options))
    first, second = found.known.values
    assert first.keys() == ALONE
    assert [first[f"lr_{k}"] for k in (1, 2, 3)] == [0.001] * 3
    assert [second[f"lr_{k}"] for k in (1, 2, 3)] == [0.001, 0.002, 0.003]
    for wrong in ("[0.001, 0.002, 0.3]", "0.3"):
        start.write_text(f"{{lr: {wrong}, beta1: 0.9, beta2: 0.99, epsilon: 1.0e-6}}")
        with pytest.raises(UsageError, match="start"):
            search_inputs([cell], SweepOptions.read(options))
    start.write_text("{lr: 0.001, beta1: 0.9, beta2: 0.99, epsilon: [1.0e-6, 1.0e-6, 1.0e-6]}")
    with pytest.raises(UsageError, match="epsilon"):
        search_inputs([cell], SweepOptions.read(options))


def test_a_search_of_such_a_space(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, RANGES))
    definition = SweepDefinition("digits", "bp", FINGERPRINT, space.describe(), 4, 1, (0, 1), 0, 2, 2)
    folder = SweepFolder(tmp_path / "sweeps" / definition.id)
    definition, journal = folder.begin(definition, {})
    sweep = SearchedSweep(definition, DIGITS, space, folder, journal, PackSettings(str(tmp_path)))
    sweep.begin(Known(2))
    Workers([sweep]).run(pretend)
    records = sweep.result()
    assert [record.definition.seed for record in records] == [0, 1]
    store, entries = RunStore(tmp_path), BP.entries(DIGITS.architecture)
    for pack in folder.read_journal().packs:
        for suggestion, outcome in zip(pack.suggestions, pack.outcomes or [], strict=True):
            assert suggestion.keys() == ALONE
            run = store.read(outcome.run)
            assert run is not None
            assert dict(run.definition.configuration) == unflatten({**suggestion, "beta2": 0.99}, entries)
    trials, _ = trials_frame(store)
    assert {f"hp_{name}" for name in ALONE} == set(trials.filter(like="hp_").columns)
    assert set(read_search(store, definition.id).configurations) == {*ALONE, "error"}


def test_a_replay_of_the_journal_suggests_the_same_numbers(tmp_path: Path) -> None:
    expressions = load_space(written(tmp_path, RANGES)).of_network(BP, DIGITS.architecture).to_hyperopt()

    def search(path: Path) -> PackedSearch:
        def inner() -> HyperOptSearch:
            return HyperOptSearch(expressions, metric=METRIC, mode="min", random_state_seed=3, n_initial_points=2)

        return PackedSearch(inner, Journal.open(path), trials=6, pack=1, max_pending=1)

    def advance(going: PackedSearch) -> None:
        entry = going.next_pack()
        assert entry is not None
        (numbers,) = entry.suggestions
        error = numbers["lr_1"] + 10 * numbers["lr_3"]
        going.journal.end_pack(entry.number, [Outcome("run", "finished", error, error)])

    whole = search(tmp_path / "whole.jsonl")
    for _ in range(6):
        advance(whole)
        # Begun anew from its journal each time.
        advance(search(tmp_path / "parts.jsonl"))
    assert Journal.read(tmp_path / "parts.jsonl").packs == whole.journal.packs
