"""Where the runs of a cell come from: the command, the machine and the time it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tpbench.results.cells import Cell
from tpbench.results.runs import RunRecord

_NAMES = ("command", "commit", "device_name", "device", "threads", "precision", "torch")


@dataclass(frozen=True)
class Origin:
    """Runs of one cell that one command made on one kind of machine."""

    cell: Cell
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.definition.seed) for run in self.runs)

    @property
    def seconds(self) -> float:
        """Wall time of all the runs: their shares of the time of their packs."""
        return sum(run.wall_time_s for run in self.runs)

    @property
    def hardware(self) -> str:
        """The processor's name; on a CPU also how many threads were used."""
        threads = f", {self.said('threads')} threads" if self.said("device") == "cpu" else ""
        return self.said("device_name") + threads.replace(", 1 threads", ", 1 thread")

    def said(self, name: str) -> str:
        """An entry of the runs' provenance on one line, ``-`` where there is none."""
        return " ".join(str(self.runs[0].provenance.get(name) or "-").split())


def origins_of(cell: Cell, names: Sequence[str] = _NAMES) -> list[Origin]:
    """The runs of a cell, grouped by what made them: by these entries of their provenance."""
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for run in cell.runs:
        groups[tuple(str(run.provenance.get(name)) for name in names)].append(run)
    return [Origin(cell, tuple(runs)) for runs in groups.values()]
