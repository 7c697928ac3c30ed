"""``tpbench doctor`` of clusters: those that let strangers in are named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.results.records import of_newer_format, record
from tpbench.results import RunStore
from tpbench.sweeps.doctor import examine


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
    assert "runs without token authentication" in result.stdout


def test_a_cluster_that_is_not_there_is_said(tpbench_inside: Inside) -> None:
    result = tpbench_inside("doctor", "--address", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "cannot be reached" in result.stdout
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
    assert found.state == "1 runs, 0 damaged files, 1 of a newer version"
    assert found.remedy == "update tpbench, which reads the others then"
    assert not found.fatal


def test_a_folder_with_too_long_a_name_for_rays_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + 100 * "x")
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's folder")
    assert "too long a name for sockets: one in /tmp is used instead" in found.state
    assert not found.fatal
    monkeypatch.setattr("tpbench.sweeps.doctor.short_parent", lambda: None)
    found = next(f for f in examine(tmp_path, tmp_path) if f.subject == "Ray's folder")
    assert found.fatal
    assert "RAY_TMPDIR" in found.remedy
