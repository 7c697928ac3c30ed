"""A Ray of this machine: a private folder for its sockets, a token, and the loopback address."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tpbench.engine import TpbenchError
from tpbench.search.locking import flock

# Below its folder Ray names sockets session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store.1 and the like.
_SOCKET_NAME = 68
_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")

# A folder is "tpb-" and eight letters: every letter takes one from the name of the folder that it lies in.
_PREFIX, _LOCK, _TOKEN = "tpb-", "lock", "token"
SESSIONS = "r"
"""Ray's own folder in the private one: every user may write there, so a closed one must be around it."""
_NAME = len(f"{_PREFIX}12345678/{SESSIONS}")

LOOPBACK = "127.0.0.1"

# Seconds after which a line says what Ray may be waiting for.
SLOW_START = 60.0
# Seconds in which Ray's processes end by themselves.
_PATIENCE_AT_END = 5.0
# The program of a process that has nothing to do in a Ray of one machine.
_AUTOSCALER = "/autoscaler/_private/monitor.py"
# Seconds in which the processes of a Ray that was shut down write their last lines.
_REMOVAL = 10.0


def folder_variable() -> str:
    """Return the variable that says where temporary files of Ray go; ``RAY_TMPDIR`` where none is set."""
    names = ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)
    return next((name for name in names if os.environ.get(name) is not None), "RAY_TMPDIR")


def temporary_folder() -> str:
    """Return the folder in which Ray, and so a sweep, makes its own."""
    return os.environ.get(folder_variable(), "/tmp")


def default_folder() -> str:
    """Return where a Ray that is started by hand puts its sockets and logs."""
    return os.path.join(temporary_folder(), "ray")  # noqa: PTH118 (as Ray itself joins them)


def fits_sockets(parent: str) -> bool:
    """Return whether paths of sockets in a private folder there are short enough for the system."""
    return len(os.fsencode(os.path.abspath(parent))) + 1 + _NAME + _SOCKET_NAME <= _SOCKET_PATH  # noqa: PTH100


def short_parent() -> str | None:
    """Return a folder that everybody may write to and whose name is short; None if there is none."""
    return next((folder for folder in _SHORT if os.access(folder, os.W_OK | os.X_OK)), None)


def owner_of(folder: Path) -> str:
    """Return the name of a folder's owner, or the number where it has no name here."""
    try:
        return folder.owner()
    except (KeyError, OSError):
        try:
            return f"user {folder.stat().st_uid}"
        except OSError:
            return "somebody else"


