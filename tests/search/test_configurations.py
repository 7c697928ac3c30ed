"""Configurations of ``--config``: published, a file, or the best of the store on the data at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Inside
from tests.results.records import record
from tpbench.engine import UsageError
from tpbench.results import RunRecord, RunStore
from tpbench.results.runs import PUBLISHED, search_info
from tpbench.search.configurations import best_runs, find_configuration
from tpbench.training.choice import CellChoice
from tpbench.training.plan import PackSettings
from tpbench.workloads import WORKLOADS, load_problem

SEARCH = search_info("digits-bp-0", 40, 100, "s", "search", (0, 1))
BP = {"lr": 1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def digits(lr: float, errors: list[float], **changes: Any) -> list[RunRecord]:
    """Runs of one configuration on the digits, a validation error for each seed."""
    changes = {"fingerprint": load_problem(WORKLOADS["digits"])[1].fingerprint, **changes}
    return [record(seed=s, errors=[e], lr=lr, workload="digits", **changes) for s, e in enumerate(errors)]


def stored(folder: Path, *groups: list[RunRecord]) -> RunStore:
    store = RunStore(folder)
    for run in (run for runs in groups for run in runs):
        store.publish(run)
    return store


def test_the_best_has_the_lowest_mean_validation_error() -> None:
    low, high = digits(1e-3, [0.01, 0.04]), digits(1e-2, [0.02, 0.02])
    assert best_runs([*low, *high]) == high
    assert best_runs([*high[1:], *low[::-1]]) == high[1:]


def test_a_configuration_that_diverged_comes_last() -> None:
    diverged = [*digits(1e-2, [0.01]), *digits(1e-2, [0.01, 0.01], status="diverged")[1:]]
    assert best_runs([*diverged, *digits(1e-3, [0.5])])[0].definition.configuration == {"lr": 1e-3}
    nothing = [replace(run, curves={}) for run in digits(1e-2, [0.01], status="diverged")]
    assert best_runs(nothing) == nothing


def test_of_equals_more_seeds_are_taken() -> None:
    assert len(best_runs([*digits(1e-2, [0.02]), *digits(1e-3, [0.02, 0.02]), *digits(1e-1, [0.02])])) == 2


def test_the_best_of_the_store_is_on_the_data_at_hand_and_is_named(tmp_path: Path) -> None:
    search = [replace(run, search_info=SEARCH) for run in digits(1e-3, [0.0193])]
    runs = [*search, *digits(1e-3, [0.0193, 0.0193])[1:]]
    stored(tmp_path, runs, digits(1e-2, [0.03]), digits(1e-1, [0.001], fingerprint="0" * 64, label="JPEG copy"))
    found = find_configuration(CellChoice.of("digits", "bp"), "best", PackSettings(str(tmp_path)))
    assert found.values == {"lr": 1e-3}
    assert found.found == {**SEARCH, "role": "final"}
    for part in (str(tmp_path), runs[0].definition.id[:8], "2 seeds", "100 epochs", "1.93 %", "40 configurations"):
        assert part in found.note


@pytest.mark.parametrize(
    ("wanted", "told"), [("float32", {"search_precision": "float64"}), ("float64", {})], ids=["other", "same"]
)
def test_runs_of_the_best_say_that_it_was_searched_in_another_precision(
    tmp_path: Path, wanted: str, told: dict[str, str]
) -> None:
    final = search_info("digits-bp-0", 40, 100, "s", "final", (0, 1), search_precision="float64")
    stores = {
        "search": [replace(run, search_info=SEARCH) for run in digits(1e-3, [0.02], precision="float64")],
        "final": [replace(run, search_info=final) for run in digits(1e-3, [0.02])],
    }
    for name, runs in stores.items():
        stored(tmp_path / name, runs)
        cell = CellChoice.of("digits", "bp")
        found = find_configuration(cell, "best", PackSettings(str(tmp_path / name), precision=wanted))
        assert found.found == {**SEARCH, "role": "final", **told}
        assert ("in float64" in found.note) == bool(told)


def test_runs_on_other_data_or_by_other_code_are_counted_in_the_error(tmp_path: Path) -> None:
    cell = CellChoice.of("digits", "bp")
    with pytest.raises(UsageError, match="bp on digits"):
        find_configuration(cell, "best", PackSettings(str(tmp_path)))
    stored(tmp_path, digits(1e-1, [0.1, 0.2], fingerprint="0" * 64))
    with pytest.raises(UsageError, match="only 2"):
        find_configuration(cell, "best", PackSettings(str(tmp_path)))
    (run,) = digits(1e-1, [0.1])
    stored(tmp_path, [replace(run, definition=replace(run.definition, method_source="rule 1.0 0"))])
    with pytest.raises(UsageError, match="only 1"):
        find_configuration(cell, "best", PackSettings(str(tmp_path)))


def test_published_configurations_and_files_are_recorded(tmp_path: Path) -> None:
    assert find_configuration(CellChoice.of("mnist", "bp"), "published", PackSettings("r")).found == PUBLISHED
    digests = []
    for lr in (1, 1.0, 2.0):
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({**BP, "lr": lr}))
        found = find_configuration(CellChoice.of("digits", "bp"), str(path), PackSettings("r"))
        assert (found.found["by"], found.note) == ("file", "")
        digests.append(found.found["digest"])
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


def test_run_prints_the_best_and_its_runs_keep_how_it_was_found(tpbench_inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**BP, "lr": 1e-3}))
    arguments = ("run", "digits", "bp", "--epochs", "1")
    assert tpbench_inside(*arguments, "--config", "c.yaml", "--seeds", "0").returncode == 0
    again = tpbench_inside(*arguments, "--config", "best", "--seeds", "1")
    assert again.returncode == 0, again.stderr
    assert "in results: run " in again.stdout
    assert "from a file" in again.stdout
    found = [run.search_info for run in RunStore(tmp_path / "results").records()]
    assert found[0] == found[1]
    assert found[0]["by"] == "file"
