"""Packages that add methods: one that is broken costs a warning, and its own method alone."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.conftest import Inside
from tpbench.engine import TpbenchError, all_methods, get_method, method_source, method_title, methods, plugins

pytestmark = pytest.mark.usefixtures("fresh_methods")


def install(site: Path, module: str, text: str | None, entry: str) -> None:
    """Install a module whose RULE is a method; without a text it lies elsewhere."""
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    if text is not None:
        (site / f"{module}.py").write_text(text)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[tpbench.methods]\n{entry} = {module}:RULE\n")


def titled(title: str, rule: str = "RULE") -> str:
    """A module whose rule is DFA under another title."""
    return (
        "from dataclasses import replace\nfrom tpbench.engine import METHODS\n"
        f"{rule} = replace(METHODS['dfa'], title={title!r})\n"
    )


BROKEN = [
    ("tp_missing", "import nowhere_at_all\n", "broken", "ModuleNotFoundError"),
    ("tp_missing_later", "import os\n\nimport nowhere_at_all\n", "broken", "tp_missing_later.py:3"),
    ("tp_syntax", "x = 1\ndef (:\n", "broken", "tp_syntax.py:2"),
    ("tp_exits", "raise SystemExit('no [red]licence[/red]')\n", "broken", r"[red]licence[/red]"),
    ("tp_other", "RULE = 3\n", "broken", "tp_other:RULE"),
]


@pytest.mark.parametrize(("module", "text", "name", "reason"), BROKEN, ids=lambda value: str(value)[:10])
def test_a_broken_package_is_named_once_and_breaks_its_own_method_alone(
    tpbench_inside: Inside,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    text: str,
    name: str,
    reason: str,
) -> None:
    install(tmp_path / "site", module, text, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    listed = tpbench_inside("methods")
    assert listed.returncode == 0
    assert "backpropagation" in listed.stdout
    (line,) = listed.stderr.splitlines()
    assert line.startswith("warning:")
    assert all(words in line for words in ("'broken'", f"'{module}'", reason))
    asked = tpbench_inside("run", "digits", "broken")
    assert asked.returncode == 1
    assert all(words in asked.stderr for words in ("error:", "'broken'", f"'{module}'", reason))


def test_a_broken_package_of_several_methods_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finding B-15 of the review."""
    install(tmp_path, "tp_seven", "x = 1\nx = x / 0\n", "tp-first = tp_seven:RULE\ntp-second = tp_seven:RULE\ntp-third")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not {"tp-first", "tp-second", "tp-third"} & set(all_methods())
    (line,) = capsys.readouterr().err.splitlines()
    assert all(words in line for words in ("'tp-first', 'tp-second', 'tp-third'", "'tp_seven'", "tp_seven.py:2"))
    with pytest.raises(TpbenchError, match=r"'tp-second' of .*tp_seven\.py:2"):
        get_method("tp-second")


def test_a_name_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in (("tp_one", "twice"), ("tp_two", "twice"), ("tp_three", "bp")):
        install(tmp_path / module, module, titled("Twice"), name)
        monkeypatch.syspath_prepend(str(tmp_path / module))
    assert get_method("bp") is methods.METHODS["bp"]
    with pytest.raises(TpbenchError) as caught:
        get_method("twice")
    assert all(f"'{module}'" in str(caught.value) for module in ("tp_one", "tp_two"))
    assert method_title("twice") == "twice"
    assert capsys.readouterr().err == ""  # who asks for another method need not know
    assert "twice" not in all_methods()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert any("'tp_one'" in line and "'tp_two'" in line for line in lines)


def test_the_title_of_a_built_in_method_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, title in (("tp_bp", "BP"), ("tp_spaced", " DDTP-RHL  (rec.) ")):
        install(tmp_path / module, module, titled(title), module.replace("_", "-"))
        monkeypatch.syspath_prepend(str(tmp_path / module))
        with pytest.raises(TpbenchError, match=rf"'{module}' .* built-in") as caught:
            get_method(module.replace("_", "-"))
        assert f"{module}:RULE" in str(caught.value)
    assert not {"tp-bp", "tp-spaced"} & set(all_methods())
    assert capsys.readouterr().err.count("title") == 2


@pytest.mark.parametrize("asked_first", ["tp-one", "tp-two"])
def test_of_two_packages_with_one_title_the_later_name_is_refused_whatever_is_asked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked_first: str
) -> None:
    for module in ("tp_one", "tp_two", "tp_broken"):
        text = "import nowhere_at_all\n" if module == "tp_broken" else titled("Twice")
        install(tmp_path / module, module, text, module.replace("_", "-"))
        monkeypatch.syspath_prepend(str(tmp_path / module))
    for name in (asked_first, "tp-one", "tp-two"):
        if name == "tp-one":
            assert get_method(name).title == method_title(name) == "Twice"
            continue
        with pytest.raises(TpbenchError) as caught:
            get_method(name)
        assert all(f"'{module}'" in str(caught.value) for module in ("tp_one", "tp_two"))
        assert method_title(name) == name
    # Who asks for one method need not know of the packages that are broken.
    assert capsys.readouterr().err == ""
    assert "tp-two" not in all_methods()


def test_two_methods_of_one_package_have_two_titles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "tp_pair", titled("Twice"), "tp-first = tp_pair:RULE\ntp-second")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_method("tp-first").title == "Twice"
    with pytest.raises(TpbenchError, match=r"'tp-second' .* 'tp-first'"):
        get_method("tp-second")


def test_a_package_that_asks_for_another_while_it_is_imported_keeps_its_title_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = titled("Twice")
    asking = "from tpbench.engine import get_method\nget_method('tp-later')\n"
    for module, name, words in (("tp_a", "tp-asking", asking + text), ("tp_b", "tp-later", text)):
        install(tmp_path / module, module, words, name)
        monkeypatch.syspath_prepend(str(tmp_path / module))
    assert get_method("tp-asking").title == "Twice"
    with pytest.raises(TpbenchError, match="tp-asking"):
        get_method("tp-later")


DECLARED = """from tpbench.engine import Method
from tpbench.engine.methods import aligned_targets
from tpbench.engine.parts import LAYERWISE_LINEAR
RULE = Method(
    "Mine", "a rule", aligned_targets, ("lr", "beta1", "beta2", "epsilon"), LAYERWISE_LINEAR, schedule={schedule!r}
)
"""


@pytest.mark.parametrize(
    ("schedule", "reason"), [("slep", "did you mean 'sleep'"), ("sleep", "feedback that is trained")]
)
def test_a_wrong_declaration_names_package_file_and_line(
    tpbench_inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, reason: str
) -> None:
    module = f"tp_declared_{schedule}"
    install(tmp_path / "site", module, DECLARED.format(schedule=schedule), "declared")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    asked = tpbench_inside("run", "digits", "declared")
    assert asked.returncode == 1
    (line,) = asked.stderr.splitlines()
    assert all(word in line for word in (f"package '{module}'", f"{module}.py:4", reason))
    assert tpbench_inside("methods").returncode == 0


def test_distributions_are_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[str] = []

    def scan(**arguments: str) -> object:
        scans.append(arguments["group"])
        return entry_points(**arguments)

    monkeypatch.setattr(plugins, "entry_points", scan)
    for _ in range(3):
        all_methods()
        method_source("bp")
    with pytest.raises(TpbenchError, match="unknown"):
        get_method("none")
    assert scans == ["tpbench.methods"]
