"""tpbench from Python: take arguments, call, return data frames. The public names are those of ``tpbench``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tpbench.engine import UsageError, method_title
from tpbench.engine.errors import InterruptedWork, TpbenchError, visible, warn_caller
from tpbench.options import (
    MODELS,
    REMOVED,
    M,
    RunOptions,
    SweepOptions,
    check_flag,
    check_name,
    format_place,
    join_names,
)
from tpbench.results.opening import (
    find_record,
    open_store,
    read_store,
    stored_baseline,
    stored_method,
    stored_tuning,
    stored_workload,
)
from tpbench.results.paper import (
    ANGLE_TABLE,
    BASELINE_TABLES,
    DAMPING_TABLE,
    LOSS_TABLE,
    check_table,
    check_table_options,
)
from tpbench.training.choice import (
    choose_all,
    choose_cells,
    method_groups,
    read_options,
    split_names,
    workload_groups,
)

if TYPE_CHECKING:
    import os

    import pandas as pd
    import torch
    from torch import nn

    from tpbench.results import RunRecord, RunStore

    Place = str | os.PathLike[str]
    Names = str | Place | Iterable[Place]
    Seeds = str | Iterable[int]
    Track = str | Iterable[str]

P = ParamSpec("P")
T = TypeVar("T")


_AS_ARGUMENTS = {
    "config": "configuration",
    "fresh": "fresh=True",
    "accept-failures": "accept_failures=True",
    "offline": "offline=True",
}
# A command that a message names stays one.
_OPTION = re.compile(
    r"\btpbench [a-z][^';:,]*|(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?: (?:(auto|cpu|best|[0-9]+-[0-9]+)|([0-9]+))(?![\w-]))?"
)


def translate_options(message: str) -> str:
    """Return a message with the options that it names as arguments: ``--device cpu`` becomes ``device='cpu'``."""

    def argument(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        name = _AS_ARGUMENTS.get(match[1], match[1].replace("-", "_"))
        value = f"'{match[2]}'" if match[2] else match[3]
        return f"{name}={value}" if value else name

    return _OPTION.sub(argument, message)


def public(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of the public interface fail in the words of Python.

    Ctrl-C, and in a notebook the interrupt of its kernel, stays a KeyboardInterrupt, which no ``except TpbenchError``
    takes for a run that failed.
    """
    renamed = MODELS[function.__name__].renamed if function.__name__ in MODELS else {}
    removed = REMOVED.get(function.__name__, {})

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> T:
        for name in removed.keys() & options.keys():
            raise UsageError(f"{name} is gone: {removed[name]}")
        for before in renamed.keys() & options.keys():
            raise UsageError(f"{before} is called {renamed[before]} now")
        try:
            return function(*arguments, **options)
        except InterruptedWork as error:
            raise KeyboardInterrupt(str(error)) from None
        except TpbenchError as error:
            # A traceback shows it as it is.
            error.args = tuple(visible(translate_options(str(part))) for part in error.args)
            raise

    return called


def _warn(messages: Iterable[str]) -> None:
    """Warn with the line that called tpbench."""
    for message in messages:
        warn_caller(translate_options(message))


def _checked(check: Callable[[object], T], value: object, parameter: str) -> T:
    """Return a checked argument.

    Raises:
        UsageError: it is wrong.
    """
    try:
        return check(value)
    except ValueError as error:
        raise UsageError(str(error), parameter=parameter, value=value) from None


def _store(results: Place) -> RunStore:
    return read_store(_checked(format_place, results, "results"))


