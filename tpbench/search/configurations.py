"""Look up configurations: that of ``--config`` (published, from a file, the best of a store), those of ``--start``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tpbench.engine import Configuration, UsageError, get_method, method_source
from tpbench.engine.configuration import as_floats, entry_name, flatten, is_list
from tpbench.engine.files import is_regular_file, shown_path, user_path
from tpbench.results import RunRecord
from tpbench.results.artifacts import canonical_json, digest
from tpbench.results.cells import one_per_seed
from tpbench.results.formats import count_of
from tpbench.results.runs import (
    DEFAULT_PRECISION,
    FROM_FILE,
    FROM_PYTHON,
    PUBLISHED,
    tuning_budget,
    with_precision,
)
from tpbench.results.statistics import MIN_SEEDS
from tpbench.search.brackets import bracket_sizes, rung_epochs
from tpbench.search.spaces import (
    SearchSpace,
    has_configuration,
    is_published,
    load_configuration,
    load_configurations,
    published_configuration,
    published_entry,
    spaces_for,
    supplied_configuration,
)
from tpbench.training.choice import CellChoice, split_names
from tpbench.training.plan import PackSettings
from tpbench.training.running import run_seeds
from tpbench.workloads import Workload, load_problem
from tpbench.workloads.yaml_files import Location, YamlFile

if TYPE_CHECKING:
    from tpbench.options import RunOptions, SweepOptions


def run_configurations(
    cells: Sequence[CellChoice], options: RunOptions, *, progress: bool = True
) -> Iterator[tuple[CellChoice, list[RunRecord]]]:
    """Train the configuration of every cell over seeds, one cell after the other, and yield its runs.

    Args:
        cells: of one workload.
        options: of ``tpbench run``.
        progress: whether anything is shown.

    Raises:
        UsageError: an option is wrong, or a cell has no such configuration; nothing was trained then.
        TpbenchError: the data set is missing, or the store cannot be written.
    """
    settings = PackSettings.of(options, options.device)
    chosen = [find_configuration(cell, options.configuration, settings) for cell in cells]
    for cell, one in zip(cells, chosen, strict=True):
        yield (
            cell,
            run_seeds(
                cell,
                one.values,
                one.found,
                options.seed_list,
                options.epochs,
                settings,
                note=one.note,
                progress=progress,
            ),
        )


def leave_out_unconfigured(cells: Sequence[CellChoice], options: RunOptions) -> tuple[list[CellChoice], list[str]]:
    """Return the cells to train, and the methods that are left out as they have no configuration.

    Only methods that a group such as ``all`` brings are left out, and only beside others: :func:`find_configuration`
    refuses a method that is named, and the first where none has a configuration.

    Args:
        cells: of one workload.
        options: of ``tpbench run``.

    Raises:
        TpbenchError: the file of a package's configurations is wrong.
    """
    config = options.configuration
    if config not in ("default", "published"):
        return list(cells), []
    named = split_names(options.method, {}, "methods")
    missing = [
        cell.method
        for cell in cells
        if cell.method not in named and not has_configuration(cell.workload, cell.method, config)
    ]
    trained = [cell for cell in cells if cell.method not in missing]
    return (trained, missing) if trained else (list(cells), [])


@dataclass(frozen=True)
class FoundConfiguration:
    """A configuration and where it comes from."""

    values: Configuration
    found: Mapping[str, Any] = field(default_factory=dict)
    """Its origin, for the files of runs that are trained with it (:mod:`tpbench.results.runs`)."""
    note: str = ""
    """A line about a configuration that neither the authors published nor the user named; otherwise empty."""


def find_configuration(
    cell: CellChoice, config: str | Mapping[str, object], settings: PackSettings
) -> FoundConfiguration:
    """Return a configuration, completed with the workload's schedule.

    Args:
        cell: the workload and the method.
        config: ``default`` (the authors', or on the digits tpbench's own), ``published``, ``best``
            (of the store, on the data at hand), a file, or the hyperparameters themselves.
        settings: of the runs to train. Their store and data are those of ``best``; they record the precision of the
            search where it was another.

    Raises:
        UsageError: there is no such configuration.
        TpbenchError: ``best``, and the data set is missing.
    """
    if isinstance(config, Mapping):
        return _with_digest(cell.workload.complete(get_method(cell.method), config), FROM_PYTHON)
    published = is_published(cell.workload, cell.method)
    if config == "default" and not published:
        values, found = supplied_configuration(cell.workload, cell.method)
        found = with_precision(found, DEFAULT_PRECISION, settings.precision)
        return FoundConfiguration(values, found, f"configuration that comes with tpbench: {_describe_origin(found)}")
    if config in ("default", "published"):
        return FoundConfiguration(published_configuration(cell.workload, cell.method), PUBLISHED)
    if config == "best":
        return _find_best(cell, settings)
    path = user_path(config)
    if not is_regular_file(path):
        raise UsageError(
            "neither 'default', 'published', 'best' nor a file", parameter="configuration", value=shown_path(path)
        )
    return _with_digest(load_configuration(cell.workload, cell.method, path), FROM_FILE)


def _with_digest(values: Configuration, found: Mapping[str, Any]) -> FoundConfiguration:
    """Return a configuration of the user's, which its digest identifies."""
    return FoundConfiguration(values, {**found, "digest": digest(as_floats(values))[:16]})


