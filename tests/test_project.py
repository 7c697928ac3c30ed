"""The files around the code: licence, change log, how to contribute, and what pyproject.toml says of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tpbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_licence_is_there_and_packed() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    # Packing fails without it, so the image needs it too.
    assert "LICENSE" in (ROOT / "cluster" / "Dockerfile").read_text()
    assert "!LICENSE" in (ROOT / ".dockerignore").read_text()
    # An sdist holds all that git tracks, unless told otherwise.
    assert "sdist" not in PROJECT["tool"]["hatch"]["build"]["targets"]


def test_the_changes_and_how_to_contribute_are_there() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changes
    assert tpbench.__version__ in changes
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "test", "lint", "lowest"):
        assert f"make {target}" in guide
        assert f"\n{target}:" in makefile
    assert "--durations=10" in makefile


def test_the_systems_that_are_supported_are_said() -> None:
    systems = [c for c in PROJECT["project"]["classifiers"] if c.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux", "Operating System :: MacOS"]
    for name in ("README.md", "cluster/README.md"):
        assert "Linux and macOS" in (ROOT / name).read_text()


def test_ray_is_of_a_version_with_tokens() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *extras["cluster"], *extras["dev"]]
    assert [name for name in asked if name.startswith("ray[")] == ["ray[tune]>=2.52", *["ray[default]>=2.52"] * 2]