@public
def load_runs(results: Place, workload: Names | None = None, method: Names | None = None) -> pd.DataFrame:
    """Every run of a store, one row each.

    Args:
        results: the store: a folder or a URL.
        workload, method: only these: a name, several with commas between them or as a list, or ``"all"`` (the paper's
            data sets, the methods of Table S6). None: whatever the store holds.

    Returns:
        ``id``, ``workload``, ``data`` (``exact``, or what kind of copy), ``method``, ``seed``, ``epochs``,
        ``protocol``, ``status`` (``finished`` or ``diverged``), ``selected_epoch`` (from 1, that with the lowest
        validation error, or the last one without a validation set; missing where no epoch was finished),
        ``train_error``, ``validation_error`` and ``test_error`` at that epoch in per cent, ``precision``,
        ``method_source``, ``workload_source``,
        ``wall_time_s`` (the run's share of its pack's time), ``pack_members``; then the hyperparameters as ``hp_*``,
        how they were found as ``found_*`` and where the run came from as ``from_*``. An empty store gives no rows.
        Trials of a search that were stopped early have no run: ``frame.attrs["notes"]`` and a warning name the
        searches of which not all trials are here, and :func:`load_trials` has them all.

    Raises:
        UsageError: there is no such folder, workload or method.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    from tpbench.results.frames import partial_searches, runs_frame
    from tpbench.search.spaces import supplied_sweeps

    store = _store(results)
    frame = runs_frame(_records(store, results, workload, method))
    searches = partial_searches(frame, supplied_sweeps())
    note = "not every trial of a search is a run, and load_trials has all of them where the sweep's journal is"
    notes = [f"{note}: {searches}"] if searches else []
    frame.attrs["notes"] = notes
    _warn([*store.damaged, *notes])
    return frame


@public
def load_trials(results: Place, sweep: str | None = None) -> pd.DataFrame:
    """Every trial of a search, also those that were stopped early, one row each.

    Args:
        results: the store: a folder or a URL.
        sweep: the sweep's name, as ``tpbench sweeps`` lists it; None: all sweeps of the store and its archives.

    Returns:
        ``sweep``, ``trial`` and ``pack`` (both from 0, in the order in which the search suggested them), ``random``
        (true if TPE drew it at random, as it does first), ``state``
        (``finished``; ``stopped`` by halving; ``pruned``, as it had learnt nothing; ``diverged``; ``failed``, of a pack
        that could not be trained), ``epochs`` (joint epochs trained), ``validation_error`` (the lowest, in per cent),
        ``objective`` (what the search minimised: the same, with 100 for trials that diverged, or the lowest value of
        the sweep's other objective, infinite for those), ``run`` (the run's id; :func:`load_runs` has those that
        finished or diverged), and the hyperparameters as ``hp_*``. Trials that have not ended are not in it. A store
        without sweeps gives no rows.

    Raises:
        UsageError: there is no such folder or sweep.
        TpbenchError: the store cannot be read, or the sweep that is named is damaged. Of others a warning tells.
    """
    from tpbench.search.listing import trials_frame

    store = _store(results)
    frame, problems = trials_frame(store, None if sweep is None else _checked(check_name, sweep, "sweep"))
    _warn(problems)
    return frame


@public
def load_tuning(results: Place, workload: Names | None = None) -> pd.DataFrame:
    """The tuning curves of a store's searches: the best validation error against the trials and epochs it cost.

    Args:
        results: the store: a folder or a URL.
        workload: only searches on it, as :func:`load_runs` takes names.

    Returns:
        ``sweep``, ``workload``, ``method``, ``search`` (``54 x 27 halved``: trials, epochs), ``kind``, ``trials`` (from
        1), ``member_epochs`` (joint epochs that so many trials took) and ``validation_error`` (per cent). ``kind`` is
        ``observed`` (the lowest so far, missing before the first), ``random, with replacement`` or
        ``random, without replacement``: the expected best of as many of the trials that TPE drew at random (Dodge et
        al. 2019). A trial that was not trained to its end costs its epochs and is never the best: a draw of it counts
        with its error at the stop (100 if it diverged or failed), or with the worst that came to the end if that is
        higher. ``frame.attrs["quantiles"]`` has a mapping per sweep: the number of ``random`` trials, that of
        ``unfinished`` ones among them, and the quantiles ``q10`` to ``q90``, not a number where one falls among these.
        Searches that minimise a loss are left out, and ``frame.attrs["notes"]`` names them.

    Raises:
        UsageError: there is no such folder or workload.
        TpbenchError: the store cannot be read. Of damaged sweeps a warning tells.

    Example:
        >>> frame = tpbench.load_tuning("results", "mnist")
        >>> frame[frame.kind == "observed"].pivot(index="trials", columns="sweep", values="validation_error")
    """
    from tpbench.search.tuning import tuning_frames

    store = _store(results)
    frame, quantiles, notes = tuning_frames(store, _workloads(results, workload))
    frame.attrs.update(quantiles=quantiles.to_dict("records"), notes=notes)
    _warn(notes)
    return frame


@public
def load_curves(results: Place, workload: Names | None = None, method: Names | None = None) -> pd.DataFrame:
    """The learning curves of a store's runs, in long form: one row per run, curve and epoch.

    Args:
        results: the store: a folder or a URL.
        workload, method: only these, as :func:`load_runs` takes them; runs that are left out are not read.

    Returns:
        ``run`` (the ``id`` of :func:`load_runs`), ``workload``, ``data``, ``method``, ``seed``, ``epoch`` (joint
        epochs, from 1), ``curve`` (``train_loss``, ``train_error``, ``validation_loss``, ``validation_error``,
        ``test_loss``, ``test_error``, ``reconstruction_loss``) and ``value``: losses are means over samples, errors
        fractions (0.02 is 2 %). An empty store gives no rows.

    Raises:
        UsageError: there is no such folder, workload or method.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    from tpbench.results.frames import curves_frame

    store = _store(results)
    frame = curves_frame(_records(store, results, workload, method))
    _warn(store.damaged)
    return frame


