"""Cells, tables and leaderboards from made-up stores."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import Inside
from tests.results.records import record
from tpbench.engine import UsageError
from tpbench.results import RunStore, choose_cells, leaderboard, paper_table, render, write_leaderboard
from tpbench.results.formats import FORMATS
from tpbench.results.paper import paper_cell
from tpbench.results.ranking import Verdict
from tpbench.results.tables import Column


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """bp and ddtp-linear in full, dfa with 3 seeds and 5 epochs, dtp on the JPEG copy with one diverged run."""
    store = RunStore(tmp_path)
    for seed in range(10):
        store.publish(record("bp", seed, [0.5, 0.010 + seed / 1000]))
        store.publish(record("ddtp-linear", seed, [0.5, 0.011 + seed / 1000]))
    for seed in range(3):
        store.publish(record("dfa", seed, [0.4, 0.3], epochs=5))
    for seed in range(10):
        status = "diverged" if seed == 4 else "finished"
        store.publish(record("dtp", seed, [0.5], workload="cifar10", label="JPEG copy", status=status))
    return store


def test_means_and_sample_deviations(store: RunStore) -> None:
    cell = choose_cells(store.records())["mnist", "", "bp"]
    errors = [100 * (0.020 + seed / 1000) for seed in range(10)]
    assert cell.mean == pytest.approx(np.mean(errors))
    assert cell.std == pytest.approx(np.std(errors, ddof=1))


def test_the_configuration_with_most_seeds_stands_for_the_method(store: RunStore) -> None:
    for lr in (1e-2, 1e-4):
        store.publish(record("bp", 0, [0.001], lr=lr))  # runs of a search, better by chance
    cell = choose_cells(store.records())["mnist", "", "bp"]
    assert cell.seeds == 10


def test_ties_are_decided_by_validation_never_by_test(tmp_path: Path) -> None:
    records = []
    for lr, validation, test in ((1e-2, 0.10, 0.05), (1e-3, 0.09, 0.20)):
        made = record("bp", 0, [validation], lr=lr)
        made.curves["test_error"][0] = test
        records.append(made)
    cell = choose_cells(records)["mnist", "", "bp"]
    assert cell.runs[0].definition.configuration["lr"] == 1e-3


def test_table_entries(store: RunStore) -> None:
    table = paper_table(store, "s6")
    mnist = Column("mnist", "")
    assert table.entries["bp", mnist].difference == pytest.approx(2.45 - 1.98)
    assert table.entries["bp", mnist].deviations == pytest.approx((2.45 - 1.98) / 0.14)
    assert not table.entries["bp", mnist].best
    assert table.entries["ddtp-linear", mnist].best
    assert table.entries["dfa", mnist].cell.marks == ["3 seeds", "5 epochs"]
    assert table.entries["dtpdrl", mnist].cell is None
    jpeg = Column("cifar10", "JPEG copy")
    assert table.entries["dtp", jpeg].cell.marks == ["1 diverged"]
    assert Column("cifar10", "") not in table.columns
    assert table.entries["dfa", Column("mnist-frozen", "")].paper is None


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_matters(store: RunStore, form: str) -> None:
    text = render(paper_table(store, "1"), form)
    for needle in ("2.45", "1.98", "JPEG copy"):
        assert needle in text
    if form != "csv":
        assert "3 seeds, 5 epochs" in text
        assert "missing" in text
        assert "CIFAR10 (JPEG copy)" in text


def test_markdown_says_what_made_the_cells(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for seed in range(4):
        made = record("dtp", seed, [0.02], workload="cifar10", label="JPEG copy")
        provenance = {"command": f"tpbench `run`|{seed // 3}", "device": "cpu", "device_name": "A cpu", "threads": 1}
        store.publish(replace(made, wall_time_s=60.0, provenance=provenance))
    lines = render(paper_table(store, "1"), "md").splitlines()[-2:]
    assert lines == [
        f"| cifar10 (JPEG copy) dtp | {n} | 100 | {n} min | A cpu, 1 thread | - | - | unknown | `tpbench 'run'\\|{k}` |"
        for n, k in ((3, 0), (1, 1))
    ]


def test_bold_is_the_best_except_bp(store: RunStore) -> None:
    table = paper_table(store, "1")
    assert "**2.55 ± 0.30**" in render(table, "md")
    assert "**2.45" not in render(table, "md")
    assert r"\textbf{2.55 $\pm$ 0.30}" in render(table, "latex")


def test_csv_reads_back(store: RunStore) -> None:
    frame = pd.read_csv(io.StringIO(render(paper_table(store, "s6"), "csv")))
    assert len(frame) == 40
    row = frame[(frame.workload == "mnist") & (frame.method == "bp")].iloc[0]
    assert (row.seeds, row.epochs) == (10, 100)
    assert row.test_error_mean == pytest.approx(2.45)
    assert row.difference == pytest.approx(0.47)


def test_leaderboard_is_best_first_with_its_columns(store: RunStore) -> None:
    board = leaderboard(store)
    assert list(board.columns[:7]) == [
        "workload",
        "data",
        "method",
        "seeds",
        "epochs",
        "test_error_mean",
        "test_error_std",
    ]
    assert board[board.workload == "mnist"].method.tolist() == ["bp", "ddtp-linear", "dfa"]
    assert board[board.workload == "cifar10"].method.tolist() == ["dtp"]
    frame = pd.read_csv(write_leaderboard(board, store))
    assert frame.test_error_mean.tolist() == pytest.approx(board.test_error_mean.tolist(), abs=1e-4)


def test_an_empty_store_gives_a_table_of_missing_cells(tmp_path: Path) -> None:
    assert render(paper_table(RunStore(tmp_path), "1"), "md").count("missing") == 32
    with pytest.raises(UsageError, match="unknown table"):
        paper_table(RunStore(tmp_path), "s9")
    with pytest.raises(UsageError, match="unknown format"):
        render(paper_table(RunStore(tmp_path), "1"), "pdf")


def test_methods_outside_a_table_are_named_below_it(tmp_path: Path) -> None:
    """Also the paper's own that only another of its tables has."""
    store = RunStore(tmp_path)
    for method in ("dfa", "ddtp-rhl-extra-fb"):
        store.publish(record(method, 0, [0.02]))
    assert "ddtp-rhl-extra-fb" in render(paper_table(store, "1"), "md")
    assert paper_table(store, "1").others == ("ddtp-rhl-extra-fb",)
    assert paper_table(store, "s6").others == ()


