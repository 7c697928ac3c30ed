"""Locks that keep other processes off a sweep: the system's, or a file that names its owner where there are none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tpbench.engine import TpbenchError
from tpbench.results.location import open_file

# Errors of flock where the file system (some NFS, FUSE and parallel file systems) knows no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def _started(pid: int) -> str:
    """Return the start of a process of this machine, counted from a named boot: numbers of processes are used again."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field is the program's name in brackets, which may hold anything.
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""  # not Linux, or it has ended


@dataclass(frozen=True)
class Owner:
    """The process that an owner's file names."""

    host: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Owner:
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()))

    @property
    def gone(self) -> bool:
        """True if it certainly has ended, which only its own machine can tell."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it is there, and another user's
        return _started(self.pid) != self.started


def _read_owner(path: Path) -> tuple[str, Owner | None]:
    """Return an owner's file as text, and its owner; None if a crash cut the file short."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "", None
    try:
        fields = json.loads(text)
        return text, Owner(str(fields["host"]), int(fields["pid"]), str(fields["started"]))
    except (ValueError, KeyError, TypeError):
        return text, None


def _flock(file: BinaryIO, kind: int) -> bool | None:
    """Lock a file; returns False if another process has it locked, None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in _TAKEN:
            return False
        raise
    return True


def is_locked(folder: Path) -> bool:
    """Return whether a process is at work in a folder, as far as this machine can tell."""
    try:
        with open_file(folder / "lock") as file:
            got = _flock(file, fcntl.LOCK_SH)
        owner = _read_owner(folder / "lock-owner")[1] if got is None else None
    except (OSError, TpbenchError):
        return False
    return not got if got is not None else owner is not None and not owner.gone


def _open_lock(path: Path) -> BinaryIO:
    """Open the file that is locked, or make it. To read another user's file suffices on most file systems."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "rb")
    except PermissionError:
        return path.open("rb")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[str]:
    """Keep other processes out of a folder. The system lets go when the process ends, however it ends.

    Args:
        folder: made where it is missing.
        what: name of the work, for the message.

    Yields:
        A warning where the file system has no locks; otherwise nothing.

    Raises:
        TpbenchError: another process is at work there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / "lock")
    except OSError as error:
        raise TpbenchError(f"{folder}: could not be written ({error.strerror or error})") from error
    with file:
        try:
            got = _flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise TpbenchError(f"{folder / 'lock'}: could not be locked ({error.strerror or error})") from error
        if got is False:
            raise TpbenchError(f"{what} is running already: see 'tpbench sweeps'; --fresh starts another")
        if got:
            yield ""
            return
        with _owned(folder / "lock-owner", what):
            yield (
                f"the file system of {folder} has no locks: the file lock-owner there keeps other processes off, "
                "which is less sure between machines"
            )


@contextmanager
def _owned(path: Path, what: str) -> Iterator[None]:
    """Hold the owner's file for the length of a ``with`` block."""
    mine = json.dumps(asdict(Owner.current()))
    try:
        if not _create(path, mine):
            text, owner = _read_owner(path)
            if owner is None or not owner.gone:
                who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
                raise TpbenchError(
                    f"{what} is running already ({who}): see 'tpbench sweeps'; if that process is gone, delete {path}"
                )
            if not (_remove(path, text) and _create(path, mine)):
                raise TpbenchError(f"{what} is running already: another process began it at this moment")
    except OSError as error:
        raise TpbenchError(f"{path}: could not be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        if _read_owner(path)[0] == mine:
            path.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _remove(path: Path, text: str) -> bool:
    """Remove a stale file, unless another process has replaced it by its own in between."""
    aside = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if _read_owner(aside)[0] != text:
        aside.rename(path)
        return False
    aside.unlink()
    return True