@public
def load_predictions(results: Place, workload: Names | None = None, method: Names | None = None) -> pd.DataFrame:
    """Right or wrong of every test sample, one row per run that kept it.

    Args:
        results: the store: a folder or a URL.
        workload, method: only these, as :func:`load_runs` takes them; runs that are left out are not read.

    Returns:
        ``id``, ``workload``, ``data``, ``method``, ``seed``, ``epochs``, ``fingerprint`` (of the data: equal ones have
        the same test samples in the same order), ``selected_epoch`` (from 1), ``test_error`` (per cent) and
        ``correct``: an array (test samples,) of bool, as the network of the selected epoch classifies them.
        ``numpy.stack(frame["correct"])`` makes one array of runs on the same data. ``frame.attrs["without"]`` counts
        the runs that kept none; ``tpbench run ... --again`` trains them for it.

    Raises:
        UsageError: there is no such folder, workload or method.
        TpbenchError: the store cannot be read. Of files that are damaged a warning tells.

    Example:
        >>> frame = tpbench.load_predictions("results", "mnist", "bp")
        >>> wrong_in_all = ~numpy.stack(frame["correct"]).any(axis=0)
    """
    from tpbench.results.frames import predictions_frame

    store = _store(results)
    frame = predictions_frame(store.all_predictions(_records(store, results, workload, method)))
    _warn(store.damaged)
    return frame


@public
def leaderboard(
    results: Place, workload: Names | None = None, baseline: str = "bp", tuning: str | None = None
) -> pd.DataFrame:
    """Every method of a store against one baseline, and which of the others could be the best.

    Args:
        results: the store: a folder or a URL.
        workload: only these, as :func:`load_runs` takes them.
        baseline: the method that all others are compared with.
        tuning: only rows with this tuning label (``"published"``, ``"54 x 27 halved"``), also in the tests; None: all.

    Returns:
        One row per workload, kind of data, method and tuning: the baseline first, then by test error, those of few
        seeds last. Errors are in per cent, differences in percentage points, over the same seeds as their tests.

        - ``workload``, ``data``, ``method``, ``tuning`` (how the configuration was found: ``published``, ``100 x 100``
          for a search of 100 trials of 100 epochs, ``file``, ``unknown``), ``seeds`` (such as ``0-9``), ``epochs``;
        - ``test_error_mean``, ``test_error_std``, ``ci_low`` and ``ci_high`` (Student's 95 % interval of the mean);
        - ``baseline``, ``difference`` (mean minus the baseline's), ``low`` and ``high`` (its 95 % interval, for all
          methods at once), ``p``, ``differs`` (``yes``: p is below 5 %; ``no``, ``not tested`` or ``baseline``);
        - ``could_be_best`` (``yes``, ``no``, ``open``, ``no rival`` or ``baseline``), ``tested`` (the test and its
          seeds, or why there is none);
        - ``validation_error_mean``, ``diverged`` (seeds, which count with the error of guessing), ``precision``,
          ``marks`` (how the row departs from the protocol).

        ``difference`` and ``p`` are missing only of the baseline and where ``tested`` says that nothing was tested,
        ``low`` and ``high`` there and after a permutation test, the deviation and the interval of a mean where seeds
        are too few.
        ``frame.attrs["notes"]`` are the notes below the printed tables.

    Raises:
        UsageError: there is no such folder, workload, method or tuning, no run of another baseline than BP, or the
            runs of a workload have no validation set.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.

    Example:
        >>> board = tpbench.leaderboard("results", "mnist")
        >>> list(board.query("could_be_best == 'yes'").method)
    """
    from tpbench.results.cells import choose_cells as cells_of
    from tpbench.results.ranking import rank_all, ranking_frame, ranking_notes, read_test_samples, require_validated

    store = _store(results)
    chosen = _workloads(results, workload)
    require_validated(store.summaries(), chosen)
    label = _tuning(tuning, store, chosen)
    method = _baseline(baseline, store, chosen, label)
    all_cells = cells_of(store.summaries(), label)
    cells = {key: cell for key, cell in all_cells.items() if chosen is None or cell.workload in chosen}
    rankings = read_test_samples(store, rank_all(cells, method, label))
    notes = [
        f"{ranking.title}: {note}" if len(rankings) > 1 else note
        for ranking in rankings
        for note in ranking_notes(ranking)
    ]
    _warn(store.damaged)
    return _annotated(ranking_frame(rankings), f"Test error (%) against {method_title(method)}", notes)


