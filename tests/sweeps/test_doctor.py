"""``tpbench doctor`` of clusters: those that let strangers in are named."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import counts, of_newer_format, record
from tpbench.results import RunStore
from tpbench.sweeps import doctor
from tpbench.sweeps.doctor import examine
from tpbench.training.devices import CpuLimit


@pytest.fixture
def open_dashboard() -> Iterator[str]:
    """A dashboard that answers everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"ray_version": "0.0.1"}' if "version" in self.path else b"[]"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_cluster_without_a_token_is_an_alarm(open_dashboard: str, tpbench_inside: Inside) -> None:
    result = tpbench_inside("doctor", "--address", open_dashboard)
    assert result.returncode == 1
    assert "without token" in result.stdout


def test_a_cluster_that_is_not_there_is_said(tpbench_inside: Inside) -> None:
    result = tpbench_inside("doctor", "--address", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "reached" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("mode", "alarm"), [(0o644, True), (0o640, True), (0o600, False), (0o400, False)])
def test_a_token_that_others_may_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, alarm: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-the-cluster")
    token.chmod(mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    (found,) = [f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's token"]
    assert found.state == f"{token} (mode {mode:o})"
    assert (f"chmod 600 {token}" in found.remedy) is alarm
    assert "secret-of-the-cluster" not in str(found)


def test_no_token_file_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not [f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's token"]


def test_files_of_a_newer_version_and_those_trained_again_are_no_damage(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.publish(record("bp", 0))
    newer = record("bp", 1)
    store.path(newer.definition.id).write_text(of_newer_format(newer))
    again = store.path(record("bp", 0).definition.id)
    again.with_suffix(".damaged").write_text("{")
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject.startswith("store"))
    assert counts(found.state) == [1, 0, 1]
    assert found.state.endswith("newer version")
    assert found.remedy.startswith("update ")
    assert not found.fatal


def test_a_folder_with_too_long_a_name_for_rays_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + 100 * "x")
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's folder")
    assert "/tmp" in found.state
    assert not found.fatal
    monkeypatch.setattr("tpbench.sweeps.doctor.short_parent", lambda: None)
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's folder")
    assert found.fatal
    assert "RAY_TMPDIR" in found.remedy


def test_a_temporary_folder_of_somebody_else_is_named_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr("tpbench.sweeps.local_ray.os.access", lambda *_: False)  # root may write everywhere
    monkeypatch.setattr(Path, "owner", lambda self: "mallory")
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's folder")
    assert found.fatal
    for word in ("mallory", "RAY_TMPDIR"):
        assert word in found.remedy


def test_the_folder_of_somebody_elses_ray_is_named_and_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "default_folder_of_ray", lambda: str(tmp_path))
    monkeypatch.setattr(doctor, "temporary_folder", lambda: "/tmp")
    monkeypatch.setattr(doctor, "unusable_reason", lambda parent: None)
    monkeypatch.setattr(doctor.os, "access", lambda path, *_: path != tmp_path)
    monkeypatch.setattr(Path, "owner", lambda self: "mallory")
    found = doctor._ray_folder()
    assert not found.fatal
    assert "mallory" in found.state
    assert "TMPDIR" in found.remedy


def test_a_package_that_is_installed_and_broken_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hyperopt 0.2.7 is beside today's setuptools."""
    (tmp_path / "hyperopt.py").write_text("import pkg_resources_of_old")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "hyperopt"]:
        monkeypatch.delitem(sys.modules, name)
    found = {f.subject: f for f in doctor._packages()}
    assert found["hyperopt"].fatal
    assert found["hyperopt"].state  # its version
    assert "pkg_resources_of_old" in found["hyperopt"].remedy
    assert not any(f.remedy for name, f in found.items() if name != "hyperopt")


def test_cores_that_a_container_does_not_pay_for_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_limit", lambda: CpuLimit(2, 64, "cgroup quota"))
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "CPUs")
    assert counts(found.state) == [2, 64]
    assert found.state.endswith(": cgroup quota")
