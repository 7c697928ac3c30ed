"""``benchmarks/minibatch_average.py``: the mean of the authors' code beside that of tpbench."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import tpbench
from tests.conftest import CONFIGURATION, Inside
from tpbench.engine import METHODS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minibatch_average", ROOT / "benchmarks" / "minibatch_average.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_last_minibatch_weighs_as_much_as_the_others(
    script: ModuleType, tmp_path: Path, tpbench_inside: Inside, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}))
    command = ("run", "digits", "bp", "--config", "c.yaml", "--seeds", "0", "--epochs", "2", "--keep-networks")
    assert tpbench_inside(*command).returncode == 0
    store = str(tmp_path / "results")
    script.networks(store, None)
    _, _, row = capsys.readouterr().out.splitlines()
    workload, method, seed, every, batches, difference, last = row.strip("| ").split(" | ")
    (run,) = tpbench.load_runs(store).itertuples()
    assert (workload, method, seed) == ("digits", "bp", "0")
    assert float(every) == pytest.approx(run.test_error, abs=0.005)
    # 360 test samples: 128, 128 and 104.
    wrong, of = map(int, last.split(" of "))
    errors = round(run.test_error * 3.6)
    assert of == 104
    by_hand = 100 * ((errors - wrong) / 128 + wrong / 104) / 3
    assert float(batches) == pytest.approx(by_hand, abs=0.006)
    assert float(difference) == pytest.approx(by_hand - run.test_error, abs=0.001)


def test_the_document_has_the_numbers_of_the_committed_cells(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script.paper(str(ROOT / "results"))
    printed = capsys.readouterr().out
    document = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    rows = [line for line in printed.splitlines() if line.startswith("| ") and " of " in line and "p (" not in line]
    assert len(rows) == 12
    assert [row for row in rows if row not in document] == []


def test_a_mean_over_minibatches_of_a_whole_error_count(script: ModuleType) -> None:
    # 202 errors of 10,000, of them 2 in the last minibatch: 200 in the 78 whole ones.
    errors = script.pd.Series([2.02])
    assert script.averaged(errors, 2.0)[0] == pytest.approx(100 * (200 / 128 + 2 / 16) / 79)


def test_without_cells_it_says_so(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit, match="no cell"):
        script.paper(str(tmp_path))