@public
def table(results: Place, name: str, baseline: str | None = None, tuning: str | None = None) -> pd.DataFrame:
    """One of the tables that are computed from a store, in tidy form: one row per entry.

    Args:
        results: the store: a folder or a URL.
        name: ``"1"`` or ``"s6"`` (test errors beside the paper's), ``"s7"`` (the best damping of every layer, from the
            records of ``tpbench align``), ``"loss"`` (training losses at the end), ``"angles"`` (those behind Figures 4
            and S3 to S5, in numbers), ``"overview"`` (all methods on all workloads against the baseline),
            ``"epochs"`` (epochs until the validation error is near the baseline's), or ``"field"`` (all rules by what
            they need, with their cost).
        baseline: the method that the others are compared with, of ``"overview"``, ``"epochs"`` and ``"field"`` alone;
            None is BP.
        tuning: only configurations with this tuning label, also in the tests, as :func:`leaderboard` takes it; of the
            same tables.

    Returns:
        Errors are in per cent. ``marks`` says how an entry departs from the protocol, ``tuning`` how its configuration
        was found, ``seeds`` over which the numbers are.

        - ``"1"``, ``"s6"``: each of the table's methods on each workload with the published configurations, also where
          the store has no run (``seeds`` is ``none`` then): ``workload``, ``data``, ``method``, ``tuning``, ``seeds``,
          ``epochs``, ``test_error_mean``, ``test_error_std``, ``minibatch_mean`` (as the authors average; where all
          runs have predictions), ``diverged``, ``paper_mean``, ``paper_std``, ``difference`` with ``low`` and ``high``
          (95 %; in per cent of the paper's mean), ``within`` (±5 % of it: ``yes``, ``no``, ``open`` or
          ``not compared``), ``compared`` (or why not), ``precision``, ``marks``.
          ``frame.pivot(index="method", columns=["workload", "data"], values="test_error_mean")`` is the printed shape.
        - ``"overview"``: each method on each workload of the store: ``workload``, ``data``, ``method``, ``tuning``,
          ``test_error_mean``, ``difference``, ``differs``, ``could_be_best``, ``tested``, as :func:`leaderboard` has
          them.
        - ``"field"``: the same with ``needs`` (what the rule needs to learn its feedback), ``low``, ``high`` and ``p``
          of the difference, and ``cost``, the time of a joint minibatch over the baseline's.
        - ``"epochs"``: the same on workloads with the baseline: ``workload``, ``data``, ``method``, ``tuning``,
          ``target`` (1.25 times the baseline's validation error), ``seeds``, ``reached`` (how many of them reach it),
          and the ``median``, ``first`` and ``last`` epoch over seeds, infinite for those that do not.
        - ``"loss"``: the same: ``workload``, ``data``, ``method``, ``tuning``, ``seeds``, ``epochs``, ``diverged``,
          ``train_loss_mean``, ``train_loss_std``, ``precision``, ``validated`` (False: all samples train, without a
          validation set), ``marks``.
        - ``"s7"``: each method and hidden layer: ``method``, ``layer`` (from 1), ``damping``, ``paper``, and the angles
          with them in degrees, ``angle`` and ``paper_angle``.
        - ``"angles"``: the same on each workload: ``workload``, ``data``, ``method``, ``seeds``, ``epochs``, ``layer``,
          ``damping``, and in degrees ``loss_angle``, ``target_angle`` (without damping), ``damped_target_angle``.

        ``frame.attrs["title"]`` and ``frame.attrs["notes"]`` are what stands above and below the printed table.

    Raises:
        UsageError: there is no such folder, table, method or tuning, or the table has no baseline.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.

    Example:
        >>> frame = tpbench.table("results", "s6")
        >>> frame.query("within == 'no'").filter(["workload", "method", "difference", "low", "high"])
    """
    chosen = check_table(str(name))
    check_table_options(chosen, baseline, tuning)
    store = _store(results)
    if chosen == DAMPING_TABLE:
        from tpbench.reports.alignment_tables import DAMPING_TITLE

        frame, said = _dampings(store)
        title = DAMPING_TITLE
    elif chosen == ANGLE_TABLE:
        from tpbench.reports.alignment_tables import ANGLE_NOTE, ANGLE_TITLE, angle_frame

        frame, title, said = angle_frame(store), ANGLE_TITLE, [ANGLE_NOTE]
    elif chosen == LOSS_TABLE:
        from tpbench.results.tables import LOSS_TITLE, loss_notes, loss_rows

        frame, title = loss_rows(store), LOSS_TITLE
        said = loss_notes(frame)
    elif chosen in BASELINE_TABLES:
        frame, title, said = _against_baseline(store, chosen, "bp" if baseline is None else baseline, tuning)
    else:
        from tpbench.results.tables import footnote, notes, others_note, paper_table, table_rows

        found = paper_table(store, chosen)
        others = others_note(found)
        frame, title, said = (
            table_rows(found),
            found.title,
            [*footnote(found), *notes(found), *([others] if others else [])],
        )
    _warn(store.damaged)
    return _annotated(frame, title, said)


