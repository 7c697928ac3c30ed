"""Whose code a method is: built in, or of a package with a version and a digest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.engine.test_plugins import install
from tpbench.engine import TpbenchError, UsageError, get_method, method_source
from tpbench.engine import plugins as sources
from tpbench.engine.methods import installed_source
from tpbench.engine.plugins import forget_plugins, plugin_source

RULE = (
    "from dataclasses import replace\nfrom tpbench.engine import METHODS\n"
    "RULE = replace(METHODS['dfa'], title='Single')\n"
)


@pytest.fixture(autouse=True)
def fresh(fresh_methods: None) -> Iterator[None]:
    sources.source_digest.cache_clear()
    yield
    sources.source_digest.cache_clear()


def write(folder: Path, **files: str) -> Path:
    """Python files by dotted name."""
    for name, text in files.items():
        path = folder / (name.replace("__slash__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def digest_of(module: str) -> str:
    sources.source_digest.cache_clear()
    return plugin_source(EntryPoint("rule", f"{module}:RULE", "tpbench.methods"))


def test_a_built_in_method_has_no_source() -> None:
    assert method_source("bp") == ""
    with pytest.raises(UsageError, match="'dtp'"):
        method_source("dtpp")


def test_an_installed_method_names_distribution_version_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, tp_single_rule=RULE)
    information = tmp_path / "tp_single_rule-2.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tp-single-rule\nVersion: 2.1\n")
    (information / "entry_points.txt").write_text("[tpbench.methods]\nsingle-rule = tp_single_rule:RULE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = method_source("single-rule")
    assert re.fullmatch(r"tp-single-rule 2\.1 [0-9a-f]{16}", first)
    write(tmp_path, tp_single_rule=RULE + "# changed\n")
    assert method_source("single-rule") == first  # the process still runs what it has imported
    forget_plugins()
    sources.source_digest.cache_clear()
    assert method_source("single-rule") != first


@pytest.fixture
def install_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a module of that name and text, whose rule is the method edited-rule."""

    def made(module: str, text: str) -> None:
        install(tmp_path, module, text, "edited-rule")
        monkeypatch.syspath_prepend(str(tmp_path))

    return made


def test_an_edit_after_the_import_leaves_the_digest_of_the_code_that_runs(
    tmp_path: Path, install_rule: Callable[[str, str], None]
) -> None:
    install_rule("tp_edited_rule", RULE)
    before = sources.read_digest("tp_edited_rule")
    assert get_method("edited-rule").title == "Single"  # imported, and no one has asked for its source
    write(tmp_path, tp_edited_rule=RULE + "# changed\n")
    assert method_source("edited-rule").split()[-1] == before


def test_an_edit_before_the_import_has_the_digest_of_the_code_that_runs(
    tmp_path: Path, install_rule: Callable[[str, str], None]
) -> None:
    install_rule("tp_later_rule", RULE)
    assert installed_source("edited-rule")  # as tables ask for it, without an import
    write(tmp_path, tp_later_rule=RULE.replace("Single", "Another"))
    assert get_method("edited-rule").title == "Another"
    assert method_source("edited-rule").split()[-1] == sources.read_digest("tp_later_rule")


@pytest.mark.parametrize("editable", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_modules_beside_a_package_are_named_as_its_digest_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], editable: bool, inside: bool
) -> None:
    name = f"tp_{'in' * inside}side_{'e' * editable}"
    helper = f"{name}.helper" if inside else f"{name}_helper"
    project = tmp_path if editable else tmp_path / "site"  # an environment may lie in the folder of a project
    rule = f"import {helper}\nimport {name}_stranger\n{RULE}"
    if inside:
        write(project, **{f"{name}__slash____init__": rule, f"{name}__slash__helper": ""})
    else:
        write(project, **{name: rule, helper: ""})
    # Another project in the same folder of packages.
    write(tmp_path / "site", **{f"{name}_stranger": ""})
    install(tmp_path / "site", name, None, "edited-rule")
    if not editable:
        (tmp_path / "site" / f"{name}-1.0.dist-info" / "RECORD").write_text(f"{name}.py,,\n{helper}.py,,\n")
    for folder in {tmp_path / "site", project}:
        monkeypatch.syspath_prepend(str(folder))
    get_method("edited-rule")
    said = capsys.readouterr().err
    assert (helper in said) == (not inside)
    assert (said.count("\n"), "stranger" in said) == (int(not inside), False)


def test_a_package_that_was_mended_has_the_digest_of_its_new_code(
    tmp_path: Path, install_rule: Callable[[str, str], None]
) -> None:
    install_rule("tp_mended_rule", "import nowhere_at_all\n")
    with pytest.raises(TpbenchError):
        get_method("edited-rule")
    write(tmp_path, tp_mended_rule=RULE)
    assert method_source("edited-rule").split()[-1] == sources.read_digest("tp_mended_rule")


def test_the_digest_is_of_names_and_contents_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("a", "b", "c", "d"):
        folder = write(tmp_path / place, tp_package____slash____init__="", tp_package__slash__deep__slash__rule=RULE)
        if place == "b":  # no source, so it does not count
            (folder / "tp_package" / "notes.txt").write_text("notes")
        if place == "c":
            write(folder, tp_package__slash__deep__slash__rule=RULE + "\n")
        if place == "d":
            (folder / "tp_package" / "deep" / "rule.py").rename(folder / "tp_package" / "rule.py")
        with monkeypatch.context() as only:
            only.syspath_prepend(str(folder))
            found.append(digest_of("tp_package.deep.rule"))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_namespace_package_counts_with_all_its_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(write(tmp_path / "a", tp_space__slash__rule=RULE)))
    one = digest_of("tp_space.rule")
    monkeypatch.syspath_prepend(str(write(tmp_path / "b", tp_space__slash__helper="")))
    assert digest_of("tp_space.rule") != one


def test_a_package_that_cannot_be_found_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tp_empty").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    for package in ("tp_absent", "tp_empty"):
        with pytest.raises(TpbenchError, match=f"'{package}'"):
            digest_of(f"{package}.rule")