def _find_best(cell: CellChoice, settings: PackSettings) -> FoundConfiguration:
    if not cell.workload.validation_size:
        raise UsageError(
            f"{cell.workload.name} has no validation set, by which a configuration is the best",
            parameter="configuration",
            value="best",
        )
    settings.obtain(cell.workload)
    _, dataset = load_problem(cell.workload, settings.data_folder)
    source = method_source(cell.method)
    of_cell = [
        record
        for record in settings.store.summaries()
        if (record.definition.workload, record.definition.method) == (cell.workload.name, cell.method)
    ]
    on_data = [record for record in of_cell if record.definition.fingerprint == dataset.fingerprint]
    same = (source, cell.workload.source)
    fitting = [r for r in on_data if (r.definition.method_source, r.definition.workload_source) == same]
    if not fitting:
        where = f"{settings.results} holds no run of {cell.method} on {cell.workload.name}"
        if on_data:
            raise UsageError(
                f"{where} by the installed version of the method and workload, only {len(on_data)} of others"
            )
        if of_cell:
            raise UsageError(f"{where} on the data at hand to take the best from, only {len(of_cell)} on other data")
        raise UsageError(f"{where} to take the best from")
    runs = best_runs(fitting)
    found = _origin_of(runs, settings.precision)
    note = f"best configuration in {settings.results}: {_describe(runs, found)}"
    return FoundConfiguration(dict(runs[0].definition.configuration), found, note)