@public
def compare(
    results: Place,
    first: str,
    second: str,
    workload: Names | None = None,
    baseline: str = "bp",
    tuning: str | None = None,
) -> pd.DataFrame:
    """Two methods of a store on every workload that both were trained on, a row for each tuning that both have.

    The tests are those of the leaderboard of that tuning (``tuning=``). Cells of other tunings are compared, as in the
    leaderboard of all, only where the two have none in common.

    Args:
        results: the store: a folder or a URL.
        first, second: the methods.
        workload: only these, as :func:`load_runs` takes them.
        baseline: the method that all others are compared with. Where it is one of the two, the test is one of all
            methods against it; otherwise one of all pairs of the other methods.
        tuning: only configurations with this tuning label, also in the tests, as :func:`leaderboard` takes it.

    Returns:
        One row per workload, kind of data and tuning with both; errors in per cent, differences in percentage points.
        ``workload``, ``data``; ``first_tuning``, ``first_mean``, ``first_std``, ``first_seeds``, ``first_diverged``
        and the same of ``second_``; ``difference`` (first minus second), ``low`` and ``high`` (its 95 % interval, only
        against the baseline), ``p``, ``family`` (``against BP``, ``all pairs`` or ``none``),
        ``tested`` (the test and its seeds, or why there is none), ``first_marks``, ``second_marks`` (how the cells
        depart from the protocol), ``verdict``. ``difference`` and ``p`` are missing only where ``family`` is ``none``.
        No rows where no workload has both. ``frame.attrs["notes"]`` says what the numbers are.

    Raises:
        UsageError: there is no such folder, workload, method or tuning, both methods are the same, or there is no run
            of another baseline than BP; or the runs of a workload have no validation set.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.

    Example:
        >>> tpbench.compare("results", "ddtp-linear", "dtp", "mnist")[["difference", "p", "family", "verdict"]]
    """
    from tpbench.results.comparison import compare_methods, comparison_notes

    if all(isinstance(name, str) and re.fullmatch("[0-9a-f]{8,24}", name) for name in (first, second)):
        raise UsageError(f"'{first}' and '{second}' are ids of runs: tpbench.compare_runs compares two runs")
    for method in (first, second):
        stored_method(_checked(check_name, method, "method"), open_store(_checked(format_place, results, "results")))
    store = _store(results)
    chosen = _workloads(results, workload)
    label = _tuning(tuning, store, chosen)
    frame = compare_methods(store, first, second, chosen, _baseline(baseline, store, chosen, label), label)
    _warn(store.damaged)
    title = f"{method_title(first)} against {method_title(second)}"
    return _annotated(frame, title, comparison_notes(frame, first, second))


@public
def compare_runs(results: Place, first: str, second: str) -> pd.DataFrame:
    """Two runs on the same test samples, sample by sample: McNemar's exact test.

    Args:
        results: the store: a folder or a URL.
        first, second: the ids of the runs, or at least their first 8 digits. Both must have predictions
            (:func:`load_predictions`).

    Returns:
        One row: ``first``, ``first_workload``, ``first_method``, ``first_seed``, ``first_epochs`` and the same of
        ``second``; ``data``, ``first_status``, ``second_status``; ``first_error``, ``second_error`` (per cent),
        ``difference`` (first minus second, percentage points); ``first_only`` and ``second_only`` (test samples that
        only this run classifies correctly), ``samples`` (of the test set), ``p`` (two-sided).
        ``frame.attrs["notes"]`` says what the test is of.

    Raises:
        UsageError: there is no such folder or run, several runs begin so, both are the same, or they were tested on
            other samples.
        TpbenchError: the store cannot be read, or a run has no predictions.

    Example:
        >>> ids = tpbench.load_runs("results", "mnist", "bp")["id"]
        >>> tpbench.compare_runs("results", ids[0], ids[1])[["first_only", "second_only", "p"]]
    """
    from tpbench.results.comparison import RUN_NOTE, runs_comparison

    store = _store(results)
    one, other = (
        find_record(store, _checked(check_name, run_id, name))
        for name, run_id in (("first", first), ("second", second))
    )
    frame = runs_comparison(store, one, other)
    _warn(store.damaged)
    return _annotated(frame, "Two runs, sample by sample", [RUN_NOTE])


