"""Configurations of ``--config``: published, a file, or the best of the store on the data at hand."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Inside
from tests.results.records import record
from tpbench.engine import FIELD_METHODS, UsageError
from tpbench.options import RunOptions, SweepOptions
from tpbench.results import RunRecord, RunStore
from tpbench.results.runs import PUBLISHED, search_info
from tpbench.search.configurations import (
    KnownConfigurations,
    _origin_of,
    best_runs,
    find_configuration,
    leave_out_unconfigured,
    search_inputs,
)
from tpbench.search.spaces import format_configuration, format_space, published_configuration
from tpbench.training.choice import CellChoice, choose_all, choose_cells
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


def test_seeds_that_are_split_by_class_are_no_configuration_of_their_own() -> None:
    """Four of B's seeds are better than A's, its mean over ten is not."""
    low, high = digits(1e-3, [0.1] * 10), digits(1e-2, [0.2] * 6 + [0.05] * 4)
    split = [
        replace(run, definition=replace(run.definition, split="by class" if run.definition.seed > 5 else ""))
        for run in [*low, *high]
    ]
    assert best_runs(split) == split[:10]


def test_new_seeds_of_the_best_have_the_origin_of_its_other_runs() -> None:
    """A search's trial of the authors' configuration does not make it a find of the search."""
    trial = {"by": "search", "role": "search", "trials": 54, "epochs": 100, "sweep": "s", "start": "published"}
    of_seed = [replace(run, search_info=PUBLISHED if run.definition.seed else trial) for run in digits(1e-3, [0.1] * 3)]
    assert _origin_of(of_seed, "float32") == PUBLISHED


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


def left_out(methods: str, configuration: str = "default") -> tuple[set[str], list[str]]:
    """The methods that are trained on digits-conv, and those without a configuration."""
    options = RunOptions.read({"workload": "digits-conv", "method": methods, "configuration": configuration})
    cells, _ = choose_cells(options.workload, options.method)
    trained, missing = leave_out_unconfigured(cells, options)
    return {cell.method for cell in trained}, missing


def test_a_group_leaves_out_methods_without_a_configuration() -> None:
    assert left_out("field") == ({"dkp"}, ["drtp"])
    assert left_out("bp,field") == ({"bp", "dkp"}, ["drtp"])
    assert left_out("field,drtp") == ({"dkp", "drtp"}, [])
    assert left_out("bp,drtp") == ({"bp", "drtp"}, [])
    assert left_out("field", "mine.yaml") == ({"dkp", "drtp"}, [])
    assert left_out("field", "published") == ({"dkp", "drtp"}, [])  # none has one: it is refused


def test_run_names_every_method_that_a_group_leaves_out(tpbench_inside: Inside, tmp_path: Path) -> None:
    ended = tpbench_inside("run", "digits-conv", "field", "--epochs", "1", "--seeds", "0")
    assert ended.returncode == 0, ended.stderr
    trained = {run.definition.method for run in RunStore(tmp_path / "results").records()}
    left = [line for line in ended.stderr.splitlines() if line.startswith("left out")]
    assert set(re.findall(r"[a-z0-9-]+", " ".join(left))) >= set(FIELD_METHODS) - trained
    assert trained == {"dkp"}


@pytest.mark.parametrize(
    ("keys", "method", "named"),
    [
        ({"like": "digits-conv"}, "bp", "digits-conv"),
        ({"like": "digits-conv"}, "drtp", "digits"),
        ({"like": "digits"}, "bp", "digits"),
        ({"like": "cifar10-conv"}, "bp", "cifar10-conv"),
        ({"like": "cifar10-conv", "network": [{"conv": 4}, 9]}, "bp", "cifar10"),
    ],
)
def test_without_a_validation_set_the_error_names_a_configuration_that_fits(
    tmp_path: Path, keys: dict[str, Any], method: str, named: str
) -> None:
    path = tmp_path / "nv.yaml"
    path.write_text(yaml.safe_dump({"name": "nv", "validation_size": 0, **keys}))
    cell = CellChoice.of(str(path), method)
    with pytest.raises(UsageError) as refused:
        find_configuration(cell, "default", PackSettings("r"))
    words = shlex.split(re.search(r"'tpbench (show config [^>]*)>", str(refused.value))[1])  # type: ignore[index]
    assert words == ["show", "config", named, method]
    config = tmp_path / "config.yaml"
    config.write_text(format_configuration(WORKLOADS[named], method))
    assert find_configuration(cell, str(config), PackSettings("r")).found["by"] == "file"


# --- known configurations of a search ---

INSIDE = {**BP, "lr": 1e-3}


def known(workloads: str = "digits", methods: str = "bp", **options: object) -> list[KnownConfigurations]:
    cells, _ = choose_all(workloads, methods)
    chosen = SweepOptions.read({"workloads": workloads, "methods": methods, **options})
    return [one.known for one in search_inputs(cells, chosen)]


def test_an_empty_name_is_no_start() -> None:
    """Such as that of a variable that is not set."""
    with pytest.raises(UsageError):
        known(start="")


def test_a_file_has_one_known_configuration_or_a_list_of_them(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(INSIDE))
    assert known(start=path, methods="bp,dfa") == [KnownConfigurations((INSIDE,), "file")] * 2
    others = [INSIDE, {**INSIDE, "lr": 1e-2}, {**INSIDE, "beta2": 0.9}]
    path.write_text(yaml.safe_dump(others))
    assert known(start=path) == [KnownConfigurations(tuple(others), "file")]
    assert known() == [KnownConfigurations()]


def test_what_is_constant_or_of_the_workload_is_no_part_of_a_known_configuration() -> None:
    (one,) = known("mnist", "dtp", start="published")
    assert one.origin == "published"
    published = published_configuration(WORKLOADS["mnist"], "dtp")
    left = {"wd_fb", "fb_pretrain_epochs", "fb_epochs_between"}
    assert one.values == ({name: value for name, value in published.items() if name not in left},)


def test_the_authors_configuration_in_a_file_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(format_configuration(WORKLOADS["mnist"], "bp"))
    assert known("mnist", start=path) == known("mnist", start="published")
    more = [published_configuration(WORKLOADS["mnist"], "bp"), INSIDE]
    path.write_text(yaml.safe_dump(more))
    assert [one.origin for one in known("mnist", start=path)] == ["file"]


FIRST = "- {lr: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lr: 0.5\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\n", 1),
        (FIRST + "- lr: 1e-3\n  beta1: 0.95\n", 2),
        (FIRST + "- lr: 1e-3\n  beta1: 0.95\n  beta2: 0.9\n  epsilon: 1e-8", 3),
        (FIRST + "- lr: x\n", 2),
        (FIRST + "- 5\n", 2),
        (FIRST + "-\n  {lr: 0.001, beta1: 0.9, beta2: 0.99, epsilon: 1e-8}\n", 3),
        ("lr: 1e-3\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1e-8\nsigma: 0.1\n", 5),
        ("- {lr: 1e-3, beta1: 0.9, beta2: 0.99}\n", 1),
        ("[]\n", 1),
        ("5\n", 1),
    ],
    ids=["outside", "missing", "no choice", "no number", "no mapping", "twice", "unknown", "one missing", "none", "5"],
)
def test_a_known_configuration_that_a_search_cannot_suggest_is_named(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"c\.yaml:{line}: "):
        known(start=path)


def test_a_known_configuration_with_another_constant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(format_configuration(WORKLOADS["mnist"], "dtp").replace("wd_fb: 0.0", "wd_fb: 0.1"))
    with pytest.raises(UsageError, match=r"c\.yaml:\d+: .*wd_fb 0.1"):
        known("mnist", "dtp", start=path)


def test_a_known_configuration_with_another_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(format_configuration(WORKLOADS["cifar10"], "ddtp-linear"))
    known("cifar10", "ddtp-linear", start=path)
    text = path.read_text().replace("fb_epochs_between: 2", "fb_epochs_between: 3")
    path.write_text(text)
    number = text.splitlines().index("fb_epochs_between: 3") + 1
    with pytest.raises(UsageError, match=rf"c\.yaml:{number}: .*fb_epochs_between"):
        known("cifar10", "ddtp-linear", start=path)


def test_published_configurations_outside_the_space_are_all_named_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"published\.yaml:\d+: mnist ddtp-linear .*epsilon_fb.*mnist ddtp-rhl$"):
        known("mnist", "bp,ddtp-linear,dtp,ddtp-rhl", start="published")
    with pytest.raises(UsageError, match=r"mnist-frozen dtp .*lr_eta"):
        known("mnist-frozen", "dtp", start="published")
    with pytest.raises(UsageError, match="bp on digits") as raised:
        known("digits", "bp", start="published")
    assert raised.value.parameter == "start"
    wider = tmp_path / "wider.yaml"
    wider.write_text(
        format_space("ddtp-linear").replace(
            "epsilon_fb: {log_uniform: [1.0e-08, 0.0001]}", "epsilon_fb: {log_uniform: [1.0e-08, 0.001]}"
        )
    )
    assert len(known("mnist", "ddtp-linear", start="published", space=wider)[0].values) == 1


def test_more_known_configurations_than_trials_and_no_file_are_invalid(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump([INSIDE, {**INSIDE, "lr": 1e-2}]))
    known(start=path, trials=2)
    for wrong in ({"start": path, "trials": 1}, {"start": tmp_path / "nowhere.yaml"}, {"start": tmp_path}):
        with pytest.raises(UsageError) as raised:
            known(**wrong)
        assert raised.value.parameter == "start"


def test_a_search_does_not_train_longer_than_the_final_runs() -> None:
    known(search_epochs=5, epochs=5)
    known("digits,mnist", search_epochs=WORKLOADS["digits"].epochs)
    for wrong in ({"search_epochs": 6, "epochs": 5}, {"search_epochs": WORKLOADS["digits"].epochs + 1}):
        with pytest.raises(UsageError) as raised:
            known(**wrong)
        assert (raised.value.parameter, raised.value.value) == ("search_epochs", wrong["search_epochs"])


def test_halving_that_would_stop_nothing_is_refused() -> None:
    known(halving=3, pack=2, search_epochs=2)
    known(pack=1, trials=1, search_epochs=1)
    for wrong in ({"pack": 1}, {"trials": 1}, {"search_epochs": 1}, {"epochs": 1}):
        with pytest.raises(UsageError) as raised:
            known(halving=3, **wrong)
        assert {raised.value.parameter: raised.value.value} == wrong
