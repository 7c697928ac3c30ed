"""The cells of a command: workloads and methods that go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpbench.engine import FIELD_METHODS, UsageError, check_precision, get_method, method_names, unknown
from tpbench.results.paper import PAPER_WORKLOADS, table_methods
from tpbench.workloads import Workload, get_workload

if TYPE_CHECKING:
    from tpbench.options import M

ALL = "all"
"""The paper's four data sets, or the methods of Table S6."""
FIELD = "field"
"""The rules of other papers."""


def read_options(model: type[M], values: Mapping[str, Any]) -> M:
    """Return the options of a command.

    Args:
        model: one of :data:`tpbench.options.MODELS`.
        values: by the names of its fields.

    Raises:
        UsageError: a value is wrong; the error names the parameter.
    """
    # Not at the top: lists and help need no pydantic, which takes a tenth of a second.
    from tpbench.options import InvalidOptionError

    try:
        return model.read(values)
    except InvalidOptionError as error:
        what = error.parameter.replace("_", " ")
        if error.choices and isinstance(error.value, str):
            if error.parameter.endswith("precision"):
                check_precision(error.value, what)
            raise unknown(what, error.value, error.choices) from None
        raise UsageError(error.reason, parameter=error.parameter, value=error.value) from None


@dataclass(frozen=True)
class CellChoice:
    """A workload and a method that go together."""

    workload: Workload
    method: str

    @classmethod
    def of(cls, workload: str, method: str) -> CellChoice:
        """Check both names; a workload's may be that of a file.

        Raises:
            UsageError: one is unknown, or the method makes no sense on the workload.
        """
        found = get_workload(workload)
        get_method(method)
        if reason := found.refusal(method):
            raise UsageError(_excluded([method], found, reason))
        return cls(found, method)


def _excluded(methods: Sequence[str], workload: Workload, reason: str) -> str:
    return f"{', '.join(methods)} cannot be trained on {workload.name}: {reason}"


def split_names(text: str, groups: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """Return names with commas between them, each once.

    Args:
        text: as it was written.
        groups: names that stand for several, such as ``all``.
        what: the kind of name, for the message.

    Raises:
        UsageError: one is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        known = " or ".join(f"'{group}'" for group in groups)
        raise UsageError(f"{what} '{text}': write names with commas between them, or {known}")
    return list(dict.fromkeys(full for name in names for full in groups.get(name, [name])))


def workload_groups() -> dict[str, Sequence[str]]:
    """Return the names that stand for several workloads."""
    return {ALL: PAPER_WORKLOADS}


def method_groups() -> dict[str, Sequence[str]]:
    """Return the names that stand for several methods."""
    return {ALL: table_methods("s6"), FIELD: FIELD_METHODS}


def choose_workloads(text: str) -> list[Workload]:
    """Names or files with commas between them, or ``all``: the paper's data sets.

    Raises:
        UsageError: one is unknown, or two are called alike.
    """
    found: dict[str, Workload] = {}
    for name in split_names(text, workload_groups(), "workloads"):
        workload = get_workload(name)
        if found.setdefault(workload.name, workload) != workload:
            raise UsageError(f"workloads '{text}': two different workloads are named '{workload.name}'")
    return list(found.values())


def choose_methods(text: str) -> list[str]:
    """Names with commas between them, ``all`` (the methods of Table S6) or ``field`` (the rules of other papers).

    Raises:
        UsageError: one is unknown.
    """
    names = split_names(text, method_groups(), "methods")
    for name in names:
        if name not in method_names():
            raise unknown("method", name, method_names())
    return names


def choose_all(workloads: str, methods: str) -> tuple[list[CellChoice], list[str]]:
    """Every workload with every method, and lines about the pairs that are left out, as of :func:`pair_up`.

    Args:
        workloads, methods: a name (of a workload also a file), several with commas between them, or ``all``.

    Raises:
        UsageError: a name is unknown, or no pair makes sense.
    """
    rules = choose_methods(methods)
    return pair_up(choose_workloads(workloads), rules)


def choose_cells(workload: str, methods: str) -> tuple[list[CellChoice], list[str]]:
    """Return one workload with every method, and lines about the methods that are left out, as of :func:`pair_up`.

    Args:
        workload: a name or a file.
        methods: a name, several with commas between them, or ``all``.

    Raises:
        UsageError: a name is unknown, or no method makes sense.
    """
    found = get_workload(workload)
    return pair_up([found], choose_methods(methods))


def pair_up(workloads: Sequence[Workload], rules: Sequence[str]) -> tuple[list[CellChoice], list[str]]:
    """Return every workload with every method, and a line for each reason why methods are left out on a workload.

    Raises:
        UsageError: no pair makes sense.
    """
    cells, left = [], []
    for workload in workloads:
        refused: dict[str, list[str]] = {}
        for rule in rules:
            if reason := workload.refusal(rule):
                refused.setdefault(reason, []).append(rule)
            else:
                cells.append(CellChoice(workload, rule))
        left += [_excluded(methods, workload, reason) for reason, methods in refused.items()]
    if not cells:
        raise UsageError(left[0])
    return cells, left
