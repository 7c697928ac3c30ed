"""What the report is made of, as its template takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class PageEntry:
    """One entry of a table: what is shown, and the number to sort by where that is not it."""

    text: str
    key: float | None = None
    below: str = ""
    """A second line."""
    long: bool = False
    """Many lines."""
    loose: bool = False
    """May be broken into lines."""
    best: bool = False

    @property
    def sort(self) -> str | float | None:
        """What the entry is sorted by; None: what is shown. A dash comes last."""
        if self.key is not None:
            return self.key
        if self.text.startswith(("missing", "- ")):
            return "-"
        return self.text if self.below else None


@dataclass(frozen=True)
class PageTable:
    caption: str
    columns: list[str]
    rows: list[list[PageEntry]]


@dataclass(frozen=True)
class PageFigure:
    svg: str
    caption: str
    command: str
    """Draws it alone."""


@dataclass(frozen=True)
class LegendEntry:
    """The line of one series."""

    name: str
    colour: str
    dashes: str
    """As SVG's ``stroke-dasharray``."""


@dataclass(frozen=True)
class PlotGroup:
    """Figures of the same methods, side by side below one legend."""

    id: str
    title: str
    legend: Sequence[LegendEntry]
    figures: Sequence[PageFigure]


@dataclass(frozen=True)
class Fold:
    """What is shown when asked for."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    printed: bool = True
    """Whether it is open on paper."""
    name: str = ""
    """Stays the same while the title changes; empty: the title does not."""


@dataclass(frozen=True)
class Card:
    """One workload of the summary."""

    title: str
    statements: Sequence[tuple[str, Sequence[str]]]
    cells: Sequence[str]
    """One word for each cell of the paper's: how a square for it looks."""
    cells_said: str
    progress: str
    warnings: Sequence[str]
    figure: PageFigure


@dataclass
class Section:
    id: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    groups: list[PlotGroup] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return bool(self.tables or self.figures or self.groups or any(f.tables or f.figures for f in self.folds))


def number(value: float, form: str = ".2f", below: str = "") -> PageEntry:
    """A number, or a dash where there is none."""
    missing = pd.isna(value)
    return PageEntry("-" if missing else f"{value:{form}}", None if missing else float(value), below)
