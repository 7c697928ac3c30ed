"""What Ray needs of this machine: a short folder for its sockets, a token, and a network interface of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tpbench.engine import TpbenchError

# Below its folder Ray names sockets session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1 and the like.
_SOCKET_NAME = 68
_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")

# Seconds after which a person wants to know what Ray is waiting for.
PATIENCE = 60.0


def default_folder() -> str:
    """Where Ray would put its sockets and logs by itself."""
    parent = os.environ.get("RAY_TMPDIR")
    if parent is None and sys.platform.startswith("linux"):
        parent = os.environ.get("TMPDIR")
    return os.path.join("/tmp" if parent is None else parent, "ray")  # noqa: PTH118 (as Ray itself joins them)


def fits(folder: str) -> bool:
    """Whether the paths of Ray's sockets below a folder are as short as the system wants them."""
    return len(os.fsencode(folder)) + _SOCKET_NAME <= _SOCKET_PATH


def short_parent() -> str | None:
    """A folder that everybody may write to and whose name is short; None if there is none."""
    return next((folder for folder in _SHORT if os.access(folder, os.W_OK | os.X_OK)), None)


@contextmanager
def ray_folder() -> Iterator[str | None]:
    """A short, private folder for Ray where its own choice is too long a name for sockets; it goes afterwards.

    Yields:
        The folder; None: Ray's own choice is good.

    Raises:
        TpbenchError: there is none.
    """
    own = default_folder()
    if fits(own):
        yield None
        return
    parent = short_parent()
    if parent is None:
        raise TpbenchError(
            f"Ray's temporary folder {own} has too long a name for sockets: set RAY_TMPDIR to a folder whose name has "
            f"at most {_SOCKET_PATH - _SOCKET_NAME - len('/ray')} bytes"
        )
    folder = tempfile.mkdtemp(prefix="tpbench-ray-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_loopback() -> None:
    """Ray's processes talk to each other over the network, and wait for ever where there is none.

    Raises:
        TpbenchError: this machine cannot reach itself.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise TpbenchError(
            f"Ray cannot work here: this machine does not reach itself at 127.0.0.1 ({error.strerror or error}). In a "
            "container or namespace without network, bring its loopback interface up: 'ip link set lo up'; "
            "'tpbench run' needs no network"
        ) from error


def provide_token() -> None:
    """Ray keeps its token in the home folder; where that cannot be, a Ray of this process gets one of its own."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    # Ray looks for HOME alone.
    folder = Path(os.environ["HOME"]) / ".ray" if os.environ.get("HOME") else None
    if folder and (folder / "auth_token").is_file() and os.access(folder / "auth_token", os.R_OK):
        return
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None) if folder else None
    if not (existing and os.access(existing, os.W_OK | os.X_OK)):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def impatient(say: Callable[[str], None], seconds: float = PATIENCE) -> Iterator[None]:
    """Say that Ray is still starting when that takes unusually long: by itself it waits without a word."""
    message = (
        f"Ray has not started after {seconds:.0f} s: it waits for its own processes. The machine may be very busy, a "
        "firewall or proxy may keep it from its own address, or its temporary folder may be slow or full"
    )
    timer = threading.Timer(seconds, say, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