def best_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the runs, one per seed, of the configuration with the lowest mean validation error over its seeds.

    Configurations with a diverged seed come last, and before them those of fewer than three seeds: the lowest of many
    single seeds of a search is partly luck. Among equals the one with more seeds wins, then the first by id.

    Args:
        records: runs of one method on one data set, at least one.
    """
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.definition.seed, record.definition.id)):
        what = {**record.definition.plain(), "configuration": as_floats(record.definition.configuration)}
        # Own data may be split by class for some of the seeds.
        what |= {"seed": None, "split": "", "precision": record.precision}
        groups[canonical_json(what)].append(record)
    return min((list(one_per_seed(group)) for group in groups.values()), key=_preference)


def _preference(runs: Sequence[RunRecord]) -> tuple[bool, bool, float, int, str]:
    few = len(runs) < MIN_SEEDS
    return any(run.diverged for run in runs), few, _validation_error(runs), -len(runs), runs[0].definition.id


def _validation_error(runs: Sequence[RunRecord]) -> float:
    """Return the mean over the seeds that finished an epoch; infinite if none did."""
    known = [run.validation_error for run in runs if run.validation_error is not None]
    return fmean(known) if known else math.inf


def _origin_of(runs: Sequence[RunRecord], precision: str) -> dict[str, Any]:
    """Return the origin of the configuration of these runs, for runs of a precision.

    Runs that are trained with it now are no part of its search.
    """
    places = {"final": 0, "search": 2}
    known = sorted(
        (run.search_info for run in runs if run.search_info), key=lambda found: places.get(str(found.get("role")), 1)
    )
    found = with_precision(known[0], runs[0].precision, precision) if known else {}
    return {**found, "role": "final"} if found.get("by") == "search" else found


def _describe(runs: Sequence[RunRecord], found: Mapping[str, Any]) -> str:
    """Format ``run 1a2b3c (10 seeds, 100 epochs, validation error 1.93 %, found by a search of 40 configurations)``."""
    epochs = runs[0].definition.epochs
    diverged = sum(run.diverged for run in runs)
    words = [
        f"{len(runs)} seed{'s' * (len(runs) > 1)}",
        f"{diverged} diverged" if diverged else "",
        f"{epochs} epoch{'s' * (epochs > 1)}",
        _describe_error(runs),
        _describe_origin(found),
    ]
    return f"run {runs[0].definition.id[:8]} ({', '.join(word for word in words if word)})"


def _describe_error(runs: Sequence[RunRecord]) -> str:
    """Format ``validation error 1.93 %``; empty without a validation set."""
    if not all(run.validated for run in runs):
        return ""
    error = _validation_error(runs)
    return f"validation error {100 * error:.2f} %" if error < math.inf else "no epoch finished"


def _describe_origin(found: Mapping[str, Any]) -> str:
    """Format ``found by a search of 27 configurations``; empty where the origin is not known."""
    budget = tuning_budget(found)
    precision = f" in {budget.search_precision}" if budget.search_precision else ""
    origins = {
        "published": "published by the authors",
        "file": "from a file",
        "python": "from Python",
        "search": f"found by a search of {budget.trials} configurations{precision}",
    }
    return origins.get(found.get("by", ""), "")


# --- known configurations: the first trials of a search ---


@dataclass(frozen=True)
class KnownConfigurations:
    """Configurations that a search is given as its first trials."""

    values: tuple[dict[str, float], ...] = ()
    """Their values of what is searched, in their order; the others are the same for all trials of a search."""
    origin: str = ""
    """``published`` or ``file``, by their content: the authors' configuration in a file is published too."""


@dataclass(frozen=True)
class SearchInput:
    """The space of a search and the configurations that it begins with."""

    space: SearchSpace
    known: KnownConfigurations


def search_inputs(cells: Sequence[CellChoice], options: SweepOptions) -> list[SearchInput]:
    """Read and check what the searches of a command are made of; nothing is downloaded or trained.

    Args:
        cells: what is searched.
        options: of ``tpbench sweep``.

    Returns:
        The inputs, in the order of the cells.

    Raises:
        UsageError: a workload has no validation set, a file is wrong, a known configuration lies outside its space,
            there are more of them than trials, the search has more epochs than the final runs, or halving would stop
            nothing.
    """
    for cell in cells:
        if not cell.workload.validation_size:
            raise UsageError(
                f"{cell.workload.name} has no validation set, which a search needs; 'tpbench run' trains on it"
            )
        _check_search_epochs(cell.workload, options)
        _check_halving(cell.workload, options)
    names = [(cell.workload.name, cell.method) for cell in cells]
    spaces = spaces_for(names, [user_path(path) for path in options.space])
    inputs, errors = [], []
    for cell, space in zip(cells, spaces, strict=True):
        try:
            single = space.of_network(get_method(cell.method), cell.workload.architecture)
            inputs.append(SearchInput(space, _find_known(cell, single, options)))
        except UsageError as error:
            # A file is read for the first cell; the authors' configurations differ from cell to cell.
            if options.start != "published":
                raise
            errors.append((f"{cell.workload.name} {cell.method}", error))
    if errors:
        first, others = errors[0][1], ", ".join(name for name, _ in errors[1:])
        more = f"; nor can these start there: {others}" if others else ""
        raise UsageError(f"{first.args[0]}{more}", parameter=first.parameter, value=first.value)
    return inputs


def _check_search_epochs(workload: Workload, options: SweepOptions) -> None:
    """Refuse a search that trains longer than the final runs.

    It would cost more than one with their epochs, and its own run of the best configuration would be the better one.
    """
    epochs = options.epochs or workload.epochs
    if options.search_epochs and options.search_epochs > epochs:
        raise UsageError(
            f"more than the {epochs} epochs of the final runs on {workload.name} (--epochs); a search has as many or "
            "fewer",
            parameter="search_epochs",
            value=options.search_epochs,
        )


