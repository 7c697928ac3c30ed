"""The files around the code: licence, change log, how to contribute, and what pyproject.toml says of them."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import yaml

import tpbench
from tests.conftest import Inside
from tests.results.records import counts

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_licence_is_there_and_packed() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert len(text.splitlines()) == 202
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    # Packing fails without it, so the image needs it too.
    assert "LICENSE" in (ROOT / "cluster" / "Dockerfile").read_text()
    assert "!LICENSE" in (ROOT / ".dockerignore").read_text()


def test_the_change_log_has_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changes
    assert f"## [{tpbench.__version__}] - " in changes


def test_the_systems_that_are_supported_are_said() -> None:
    systems = [c for c in PROJECT["project"]["classifiers"] if c.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux", "Operating System :: MacOS"]


def test_ray_is_of_a_version_that_listens_where_it_is_told() -> None:
    """And has tokens, which began with 2.52."""
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["project"]["dependencies"], *extras["cluster"], *extras["dev"]]
    assert [name for name in asked if name.startswith("ray[")] == ["ray[tune]>=2.56", *["ray[default]>=2.56"] * 2]


def test_committed_runs_are_whole_and_keep_their_names_whatever_the_version(tpbench_inside: Inside) -> None:
    """Reading a run compares its name with the hash of what defines it, of which tpbench's version is no part."""
    checked = tpbench_inside("results", "check", "--results", str(ROOT / "results"))
    whole, damaged, *_ = counts(checked.stdout)
    assert whole > 9
    assert damaged == 0


def test_how_to_cite_it_is_said_as_the_format_wants_it() -> None:
    """What Citation File Format 1.2.0 requires, and what must agree with the package."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == tpbench.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", cited["date-released"])
    assert f"## [{cited['version']}] - {cited['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert cited["license"] == PROJECT["project"]["license"]
    assert cited["authors"] == PROJECT["project"]["authors"]
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all({"family-names", "given-names"} == set(author) for author in paper["authors"])


def test_github_runs_what_a_change_must_pass() -> None:
    # YAML 1.1 takes the key 'on' for a truth value.
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text().replace("\non:", "\n'on':"))
    assert {"push", "pull_request"} <= set(workflow["on"])
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    steps = job["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    (python,) = (step["with"] for step in steps if "setup-python" in step.get("uses", ""))
    assert python["python-version"] == "3.11"
    assert python["cache"] == "pip"