def _against_baseline(
    store: RunStore, name: str, baseline: str, tuning: str | None
) -> tuple[pd.DataFrame, str, list[str]]:
    """Return one of the tables with a baseline, its title and its notes; no rows where there are no runs."""
    from tpbench.results.cells import choose_cells as cells_of
    from tpbench.results.cells import read_curves
    from tpbench.results.field_table import field_notes, field_rows
    from tpbench.results.paper import FIELD_TABLE, OVERVIEW_TABLE
    from tpbench.results.ranking import rank_all
    from tpbench.results.tables import epochs_note, epochs_rows, overview_notes, overview_rows

    label = _tuning(tuning, store, None)
    method = _baseline(baseline, store, tuning=label)
    cells = cells_of(store.summaries(), label)
    rankings = rank_all(cells, method, label)
    if name == OVERVIEW_TABLE:
        said = overview_notes(rankings, "differs") if rankings else []
        return overview_rows(rankings), f"Methods against {method_title(method)}", said
    if name == FIELD_TABLE:
        notes = [line for ranking in rankings for line in field_notes(ranking, "differs")]
        rows = field_rows(rankings) if rankings else pd.DataFrame()
        return rows, f"Rules against {method_title(method)}, by what they need", list(dict.fromkeys(notes))
    rows = epochs_rows(rankings, read_curves(store, cells.values()))
    return rows, "Epochs to target", [epochs_note(method)]


def _baseline(name: str, store: RunStore, workloads: Sequence[str] | None = None, tuning: str | None = None) -> str:
    """Return the baseline of a call, of which there must be runs; BP need not have any."""
    from tpbench.results.ranking import BASELINE

    chosen = _checked(check_name, name, "baseline")
    return chosen if chosen == BASELINE else stored_baseline(chosen, store, workloads, tuning)


def _tuning(label: str | None, store: RunStore, workloads: Sequence[str] | None) -> str | None:
    """Return a tuning label of a call as the store writes it; None: all."""
    return None if label is None else stored_tuning(_checked(check_name, label, "tuning"), store, workloads)


def _annotated(frame: pd.DataFrame, title: str, notes: Sequence[str]) -> pd.DataFrame:
    frame.attrs.update(title=title, notes=list(notes))
    return frame


def _workloads(results: Place, names: Names | None) -> list[str] | None:
    """The names that workloads have in a store; None: no choice was made."""
    if names is None:
        return None
    found = split_names(_checked(join_names, names, "workload"), workload_groups(), "workload")
    return [stored_workload(name, open_store(format_place(results))) for name in found]


def _records(store: RunStore, results: Place, workload: Names | None, method: Names | None) -> Iterable[RunRecord]:
    """The runs of a store with their curves; which they are, their summaries tell."""
    workloads, methods = _workloads(results, workload), None
    if method is not None:
        names = split_names(_checked(join_names, method, "method"), method_groups(), "method")
        methods = [stored_method(name, store) for name in names]
    if workloads is None and methods is None:
        return store.records()
    return store.with_curves(
        run
        for run in store.summaries()
        if (workloads is None or run.definition.workload in workloads)
        and (methods is None or run.definition.method in methods)
    )


def _dampings(store: RunStore) -> tuple[pd.DataFrame, list[str]]:
    """Table S7 and its note; both empty where nothing was recorded."""
    from tpbench.reports.alignment_tables import (
        DAMPING_WORKLOAD,
        alignment_records,
        damping_frame,
        damping_note,
        select_workload,
    )

    records = select_workload(alignment_records(store), DAMPING_WORKLOAD)
    return damping_frame(records), [damping_note(records)] if records else []


