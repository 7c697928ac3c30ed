"""Imports run one way, and what must do without a library does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tpbench"
LAYERS = ("options", "engine", "workloads", "results", "training", "search", "sweeps", "reports", "cli", "api")
TWO_WAYS_IN = ("cli", "api")
"""At one height: neither imports the other."""
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "tpbench")


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_its_place() -> None:
    assert {layer(path) for path in MODULES} == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_one_above_it(path: Path) -> None:
    here = layer(path)
    above = set(TWO_WAYS_IN) - {here} if here in TWO_WAYS_IN else set(LAYERS[LAYERS.index(here) + 1 :])
    assert not [name for name in imports(path) if name.startswith("tpbench.") and name.split(".")[1] in above]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ray_is_known_where_it_is_used(path: Path) -> None:
    """The layers below the sweeps know nothing of Ray, but for the searcher's interface in ``search``."""
    of_ray = {name for name in imports(path) if name.split(".")[0] == "ray"}
    if layer(path) == "search":
        assert of_ray <= {"ray.tune.search"}
    elif layer(path) not in ("sweeps", "cli", "api"):
        assert not of_ray


def test_trackers_are_known_to_their_adapters_alone() -> None:
    found = {path.name for path in MODULES for name in imports(path) if name.split(".")[0] in ("tensorboard", "mlflow")}
    assert found == {"tensorboard.py", "mlflow.py"}


def test_options_import_pydantic_alone() -> None:
    import sys

    outside = {name.split(".")[0] for name in imports(PACKAGE / "options.py")}
    assert outside - set(sys.stdlib_module_names) == {"pydantic", "pydantic_core"}


def test_the_engine_imports_torch_and_numpy_and_nothing_else() -> None:
    found = {name for path in MODULES if layer(path) == "engine" for name in imports(path)}
    import sys

    assert {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) <= {"torch", "numpy", "tpbench"}
    assert not [name for name in found if name.startswith("tpbench.options")]
