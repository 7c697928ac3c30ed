"""``benchmarks/curves.py``, ``compare.py``, ``size.py`` and ``jax_pack.py``: scripts that compare two programs."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tpbench.engine import CURVES

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for their module.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    return script("curves")


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return script("compare")


@pytest.fixture(scope="module")
def recorded(curves: ModuleType) -> dict[str, Any]:
    """Two methods' curves of one epoch, trained with this checkout."""
    trained: dict[str, Any] = curves.recorded(ROOT, curves.CHILD, "bp,ddtp-linear", 1)
    return trained


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """Run a script's command. Returns its exit code."""
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *map(str, arguments)])
    try:
        module.main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_curves_hold_all_recorded_numbers(curves: ModuleType, recorded: dict[str, Any]) -> None:
    assert list(recorded) == ["bp", "ddtp-linear", "ddtp-linear, feedback epochs"]
    for cell, seeds in recorded.items():
        assert list(seeds) == ["0", "1"]
        for values in seeds.values():
            assert set(values) == {"status", *CURVES}
            empty = [name for name in CURVES if not values[name]]
            assert empty == (["reconstruction_loss"] if cell == "bp" else [])
            assert 0 < float.fromhex(values["train_loss"][0]) < 10
    assert recorded["ddtp-linear"] != recorded["ddtp-linear, feedback epochs"]
    # Of two seeds 6 curves of bp, 7 of the others, one epoch long.
    assert curves.count(recorded) == 2 * (6 + 7 + 7)


def test_a_changed_bit_is_found(
    curves: ModuleType,
    recorded: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = copy.deepcopy(recorded)
    changed = float.fromhex(other["bp"]["1"]["test_loss"][0]) * (1 + 2**-52)
    other["bp"]["1"]["test_loss"] = [changed.hex()]
    other["dfa"] = other["bp"]
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(recorded))
    new.write_text(json.dumps(other))
    assert run(curves, monkeypatch, old, old) == 0
    capsys.readouterr()
    assert run(curves, monkeypatch, old, new) == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("bp, 1, test_loss")
    assert second.startswith("dfa")


def test_an_epoch_is_timed(compare: ModuleType) -> None:
    assert compare.Checkout(ROOT, compare.CHILD).seconds("epoch", "digits", "bp", "--steps", "2") > 0


def test_each_checkout_may_have_a_child_of_its_own(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seconds in (("old", 3), ("new", 2)):
        (tmp_path / f"{name}.py").write_text(f"print({seconds})")
    children = ("--old-child", tmp_path / "old.py", "--new-child", tmp_path / "new.py")
    assert run(compare, monkeypatch, ROOT, ROOT, *children, "--pairs", "1", "--at-least", "1.5") == 0
    assert [line.split(":")[:2] for line in capsys.readouterr().out.splitlines()] == [
        [*cell.split(":")] for cell in compare.CELLS
    ]
    slow = run(compare, monkeypatch, ROOT, ROOT, "digits:bp", *children, "--pairs", "1", "--at-least", "1.6")
    assert "digits:bp" in slow


def test_a_ratio_is_the_median_of_the_pairs(compare: ModuleType) -> None:
    old, new = iter([1.0, 4.0, 9.0]), iter([2.0, 4.0, 3.0])
    assert compare.paired(lambda: next(old), lambda: next(new), 3) == (4.0, 3.0, 1.0)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    files = {
        "tpbench/__init__.py": '"""What a package is."""\n',
        "tpbench/a/same.py": (
            '"""A module."""\n\nimport os\nfrom os import path\n\nx = 1\n"""Which number, as halving has it."""\n\n\n'
            "class A:\n    def f(self):\n        '''How.'''\n        if x:\n            return 1  # fmt: "
            "skip\n"
        ),
        "tpbench/b/same.py": "halving_of = objective = 1\n" + "\n" * 70,
        "tests/test_a.py": (
            'assert "one two" in x\nassert y == f"of {n} that are three"\nassert z\n'
            'raises(E, match="three words more")\nassert f("a b\\nc")\n'
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_counts_of_a_small_tree(
    small_tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = script("size")
    assert run(size, monkeypatch, small_tree, "--json", "--option", "halving", "objective") == 0
    assert list(json.loads(capsys.readouterr().out)[str(small_tree)].values()) == [
        86,  # lines
        3,  # files
        2,  # under 60 lines
        1,  # names used more than once
        6,  # statements: two assignments, class, def, if, return
        2,  # question words
        3,  # with attributes
        1,  # in the package
        1,  # in all
        5,  # assertions
        2,  # that pin words
        1,  # files with halving
        1,  # files with objective
    ]
    assert run(size, monkeypatch, small_tree, small_tree) == 0
    assert len({len(line) for line in capsys.readouterr().out.splitlines()}) == 1


@pytest.fixture
def jax_pack() -> ModuleType:
    return script("jax_pack")


def test_without_jax_nothing_is_timed(
    jax_pack: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax_pack, "jax", None)
    assert run(jax_pack, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("same", [True, False])
def test_each_cell_is_compared_with_jax(jax_pack: ModuleType, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    compared: list[tuple[str, int, int]] = []

    def compare(cell: str, options: Any) -> bool:
        compared.append((cell, options.pack, options.rounds))
        return same or not cell.endswith("bp")

    monkeypatch.setattr(jax_pack, "jax", jax_pack)
    monkeypatch.setattr(jax_pack, "use_one_cpu", lambda: None)
    monkeypatch.setattr(jax_pack, "compare", compare)
    assert run(jax_pack, monkeypatch) == (0 if same else 1)
    assert compared == [(cell, 10, 5) for cell in jax_pack.CELLS]
    compared.clear()
    assert run(jax_pack, monkeypatch, "digits:ddtp-linear", "--pack", "2", "--rounds", 1) == 0
    assert compared == [("digits:ddtp-linear", 2, 1)]
    for invalid in ("mnist", "mnist:dfa", "nowhere:bp", "mnist-frozen:bp", "--pack=0", "--generator=dice"):
        assert run(jax_pack, monkeypatch, invalid) == 2
    assert len(compared) == 1


@pytest.mark.parametrize("method", ["bp", "ddtp-linear"])
def test_one_minibatch_is_the_same_in_jax(jax_pack: ModuleType, method: str) -> None:
    pytest.importorskip("jax")
    trainer = jax_pack.trainer_of("digits", method, members=3, minibatches=2)
    assert len({tuple(settings) for settings in trainer.pack.forward_adam.settings}) == 3
    pack = jax_pack.JaxPack(trainer, jax_pack.GENERATORS[0])
    assert jax_pack.difference_of_one_minibatch(trainer, pack) <= jax_pack.TOLERANCE
    pack.train_epoch()
    assert pack.state.steps.tolist() == [3, 3, 3]