def _check_halving(workload: Workload, options: SweepOptions) -> None:
    """Refuse a factor of halving by which no member of a pack is ever stopped: the label of the runs would say so."""
    if not options.halving:
        return
    epochs = options.search_epochs or options.epochs or workload.epochs
    if not rung_epochs(epochs, options.halving):
        raise UsageError(
            f"--halving {options.halving} stops no configuration of a search of {count_of(epochs, 'epoch')}; give it "
            "more, or leave --halving out",
            parameter="search_epochs" if options.search_epochs else "epochs",
            value=epochs,
        )
    for name in ("pack", "trials"):
        if getattr(options, name) == 1:
            raise UsageError(
                f"--halving {options.halving} stops the worst configurations of each pack, and of one it stops none; "
                f"give {bracket_sizes(options.halving, on_gpus=False)[0]} or more, or leave --halving out",
                parameter=name,
                value=1,
            )


def _find_known(cell: CellChoice, space: SearchSpace, options: SweepOptions) -> KnownConfigurations:
    """Return the configurations that ``--start`` names for a cell.

    Raises:
        UsageError: there is none, one cannot be suggested by a search of the space, two are the same, or there are more
            than trials.
    """
    if options.start is not None and not options.start.strip():
        raise UsageError("--start '': give a file, or 'published'")
    if not options.start:
        return KnownConfigurations()
    if options.start == "published":
        return KnownConfigurations((_published_start(cell, space),), "published")
    path = user_path(options.start)
    if not is_regular_file(path):
        raise UsageError("neither 'published' nor a file", parameter="start", value=shown_path(path))
    file, configurations = load_configurations(cell.workload, cell.method, path)
    found: list[dict[str, float]] = []
    for location, values in configurations.items():
        one = _searched_values(cell, space, values, file, location)
        if one in found:
            raise file.error(location, "this configuration stands in the file twice")
        found.append(one)
    if len(found) > options.trials:
        raise UsageError(
            f"its {len(found)} configurations are more than the {options.trials} trials of the search",
            parameter="start",
            value=shown_path(path),
        )
    published = is_published(cell.workload, cell.method) and configurations == {
        location: published_configuration(cell.workload, cell.method) for location in configurations
    }
    return KnownConfigurations(tuple(found), "published" if published else "file")


def _published_start(cell: CellChoice, space: SearchSpace) -> dict[str, float]:
    workload, method = cell.workload, cell.method
    if not is_published(workload, method):
        raise UsageError(
            f"the authors published no configuration of {method} on {workload.name}; give a file",
            parameter="start",
            value="published",
        )
    entry = published_entry(workload, method)
    return _searched_values(cell, space, published_configuration(workload, method), entry.file, entry.location)


def _searched_values(
    cell: CellChoice, space: SearchSpace, values: Configuration, file: YamlFile, location: Location
) -> dict[str, float]:
    """Return the values of what a space searches.

    Args:
        cell: the workload and the method.
        space: of the search, of single numbers.
        values: of the complete configuration; a number stands for all layers that the space searches one by one.
        file: the configuration's.
        location: its place in the file.

    Raises:
        UsageError: the search cannot suggest the configuration; with file and line.
    """
    schedule = cell.workload.feedback_schedule(get_method(cell.method))
    name_of_cell = f"{cell.workload.name} {cell.method}"
    entries = get_method(cell.method).entries(cell.workload.architecture)
    numbers: dict[str, float] = {}
    for name, value in values.items():
        one_by_one = entry_name(name, 1) in space.ranges
        if is_list(value) and not one_by_one:
            raise file.error(
                (*location, name),
                f"{name_of_cell} cannot start here: {name} has one number for each layer, but {space.path.name} one "
                "for all of them",
            )
        spread = {name: value if is_list(value) or not one_by_one else [value] * entries[name]}
        numbers |= flatten(spread)
        known = space.ranges.get(entry_name(name, 1) if one_by_one else name)
        if known is not None and not all(map(known.holds, flatten(spread).values())):
            raise file.error(
                (*location, name),
                f"{name_of_cell} cannot start here: {name} {value!r} is outside its range in {space.path.name} "
                f"({known}); --space takes a wider one",
            )
        if known is None and schedule.get(name) != value:
            raise file.error(
                (*location, name),
                f"{name_of_cell} cannot start here: {name} {value!r}, but the search trains with {schedule.get(name)}, "
                "as the workload has it",
            )
    return {name: numbers[name] for name in space.searched}
