"""Stores as a person names them, and the names of what they hold."""

from __future__ import annotations

from pathlib import Path

from tpbench.engine import UsageError, method_names, unknown
from tpbench.engine.files import check_name
from tpbench.results.alignments import read_alignments
from tpbench.results.location import location, near_folders
from tpbench.results.store import RunStore
from tpbench.workloads import get_workload, is_file, workload_names

DEFAULT_STORE = "results"
"""The store where none is named."""


def open_store(results: str) -> RunStore:
    """The store of a folder or URL; a file of that name is a slip of the user's."""
    folder = location(results)
    check_name(folder, "--results")
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, a folder is needed", parameter="results", value=results)
    return RunStore(folder)


def read_store(results: str) -> RunStore:
    """The store of commands that only read: where nothing is, the name is a slip.

    Raises:
        UsageError: there is no such folder; the message names what is near.
    """
    store = open_store(results)
    if not store.folder_exists:
        near = near_folders(store.folder)
        hint = f"did you mean {' or '.join(near)}?" if near else "'tpbench sweep' and 'tpbench run' make one"
        raise UsageError(f"there is no such folder, so it holds no run yet; {hint}", parameter="results", value=results)
    return store


def stored_workload(name: str, results: str) -> str:
    """The name that a workload has in a store: it may be given as a file, or be known from what the store holds alone.

    Raises:
        UsageError: there is no such workload; the message names what is near.
    """
    if is_file(name):
        return get_workload(name).name
    known = workload_names()
    if name in known:
        return name
    store = open_store(results)
    found = {record.definition.workload for record in store.summaries()} if store.folder_exists else set()
    if name not in found and store.folder_exists:
        found |= {record.workload for record in read_alignments(store).values()}
    if name not in found:
        raise unknown("workload", name, [*known, *sorted(found)])
    return name


def stored_method(name: str, store: RunStore) -> str:
    """The name of a method that is installed, or of which a store has runs.

    Raises:
        UsageError: there is no such method; the message names what is near.
    """
    known = method_names()
    if name not in known:
        found = {record.definition.method for record in store.summaries()}
        if name not in found:
            raise unknown("method", name, {*known, *found})
    return name
