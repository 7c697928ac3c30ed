"""The figures and plots that there are: what can be asked for is known without what draws it."""

from __future__ import annotations

ALIGNMENT_WORKLOADS = {"4": "fashion-mnist", "s3": "fashion-mnist", "s4": "mnist", "s5": "cifar10"}
"""Which workload the paper draws each figure on."""
FIGURES = ("2", "s2", "s6", *ALIGNMENT_WORKLOADS)
"""Those of the paper that there are."""
PLOTS = ("curves", "cost", "search")
"""The kinds of plots of a store."""