@pytest.mark.data
def test_the_papers_numbers_are_the_shared_ones(shared_data: Path) -> None:
    shared = yaml.safe_load((shared_data / "paper_tables.yaml").read_text())["table_s6"]
    for method, cells in shared.items():
        for workload, printed in cells.items():
            assert paper_cell(workload, method) == (tuple(printed) if printed else None)


def test_ties_with_the_best_and_departures_from_the_paper_are_marked(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    noise = [0.0, 0.001, -0.001, 0.0005, -0.0004, 0.0002, 0.0007, -0.0003]
    for seed, shift in enumerate(noise):
        store.publish(record("ddtp-linear", seed, [0.0104 + shift]))
        store.publish(record("dtp", seed, [0.0112 + shift * (-1) ** seed]))
        store.publish(record("dfa", seed, [0.02 + shift]))
    table = paper_table(store, "1")
    column = next(c for c in table.columns if c.workload == "mnist")
    linear, dtp, dfa = (table.entries[m, column] for m in ("ddtp-linear", "dtp", "dfa"))
    assert linear.best
    assert (dtp.standing.verdict, dfa.standing.verdict) == (Verdict.NOT_TOLD_APART, Verdict.HIGHER)
    assert linear.p_paper > 0.05 > dfa.p_paper
    text = render(table, "md")
    assert re.search(r"\| 2\.0\d ± 0\.\d+ = \(0\.\d\d\) \[8 seeds", text)
    assert re.search(r"paper: 2\.17 ± 0\.14 \(\+0\.8\d, \+6\.0 sd\) \*", text)
    board = leaderboard(store)
    assert board.set_index("method").p_best["dtp"] > 0.05 > board.set_index("method").p_best["dfa"]
    assert (board.ci_low <= board.test_error_mean).all()


def test_two_methods_are_compared_by_seed(tmp_path: Path, tpbench_inside: Inside) -> None:
    store = RunStore(tmp_path / "results")
    for seed in range(6):
        store.publish(record("dtp", seed, [0.03 + 0.001 * seed]))
        store.publish(record("dfa", seed, [0.02 + 0.001 * seed + 0.0001 * (seed % 2)]))
    result = tpbench_inside("compare", "dtp", "dfa")
    assert result.returncode == 0
    assert "dfa is" in result.stdout
    assert "+1.00" in result.stdout
    assert "'dtp'" in tpbench_inside("compare", "dpt", "dfa").stderr
    assert tpbench_inside("compare", "dtp", "bp").returncode == 1
