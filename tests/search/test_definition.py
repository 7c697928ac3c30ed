"""What identifies a sweep, and which seeds its final runs have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tpbench.options import SweepOptions
from tpbench.results.runs import tuning_budget
from tpbench.search.configurations import KnownConfigurations
from tpbench.search.definition import CHOSEN, SweepDefinition, SweepFolder
from tpbench.search.packed_tpe import random_first
from tpbench.workloads import WORKLOADS

DEFINITION = SweepDefinition("digits", "bp", "f", {"lr": ["constant", 1.0]}, 2, 7, (0, 1), 0, 2, 3)


def test_the_id_of_a_sweep_stays_what_older_versions_made_it() -> None:
    assert DEFINITION.id == "digits-bp-d1a6f0fc"
    assert replace(DEFINITION, pack=9, lag=9, packs_per_gpu=2, cost=0.5).id == DEFINITION.id


@pytest.mark.parametrize("name", ["precision", "method_source", "workload_source", "search_precision"])
def test_another_precision_or_source_is_another_sweep(tmp_path: Path, name: str) -> None:
    other = replace(DEFINITION, **{name: "float64"})
    assert other.id != DEFINITION.id
    for number, definition in enumerate((DEFINITION, other)):
        folder = SweepFolder(tmp_path / str(number))
        folder.begin(definition, {})
        assert (name in json.loads((folder.folder / "sweep.json").read_text())) == (definition is other)
        assert folder.read() == definition


def test_runs_say_which_search_found_their_configuration() -> None:
    search, final = DEFINITION.found("search"), DEFINITION.found("final")
    assert {**search, "role": "final"} == final
    assert (final["sweep"], final["trials"], final["epochs"], final["seeds"]) == (DEFINITION.id, 2, 7, [0, 1])
    assert final["objective"] == "validation_error"
    assert final["space"] != replace(DEFINITION, space={"lr": ["constant", 2.0]}).found("final")["space"]


def test_runs_say_the_precision_of_the_search_where_it_is_not_their_own() -> None:
    other = replace(DEFINITION, search_precision="float64")
    assert (DEFINITION.searched_in, other.searched_in, other.precision) == ("float32", "float64", "float32")
    assert replace(DEFINITION, precision="float64").searched_in == "float64"
    assert other.found("final")["search_precision"] == "float64"
    assert not any("search_precision" in f for f in (other.found("search"), DEFINITION.found("final")))


KNOWN = KnownConfigurations(({"lr": 1e-3},), "file")


def of(known: KnownConfigurations | None = None, **options: object) -> SweepDefinition:
    chosen = SweepOptions.read({"workloads": "digits", "methods": "bp", **options})
    return SweepDefinition.of(chosen, WORKLOADS["digits"], "bp", "f", {"lr": ["log_uniform", 1e-4, 1e-2]}, known)


def test_a_search_without_epochs_and_start_of_its_own_has_the_fields_and_id_of_older_versions() -> None:
    first = of(epochs=9)
    assert {"search_epochs", "start", "start_from"}.isdisjoint(first.plain())
    assert first.id == "digits-bp-eacaa765"
    assert of(KnownConfigurations(), epochs=9, search_epochs=9).id == first.id
    assert of(search_epochs=WORKLOADS["digits"].epochs).plain() == of().plain()


def test_search_epochs_and_start_make_other_sweeps_by_their_content(tmp_path: Path) -> None:
    others = [
        of(epochs=9),
        of(epochs=9, search_epochs=3),
        of(KNOWN, epochs=9),
        of(replace(KNOWN, values=({"lr": 2e-3},)), epochs=9),
        of(replace(KNOWN, values=(*KNOWN.values, {"lr": 2e-3})), epochs=9),
    ]
    assert len({definition.id for definition in others}) == len(others)
    assert of(KNOWN, epochs=9, start="a.yaml").id == of(KNOWN, epochs=9, start="b.yaml").id
    for definition in others:
        folder = SweepFolder(tmp_path / definition.id)
        folder.begin(definition, {})
        assert folder.read() == definition
        assert folder.begin(definition, {})[0].id == definition.id


def test_the_searchs_runs_brackets_and_label_have_the_searchs_epochs() -> None:
    definition = of(epochs=27, search_epochs=9, halving=3, trials=54)
    assert (definition.epochs, definition.trial_epochs) == (27, 9)
    assert definition.bracket
    assert definition.bracket.rungs == [1, 3]
    assert definition.search_plan(WORKLOADS["digits"], [{}]).epochs == 9
    assert str(tuning_budget(definition.found("final"))) == "54 x 9 halved"
    whole = of(epochs=27, halving=3, trials=54)
    assert whole.bracket
    assert (whole.bracket.rungs, whole.trial_epochs) == ([3, 9], 27)


def test_the_label_and_the_announcement_name_known_configurations() -> None:
    definition = of(KNOWN, epochs=27, search_epochs=9, halving=3, trials=54)
    for role in ("search", "final"):
        assert str(tuning_budget(definition.found(role))) == "54 x 9 halved from file"
    assert all(word in definition.announcement() for word in ("1 known", "9 epochs", "27 epochs"))
    assert not any(word in of(epochs=27).announcement() for word in ("known", "epochs"))
    assert "start" not in of().found("final")


def test_sizes_are_kept_and_older_versions_had_fewer(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "new")
    sized = replace(DEFINITION, packs_per_gpu=2, cost=0.5)
    folder.begin(sized, {})
    assert folder.read() == sized
    assert folder.begin(replace(DEFINITION, pack=9, packs_per_gpu=4, cost=0.1), {})[0] == sized
    # That of an older version has neither.
    path = folder.folder / "sweep.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in CHOSEN[2:]}))
    assert folder.read() == DEFINITION
    # It keeps what is measured now: the next command measures nothing.
    assert folder.begin(sized, {})[0] == folder.read() == sized


def test_a_search_takes_what_its_brackets_train() -> None:
    assert DEFINITION.search_seconds(0.5) == 2 * 7 * 0.5
    assert DEFINITION.search_seconds(0.5, 1) == 7 * 0.5
    halved = replace(DEFINITION, trials=18, pack=9, epochs=9, halving=3)
    # Of nine members six train one epoch, two three and one nine.
    assert halved.search_seconds(1.0) == 2 * (6 + 6 + 9)
    assert halved.pack_count == 2


def test_the_first_suggestions_are_at_random() -> None:
    assert random_first(100, 9, 6) == 54
    assert random_first(100, 9, 1) == 20
    assert random_first(12, 3, 2) == 12
