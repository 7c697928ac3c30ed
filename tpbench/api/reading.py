"""What a store holds, as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING

from tpbench.api.asked import Names, Place, one_name, place, several_names
from tpbench.api.words import for_python, warn
from tpbench.engine import UsageError, get_method
from tpbench.results.opening import open_store, read_store, stored_method, stored_workload
from tpbench.results.paper import ANGLE_TABLE, DAMPING_TABLE, LOSS_TABLE, PAPER_WORKLOADS, check_table, table_methods
from tpbench.training.choice import split_names

if TYPE_CHECKING:
    import pandas as pd

    from tpbench.results import RunRecord, RunStore


@for_python
def load_runs(results: Place, workload: Names | None = None, method: Names | None = None) -> pd.DataFrame:
    """Every run of a store, one row each.

    Args:
        results: the store: a folder or a URL.
        workload, method: only these: a name, several with commas between them or as a list, or ``"all"`` (the paper's
            data sets, the methods of Table S6). None: whatever the store holds.

    Returns:
        ``id``, ``workload``, ``data`` (``exact``, or what kind of copy), ``method``, ``seed``, ``epochs``,
        ``protocol``, ``status`` (``finished`` or ``diverged``), ``selected_epoch`` (from 1, that with the lowest
        validation error; missing where no epoch was finished), ``train_error``, ``validation_error`` and
        ``test_error`` at that epoch in per cent, ``precision``, ``method_source``, ``workload_source``,
        ``wall_time_s`` (the run's share of its pack's time), ``pack_members``; then the hyperparameters as ``hp_*``,
        how they were found as ``found_*`` and where the run came from as ``from_*``. An empty store gives no rows.
        Trials of a search that were stopped early have no run: ``frame.attrs["notes"]`` and a warning name the
        searches of which not all trials are here, and :func:`load_trials` has them all.

    Raises:
        UsageError: there is no such folder, workload or method.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    from tpbench.results.frames import partial_searches, runs_frame

    store = read_store(place(results))
    frame = runs_frame(_records(store, results, workload, method))
    searches = partial_searches(frame)
    note = "not every trial of a search is a run, and load_trials has all of them where the sweep's folder is"
    notes = [f"{note}: {searches}"] if searches else []
    frame.attrs["notes"] = notes
    warn([*store.damaged, *notes])
    return frame


