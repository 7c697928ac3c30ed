"""A run by its id, or by the beginning of it."""

from __future__ import annotations

import difflib
import re

from tpbench.engine import UsageError
from tpbench.results.runs import ID_PATTERN, RunRecord
from tpbench.results.store import RunStore

_BEGINNING = re.compile(r"[0-9a-f]{8,24}")


def find_record(store: RunStore, text: str) -> RunRecord:
    """The run that an id or at least its first 8 digits name.

    Raises:
        UsageError: there is no such run, or there are several; the message names what is near.
        TpbenchError: it cannot be read.
    """
    wanted = text.strip().lower()
    if not _BEGINNING.fullmatch(wanted):
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