@public
def load_network(
    results: Place, run_id: str, *, normalise: bool = True, device: torch.device | str = "cpu"
) -> nn.Sequential:
    """The network of a run after its selected epoch, the one whose test error is the run's.

    Args:
        results: the store: a folder or a URL.
        run_id: the run's id, or at least its first 8 digits.
        normalise: the network takes numbers as the data set stores them (images of built-in data sets: whole numbers, 0
            to 255, digits 0 to 16) in samples of any shape (B, ...); otherwise inputs that are normalised already.
        device: where its parameters are.

    Returns:
        ``Sequential(Inputs, Linear, Tanh, ..., Linear)`` with outputs (B, classes), logits, in the run's precision.

    Raises:
        UsageError: there is no such store, run or device, or several runs begin so.
        TpbenchError: the network was not kept, is damaged, or comes from another training of the run.
    """
    from tpbench.results.modules import sequential
    from tpbench.results.networks import network_of
    from tpbench.training.devices import choose_device

    where = choose_device(str(device))
    store = _store(results)
    network = network_of(store, find_record(store, _checked(check_name, run_id, "run_id")))
    return sequential(network, normalise=normalise).to(where)


@public
def run(
    workload: str | os.PathLike[str],
    method: Names,
    configuration: str | os.PathLike[str] | Mapping[str, float | Sequence[float]] = "default",
    seeds: Seeds | None = None,
    epochs: int | None = None,
    results: Place = "results",
    *,
    n_seeds: int | None = None,
    data: Place | None = None,
    precision: str = "float32",
    device: str = "auto",
    checkpoint_every: int | str = "60s",
    offline: bool | None = None,
    keep_networks: bool = False,
    track: Track | None = None,
    again: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a configuration of one or several methods over seeds, without Ray: ``tpbench run``.

    Runs that the store has are not trained again. The call may be made from any thread; on a CPU, several train side by
    side.

    Args:
        workload: a name, or a ``.yaml`` file.
        method: a name, several with commas between them or as a list, or ``"all"``: the methods of Table S6.
        configuration: ``"default"`` (the authors', or on the digits the one that comes with tpbench), ``"published"``
            (the authors' alone), ``"best"`` (of the store), a YAML file, or the hyperparameters by name.
        seeds: numbers, or text such as ``"0-4,7"``. None: those of ``n_seeds``, or 0 to 9.
        epochs: joint epochs. None: the workload's.
        results: the store that they are added to: a folder or a URL.
        n_seeds: the number of seeds, from 0 on, instead of ``seeds``.
        data: folder of the data sets. None: ``$TPBENCH_DATA`` or the cache.
        precision: ``float32``, ``float64``, ``tf32`` or ``bf16``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        checkpoint_every: the time between checkpoints, such as ``"5m"``, with none in a pack's first minute, or a
            number of epochs.
        offline: True: a missing data set is an error. None: as ``$TPBENCH_OFFLINE`` says.
        keep_networks: True: the store gets the networks of the final runs too (:func:`load_network`).
        track: trackers that follow the runs: ``"tensorboard[:DIR]"``, ``"mlflow[:URI]"``, or several in a list; None:
            none.
        again: True: stored runs without predictions are trained again for them (:func:`load_predictions`).
        progress: False: nothing is printed.

    Returns:
        The runs, one row per method and seed, with the columns of :func:`load_runs`; those that diverged are among
        them.

    Raises:
        UsageError: an argument is wrong.
        TpbenchError: the data set is missing, or the store cannot be written.
        KeyboardInterrupt: Ctrl-C, the interrupt of a notebook, SIGTERM or SIGHUP while the main thread trains; what was
            finished is stored, and the same call continues from the last checkpoint.
    """
    options = _options(RunOptions, locals())
    shown = _checked(check_flag, progress, "progress")
    cells, left = choose_cells(options.workload, options.method)
    _warn(f"left out: {line}" for line in left)
    from tpbench.results.frames import runs_frame
    from tpbench.search.configurations import leave_out_unconfigured, run_configurations

    cells, missing = leave_out_unconfigured(cells, options)
    if missing:
        _warn([f"left out, no configuration: {', '.join(missing)}"])
    trained = run_configurations(cells, options, progress=shown)
    return runs_frame(record for _, records in trained for record in records)


@public
def sweep(
    workloads: Names,
    methods: Names,
    trials: int = 100,
    *,
    seeds: Seeds | None = None,
    n_seeds: int | None = None,
    epochs: int | None = None,
    search_epochs: int | None = None,
    space: Place | Sequence[Place] | None = None,
    start: Place | None = None,
    objective: str = "validation_error",
    halving: int = 0,
    results: Place = "results",
    data: Place | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    pack: int | str = "auto",
    search_seed: int = 0,
    fresh: bool = False,
    accept_failures: bool = False,
    precision: str = "float32",
    search_precision: str | None = None,
    checkpoint_every: int | str = "60s",
    offline: bool | None = None,
    keep_networks: bool = False,
    track: Track | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Search hyperparameters with TPE, then train the best configuration over all seeds: ``tpbench sweep``.

    One cell or many, on a Ray that is started for the call and ends with it. The same call continues a sweep that was
    interrupted. It may be made from any thread; a second one in the same process waits for the first.

    Args:
        workloads, methods: a name (of a workload also a ``.yaml`` file), several with commas between them or as a list,
            or ``"all"``: the paper's data sets, the methods of Table S6.
        trials: configurations that each search tries.
        seeds: of the final runs: numbers, or text such as ``"1-10"``; the search trains seed 0. None: those of
            ``n_seeds``, or 0 to 9.
        n_seeds: the number of final runs, with seeds from 0 on, instead of ``seeds``.
        epochs: joint epochs. None: the workload's.
        search_epochs: joint epochs of the search's runs, at most those of the final runs. None: the same.
        space: a file with the search space of some of the methods, or a list of such files; a space may name
            hyperparameters that one of its methods lacks. Other methods: those of their packages, or tpbench's own.
        start: configurations that each search tries first: ``"published"`` (the authors'), or a YAML file of one or
            several; None has none.
        objective: what is minimised: ``validation_error``, ``validation_loss`` or ``train_loss``.
        halving: the factor by which packs are halved at two rungs; 0: no halving.
        results: the store: a folder or a URL.
        data: folder of the data sets. None: ``$TPBENCH_DATA`` or the cache.
        cpus, gpus: what to use of this machine or cluster. None: all.
        address: a running Ray cluster, ``"auto"`` or ``HOST:PORT``; ``"auto"`` also where this process called
            ``ray.init()``, whose Ray is used then and left as it is.
        pack: configurations that are trained together. ``"auto"``: measured.
        search_seed: of the search.
        fresh: start another sweep though one was begun.
        accept_failures: go on though more than a tenth of the configurations could not be trained.
        precision: as :func:`run` takes it.
        search_precision: of the search alone.
        checkpoint_every: the time between checkpoints, such as ``"5m"``, with none in a pack's first minute, or a
            number of epochs.
        offline: True: a missing data set is an error. None: as ``$TPBENCH_OFFLINE`` says.
        keep_networks: True: the store gets the networks of the final runs too (:func:`load_network`).
        track: trackers that follow the runs: ``"tensorboard[:DIR]"``, ``"mlflow[:URI]"``, or several in a list; None:
            none.
        dry_run: train nothing, and return how long the sweeps would still take here.
        progress: False: nothing is printed.

    Returns:
        The final runs, one row per workload, method and seed, with the columns of :func:`load_runs`; the runs of the
        searches are in the store too. With ``dry_run`` one row per sweep: workload, method, members of a pack,
        configurations and final runs that are left, and the seconds of both on one CPU core or GPU.

    Raises:
        UsageError: an argument is wrong, or this process is connected to a Ray and ``address`` is None.
        TpbenchError: a data set is missing, a sweep is running already, or one failed; the runs of the others are in
            the store.
        KeyboardInterrupt: as of :func:`run`.
    """
    options = _options(SweepOptions, locals())
    shown = _checked(check_flag, progress, "progress")
    cells, left = choose_all(options.workloads, options.methods)
    _warn(f"left out: {line}" for line in left)
    from tpbench.results.frames import runs_frame
    from tpbench.sweeps.campaign import require_success, run_sweeps
    from tpbench.training.plan import PackSettings

    settings = PackSettings.of(options, None)
    if options.dry_run:
        from tpbench.sweeps.estimates import estimate_sweeps

        plan = estimate_sweeps(cells, options, settings, lambda line: None)
        if not plan.sweeps:
            raise TpbenchError("; ".join(plan.left))
        _warn(f"left out: {line}" for line in plan.left)
        return plan.frame()
    found = run_sweeps(cells, options, settings, progress=shown)
    require_success(found)
    return runs_frame(record for one in found for record in one.records)


def _options(model: type[M], arguments: Mapping[str, Any]) -> M:
    """Return the options of a call; None stands for the default where that is None, or an empty list."""
    given = {
        name: arguments[name]
        for name, (field, _) in model.fields().items()
        if name in arguments
        and not (arguments[name] is None and field.get_default(call_default_factory=True) in (None, ()))
    }
    return read_options(model, given)