@for_python
def load_trials(results: Place, sweep: str | None = None) -> pd.DataFrame:
    """Every trial of a search, also those that were stopped early, one row each.

    Args:
        results: the store: a folder or a URL.
        sweep: the sweep's name, as ``tpbench sweeps`` lists it; None: all sweeps of the store.

    Returns:
        ``sweep``, ``trial`` and ``pack`` (both from 0, in the order in which the search suggested them), ``state``
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
    from tpbench.search.trials import trials_frame

    store = read_store(place(results))
    frame, problems = trials_frame(store.folder, None if sweep is None else one_name(sweep, "sweep"))
    warn(problems)
    return frame


@for_python
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

    store = read_store(place(results))
    frame = curves_frame(_records(store, results, workload, method))
    warn(store.damaged)
    return frame


@for_python
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

    store = read_store(place(results))
    frame = predictions_frame(store.all_predictions(_records(store, results, workload, method)))
    warn(store.damaged)
    return frame


@for_python
def leaderboard(results: Place, workload: Names | None = None) -> pd.DataFrame:
    """Every method of a store on every workload, best first within the workload, and how it stands to the best.

    Args:
        results: the store: a folder or a URL.
        workload: only these, as :func:`load_runs` takes them.

    Returns:
        One row per workload, kind of data and method; errors in per cent. ``workload``, ``data``, ``method``,
        ``seeds``, ``epochs``, ``test_error_mean``, ``test_error_std``, ``ci_low`` and ``ci_high`` (95 %, of the
        mean), ``p_best`` (Holm-adjusted, against the best but BP), ``validation_error_mean``, ``diverged``,
        ``paper_mean``, ``paper_std``, ``p_paper``; ``verdict`` and ``against_best`` (that test in a mark and in
        words), ``test``, ``detectable`` (the difference it would have shown), ``budget`` (how the configuration was
        found), ``unequal`` (the best's was at another cost), ``marks`` (how the row departs from the protocol) and
        ``ranked``. ``frame.attrs["notes"]`` are the notes below the printed leaderboard.

    Raises:
        UsageError: there is no such folder or workload.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    from tpbench.results.ranking import BOARD_NOTE
    from tpbench.results.ranking import leaderboard as ranked

    store = read_store(place(results))
    chosen = _workloads(results, workload)
    board = ranked(store)
    if chosen is not None:
        board = board[board["workload"].isin(chosen)].reset_index(drop=True)
    warn(store.damaged)
    return _annotated(board, "Leaderboard: test error (%), best first", [BOARD_NOTE])


@for_python
def table(results: Place, name: str) -> pd.DataFrame:
    """One of the paper's tables computed from a store, in tidy form: one row per entry.

    Args:
        results: the store: a folder or a URL.
        name: ``"1"`` or ``"s6"`` (test errors), ``"s7"`` (the best damping of every layer, from the records of
            ``tpbench align``), ``"loss"`` (training losses at the end), or ``"angles"`` (those behind Figures 4 and
            S3 to S5, in numbers).

    Returns:
        Of ``"1"`` and ``"s6"`` a row for each of the table's methods on each workload, also where the store has no
        run: ``workload``, ``data``, ``method``, ``seeds``, ``epochs``, ``test_error_mean`` and ``test_error_std``
        (per cent), ``diverged``, ``paper_mean``, ``paper_std``, ``difference`` (to the paper, percentage points),
        ``difference_in_deviations``, ``p_paper``, ``best``, ``p_best``, ``against_best``, ``test``, ``detectable``,
        ``unequal``, ``precision``, ``configuration_from``, ``marks`` (how the entry departs from the protocol).
        ``frame.pivot(index="method", columns=["workload", "data"], values="test_error_mean")`` is the printed shape.
        Of ``"loss"`` a row for each method on each workload of the store: ``workload``, ``data``, ``method``,
        ``seeds``, ``epochs``, ``diverged``, ``train_loss_mean``, ``train_loss_std``, ``marks``. Of ``"s7"`` a row for
        each method and hidden layer: ``method``, ``layer`` (from 1), ``damping``, ``paper``, and the
        angles with them in degrees, ``angle`` and ``paper_angle``. Of ``"angles"`` the same
        on each workload: ``workload``, ``data``, ``method``, ``seeds``, ``epochs``, ``layer``, ``damping``, and in
        degrees ``loss_angle``, ``target_angle`` (without damping), ``damped_target_angle``. ``frame.attrs["title"]``
        and ``frame.attrs["notes"]`` are what stands above and below the printed table.

    Raises:
        UsageError: there is no such folder or table.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    chosen = check_table(str(name))
    store = read_store(place(results))
    if chosen == DAMPING_TABLE:
        from tpbench.reports.alignment_tables import DAMPING_TITLE

        frame, said = _dampings(store)
        title = DAMPING_TITLE
    elif chosen == ANGLE_TABLE:
        from tpbench.reports.alignment_tables import ANGLE_NOTE, ANGLE_TITLE, angle_frame

        frame, title, said = angle_frame(store), ANGLE_TITLE, [ANGLE_NOTE]
    elif chosen == LOSS_TABLE:
        from tpbench.results.tables import NOTE, TITLE, loss_rows

        frame, title, said = loss_rows(store), TITLE, [NOTE]
    else:
        from tpbench.results.tables import FOOTNOTE, notes, paper_table, table_rows

        found = paper_table(store, chosen)
        frame, title, said = table_rows(found), found.title, [FOOTNOTE, *notes(found)]
    warn(store.damaged)
    return _annotated(frame, title, said)


@for_python
def compare(
    results: Place, first: str, second: str, workload: Names | None = None, detect: float | None = None
) -> pd.DataFrame:
    """Two methods of a store on every workload that both were trained on.

    Args:
        results: the store: a folder or a URL.
        first, second: the methods.
        workload: only these, as :func:`load_runs` takes them; p-values are corrected for their number.
        detect: also: how many shared seeds would show a difference of so many percentage points (0.001 to 100).

    Returns:
        One row per workload and kind of data with both; errors in per cent. ``workload``, ``data``, ``first_mean``,
        ``first_std``, ``first_seeds``, ``first_diverged`` and the same of ``second_``, ``shared_seeds``,
        ``difference`` (first minus second), ``test``, ``p``, ``p_holm``, ``detectable`` (the smallest difference that
        the test would have shown with power 0.8), ``seeds_for`` (of ``detect``), ``same_epochs``, ``budgets``
        (``same``, ``differ`` or ``unknown``), ``first_budget``, ``second_budget``,
        ``first_marks``, ``second_marks``, ``verdict``. No rows where no
        workload has both. ``frame.attrs["notes"]`` says what the numbers are.

    Raises:
        UsageError: there is no such folder, workload or method, or both methods are the same.
        TpbenchError: the store cannot be read. Of runs that are damaged a warning tells.
    """
    from tpbench.results.comparison import compare_methods, comparison_note

    for method in (first, second):
        get_method(one_name(method, "method"))
    if detect is not None and not (isinstance(detect, Real) and 0.001 <= detect <= 100):
        raise UsageError(f"detect {detect!r}: give percentage points from 0.001 to 100")
    store = read_store(place(results))
    frame = compare_methods(store, first, second, _workloads(results, workload), detect)
    warn(store.damaged)
    return _annotated(frame, f"{first} against {second}", [comparison_note(first, second, several=len(frame) > 1)])


def _annotated(frame: pd.DataFrame, title: str, notes: Sequence[str]) -> pd.DataFrame:
    frame.attrs.update(title=title, notes=list(notes))
    return frame


def _workloads(results: Place, names: Names | None) -> list[str] | None:
    """The names that workloads have in a store; None: no choice was made."""
    if names is None:
        return None
    found = split_names(several_names(names, "workload"), PAPER_WORKLOADS, "workload")
    return [stored_workload(name, open_store(place(results))) for name in found]


def _records(store: RunStore, results: Place, workload: Names | None, method: Names | None) -> Iterable[RunRecord]:
    """The runs of a store with their curves; which they are, their summaries tell."""
    workloads, methods = _workloads(results, workload), None
    if method is not None:
        names = split_names(several_names(method, "method"), table_methods("s6"), "method")
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
