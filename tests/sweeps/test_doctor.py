"""``tpbench doctor`` of clusters: those that let strangers in are named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import Inside


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
