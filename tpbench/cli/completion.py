"""What the shell offers at the tab key (``tpbench --install-completion``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from tpbench.engine import TpbenchError, method_names
from tpbench.results.location import is_url, location
from tpbench.workloads import is_file, workload_names

Completion = Callable[[typer.Context, str], list[str]]


def of(names: Iterable[str]) -> Completion:
    """Offers fixed names."""

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        # What acts on a terminal is offered to none.
        return [name for name in names if name.startswith(incomplete) and name.isprintable()]

    return offer


def workloads(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the workloads, also those that packages add, and the files of a folder that may hold one."""
    try:
        beside = [path.name for path in Path().iterdir() if is_file(path.name)]
    except OSError:
        beside = []
    return of([*workload_names(), *sorted(beside)])(context, incomplete)


def methods(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the methods, also those that packages add."""
    return of(method_names())(context, incomplete)


def drawable(context: typer.Context, incomplete: str) -> list[str]:
    """Offers what ``tpbench plot`` can draw: sweeps of the results folder for a search, workloads otherwise."""
    if context.params.get("kind") == "search":
        return of(sweeps(context))(context, incomplete)
    return workloads(context, incomplete)


def sweeps(context: typer.Context) -> list[str]:
    """The names of the sweeps in the ``--results`` that stand on the line so far; nobody waits for those of a URL."""
    results = str(context.params.get("results") or "results")
    try:
        folder = location(results) / "sweeps"
        return [] if is_url(results) else sorted(path.parent.name for path in folder.glob("*/sweep.json"))
    except (TpbenchError, OSError):
        return []
