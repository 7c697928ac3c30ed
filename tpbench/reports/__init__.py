"""Figures and the HTML report; here the names of figures and plots, for which nothing is imported."""

from __future__ import annotations

ALIGNMENT_WORKLOADS = {"4": "fashion-mnist", "s3": "fashion-mnist", "s4": "mnist", "s5": "cifar10"}
"""The workload on which the paper draws each figure of alignment."""

TOY = ("2", "s2", "s6")
"""Figures of toy experiments, which are made at once."""

FIGURES = tuple(sorted((*TOY, *ALIGNMENT_WORKLOADS)))

PLOTS = ("curves", "cost", "forest", "search", "tuning")

LOOK_EVERY = 5.0
"""Seconds between two looks of ``tpbench report --watch`` at the store."""
