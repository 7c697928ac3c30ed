"""Stores, workloads, methods and runs by the text that a user writes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

from tpbench.engine import TpbenchError, UsageError, method_names, unknown
from tpbench.engine.files import check_name
from tpbench.results.alignments import read_alignments
from tpbench.results.archives import ARCHIVED_KINDS, runs_of_archive
from tpbench.results.artifacts import ID_PATTERN
from tpbench.results.location import location, near_folders
from tpbench.results.runs import RunRecord
from tpbench.results.store import RunStore
from tpbench.workloads import get_workload, is_file, workload_names

DEFAULT_STORE = "results"
"""Text of the store where the user names none."""


class NoRunError(TpbenchError):
    """A store holds no run, or none of a workload.

    Args:
        results: the store's place.
        workload: the workload's name; None: any.
    """

    def __init__(self, results: object, workload: str | None = None) -> None:
        where = f" of {workload}" if workload else ""
        super().__init__(f"{results} holds no run{where} yet; train some with 'tpbench sweep' or 'tpbench run'")


def open_store(results: str) -> RunStore:
    """Return the store of a folder or URL.

    Raises:
        UsageError: it is a file, or no path or URL.
    """
    folder = location(results)
    check_name(folder, "--results")
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, a folder is needed", parameter="results", value=results)
    return RunStore(folder)


def open_source(text: str) -> RunStore:
    """Return a store to read: of a folder, a URL, or an archive.

    Raises:
        UsageError: the archive cannot be read, or holds files that are no part of a store.
    """
    folder = location(text)
    check_name(folder, "the store")
    store = RunStore(folder)
    if isinstance(folder, Path) and folder.is_file():
        # No folder of its own: the archive is its only layer.
        store.archived = runs_of_archive(folder, ARCHIVED_KINDS)
    return store


def read_store(results: str) -> RunStore:
    """Return the store of a folder or URL that exists, for commands that only read.

    Raises:
        UsageError: there is no such folder; the message names what is near.
    """
    store = open_store(results)
    if not store.folder_exists:
        near = near_folders(store.folder)
        hint = f"did you mean {' or '.join(near)}?" if near else "'tpbench sweep' and 'tpbench run' make one"
        raise UsageError(f"there is no such folder, so it holds no run yet; {hint}", parameter="results", value=results)
    return store


def stored_workload(name: str, store: RunStore) -> str:
    """Return the name that a workload has in a store; it may be given as a file, or be known from the store alone.

    Raises:
        UsageError: there is no such workload; the message names what is near.
    """
    if is_file(name):
        return get_workload(name).name
    known = workload_names()
    if name in known:
        return name
    found = {record.definition.workload for record in store.summaries()} if store.folder_exists else set()
    if name not in found and store.folder_exists:
        found |= {record.workload for record in read_alignments(store).values()}
    if name not in found:
        raise unknown("workload", name, [*known, *sorted(found)])
    return name


def stored_method(name: str, store: RunStore) -> str:
    """Return the name of a method that is installed, or of which a store has runs.

    Raises:
        UsageError: there is no such method; the message names what is near.
    """
    known = method_names()
    if name not in known:
        found = {record.definition.method for record in store.summaries()}
        if name not in found:
            raise unknown("method", name, {*known, *found})
    return name


def stored_baseline(
    name: str, store: RunStore, workloads: Collection[str] | None = None, tuning: str | None = None
) -> str:
    """Return a method that others can be compared with: one of which the store has runs.

    A store without any run says nothing of it.

    Args:
        workloads: that runs are to be of; None: any.
        tuning: label that its cells are to have; None: any.

    Raises:
        UsageError: there is no such method, or no run of it; the message names the methods that have some.
    """
    stored_method(name, store)
    found = stored_methods(store, workloads, tuning)
    if found and name not in found:
        where = (f" on {', '.join(workloads)}" if workloads else "") + (f" tuned as '{tuning}'" if tuning else "")
        raise UsageError(
            f"{store.folder} holds no run of it{where} to compare with; there are runs of {', '.join(sorted(found))}",
            parameter="baseline",
            value=name,
        )
    return name


def stored_methods(store: RunStore, workloads: Collection[str] | None = None, tuning: str | None = None) -> set[str]:
    """Return the methods of which a store has runs.

    Args:
        workloads: of the runs; None: any.
        tuning: label of the cells of the runs; None: any.
    """
    if tuning is None:
        definitions = [record.definition for record in store.summaries()]
        return {d.method for d in definitions if workloads is None or d.workload in workloads}
    from tpbench.results.cells import candidates

    keys = candidates(store.summaries(), tuning)
    return {method for workload, _, method, _ in keys if workloads is None or workload in workloads}


def stored_tuning(label: str, store: RunStore, workloads: Collection[str] | None = None) -> str:
    """Return a tuning label as the cells of a store have it; in the given one spaces and capitals may differ.

    A store without any run says nothing of it.

    Args:
        workloads: that cells are to be of; None: any.

    Raises:
        UsageError: no cell with a validation set has it; the message names the labels that there are.
    """
    from tpbench.results.cells import tuning_labels

    labels = tuning_labels(store.summaries(), workloads)
    alike = [each for each in labels if squeeze_label(each) == squeeze_label(label)]
    if labels and not alike:
        where = f" on {', '.join(workloads)}" if workloads else ""
        there = ", ".join(f"'{each}'" for each in sorted(labels))
        raise UsageError(
            f"{store.folder} holds nothing{where} that was tuned so; there is {there}", parameter="tuning", value=label
        )
    return alike[0] if alike else label


def squeeze_label(label: str) -> str:
    """Return a tuning label without spaces and capitals, and with the letter x for a multiplication sign."""
    return "".join(label.split()).lower().replace("\N{MULTIPLICATION SIGN}", "x")


_ID_PREFIX = re.compile(r"[0-9a-f]{8,24}")


def find_record(store: RunStore, text: str) -> RunRecord:
    """Return the run with an id, of which the first 8 digits will do.

    Raises:
        UsageError: there is no such run, or there are several; the message names what is near.
        TpbenchError: it cannot be read.
    """
    wanted = text.strip().lower()
    if not _ID_PREFIX.fullmatch(wanted):
        raise UsageError(f"run '{text}': write the 24 hex digits that name the run's file, or at least the first 8")
    if ID_PATTERN.fullmatch(wanted) and (record := store.read(wanted)):
        return record
    ids = store.ids()
    found = [run_id for run_id in ids if run_id.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(f"run '{text}': {len(found)} runs begin so: {', '.join(found[:5])}")
    record = store.read(found[0]) if found else None
    if record is None:
        raise UsageError(f"{store.folder} holds no run '{text}'{_hint(wanted, ids, store)}")
    return record


def _hint(wanted: str, ids: list[str], store: RunStore) -> str:
    for message in store.damaged:
        if wanted in message:
            return f" that can be read: {message}"
    beginnings = {run_id[: len(wanted)]: run_id for run_id in ids}
    near = difflib.get_close_matches(wanted, beginnings, n=1, cutoff=0.7)
    return f": did you mean {beginnings[near[0]]}?" if near else "; 'tpbench results export FILE.csv' lists its runs"