def unusable_reason(parent: str) -> str | None:
    """Return the reason why no folder can be made in another one, with a remedy; None if one can be."""
    # Ray itself makes what is missing of it.
    existing = next(folder for folder in (Path(parent), *Path(parent).absolute().parents) if folder.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return None
    return (
        f"Ray cannot write to its temporary folder {parent}: {existing} belongs to {owner_of(existing)}; set "
        f"{folder_variable()} to a folder of your own whose name has at most "
        f"{_SOCKET_PATH - _SOCKET_NAME - _NAME - 1} bytes"
    )


def _parent() -> str:
    """Return where the private folder is made.

    Raises:
        TpbenchError: there is no place.
    """
    own = temporary_folder()
    if fits_sockets(own):
        if why := unusable_reason(own):
            raise TpbenchError(why)
        return os.path.abspath(own)  # noqa: PTH100 (Ray's processes run elsewhere)
    parent = short_parent()
    if parent is None:
        raise TpbenchError(
            f"Ray's temporary folder {own} has too long a name for sockets: set RAY_TMPDIR to a folder whose name has "
            f"at most {_SOCKET_PATH - _SOCKET_NAME - _NAME - 1} bytes"
        )
    return parent


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for Ray's sockets, logs and token that no other user may enter; it is removed afterwards.

    It is locked as long as this process lives: the next sweep removes those that a process left which was killed.

    Raises:
        TpbenchError: there is no place for it.
    """
    parent = _parent()
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        _remove_leftovers(Path(parent))
        # Another sweep must not meet it before it is locked.
        hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
        lock = (hidden / _LOCK).open("xb")
        # Where the file system knows no locks, nothing is removed.
        flock(lock, fcntl.LOCK_EX)
        folder = hidden.rename(hidden.with_name(hidden.name.removeprefix(".")))
    except OSError as error:
        raise TpbenchError(
            f"Ray's folder could not be made in {parent} ({error.strerror or error}): set {folder_variable()} to "
            "another folder with a short name"
        ) from error
    try:
        yield folder
    finally:
        _remove(folder)
        lock.close()


# Seconds for which a hidden folder may be one that another process is about to lock.
_BEING_MADE = 60.0


def _remove(folder: Path) -> None:
    """Remove a folder in which processes that end may still write."""
    until = time.monotonic() + _REMOVAL
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > until:
            return
        time.sleep(0.1)


def _remove_leftovers(parent: Path) -> None:
    """Remove the private folders that processes of this user left which were killed."""
    for folder in [*parent.glob(f"{_PREFIX}*"), *parent.glob(f".{_PREFIX}*")]:
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            if folder.name.startswith(".") and time.time() - folder.stat().st_mtime < _BEING_MADE:
                continue
            if not (folder / _LOCK).exists():
                # Its process has begun to remove it, and may have been killed.
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with (folder / _LOCK).open("rb+") as lock:
                if flock(lock, fcntl.LOCK_EX):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def end_ray_processes(folder: Path) -> Iterator[None]:
    """End all processes of a Ray in that folder after its shutdown, also those of one that half started.

    Shut Ray down within the ``with`` block. A process that ends later would write into the folder, which is removed.
    """
    processes = _processes_of(folder)
    for process in processes:
        # Ray's shutdown waits a second for it, as it passes over the signal to end.
        with suppress(psutil.Error):
            if any(word.endswith(_AUTOSCALER) for word in process.cmdline()):
                process.kill()
    try:
        yield
    finally:
        _, alive = psutil.wait_procs(processes, timeout=_PATIENCE_AT_END)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=_PATIENCE_AT_END)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes of a Ray in that folder: also those whose parent has ended, as where it half started."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            # What else this process has started meanwhile has the variable too, and is not Ray's.
            titled = process.name().startswith("ray::")
            ours = titled or any(str(folder) in word for word in process.cmdline())
            # Those with a title lose their environment with their arguments.
            if ours and (
                process.environ().get("RAY_AUTH_TOKEN_PATH") == str(folder / _TOKEN)
                or (titled and any(file.path.startswith(f"{folder}/") for file in process.open_files()))
            ):
                processes.append(process)
    return processes


def require_loopback() -> None:
    """Check that this machine reaches itself: without any network Ray's processes wait for ever.

    Raises:
        TpbenchError: this machine cannot reach itself.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise TpbenchError(
            f"Ray cannot work here: this machine does not reach itself at {LOOPBACK} ({error.strerror or error}). In a "
            "container or namespace without network, bring its loopback interface up: 'ip link set lo up'; "
            "'tpbench run' needs no network"
        ) from error


def write_token(folder: Path) -> Path:
    """Write a new token into a file that this user alone may read.

    A local Ray gets one of its own, which goes with its folder: Ray itself would make one for good, readable as the
    umask says, and the processes of all sweeps would share it.

    Returns:
        The file.
    """
    path = folder / _TOKEN
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return path


@contextmanager
def loopback_only() -> Iterator[str]:
    """Let a Ray that starts within listen on the loopback address alone.

    Ray replaces that address by one that other machines reach, except where it knows no clusters, as on macOS.

    Yields:
        The address, for ``ray.init``.
    """
    from ray._private import ray_constants

    constants: Any = ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield LOOPBACK
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def warn_if_slow(say: Callable[[str], None], seconds: float = SLOW_START) -> Iterator[None]:
    """Show a line if Ray takes unusually long to start: by itself it waits without one."""
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
