"""Packages that add methods: one that is broken costs a warning, and its own method alone."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.engine import TpbenchError, all_methods, get_method, method_source, methods, plugins

pytestmark = pytest.mark.usefixtures("fresh_methods")


def install(site: Path, module: str, text: str, entry: str) -> None:
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (site / f"{module}.py").write_text(text)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[tpbench.methods]\n{entry} = {module}:RULE\n")


BROKEN = [
    ("tp_missing", "import nowhere_at_all\n", "broken", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("tp_syntax", "def (:\n", "broken", "SyntaxError"),
    ("tp_exits", "raise SystemExit('no [red]licence[/red]')\n", "broken", r"no [red]licence[/red]"),
    ("tp_other", "RULE = 3\n", "broken", "tp_other:RULE is not a tpbench.engine.Method"),
]


@pytest.mark.parametrize(("module", "text", "name", "reason"), BROKEN, ids=lambda value: str(value)[:10])
def test_a_broken_package_is_named_once_and_breaks_its_own_method_alone(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str, name: str,
    reason: str,
) -> None:  # fmt: skip
    install(tmp_path / "site", module, text, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    listed = tpbench_inside("methods")
    assert listed.returncode == 0
    assert "backpropagation" in listed.stdout
    (line,) = listed.stderr.splitlines()
    assert line.startswith(f"warning: the method 'broken' of the package '{module}' cannot be used")
    assert reason in line
    asked = tpbench_inside("run", "digits", "broken")
    assert asked.returncode == 1
    assert f"error: the method 'broken' of the package '{module}' cannot be used" in asked.stderr


def test_a_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "from tpbench.engine import METHODS\nRULE = METHODS['dfa']\n"
    for module, name in (("tp_one", "twice"), ("tp_two", "twice"), ("tp_three", "bp")):
        install(tmp_path / module, module, rule, name)
        monkeypatch.syspath_prepend(str(tmp_path / module))
    assert get_method("bp") is methods.METHODS["bp"]
    assert get_method("twice") is methods.METHODS["dfa"]
    assert method_source("twice").startswith("tp_")
    assert capsys.readouterr().err == ""  # who asks for another method need not know
    all_methods()
    assert capsys.readouterr().err.count("that name is taken") == 2


def test_distributions_are_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[str] = []

    def scan(**arguments: str) -> object:
        scans.append(arguments["group"])
        return entry_points(**arguments)

    monkeypatch.setattr(plugins, "entry_points", scan)
    for _ in range(3):
        all_methods()
        method_source("bp")
    with pytest.raises(TpbenchError, match="unknown method"):
        get_method("none")
    assert scans == ["tpbench.methods"]
