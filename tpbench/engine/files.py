"""Files: read only where they are regular files, and written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from tpbench.engine.errors import TpbenchError, UsageError, reason_of, shorten

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_DEEPEST = 500


def require_regular_file(path: Path) -> os.stat_result:
    """Refuse what is not a regular file before it is opened: a named pipe would wait for ever, a device has no end.

    Returns:
        The file's size and times.

    Raises:
        UsageError: there is no such file, it is something else, or no file can have that name.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        raise UsageError(f"{shown_path(path)}: could not be read ({reason_of(error)})") from error
    kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "")
    if kind:
        raise UsageError(f"{shown_path(path)}: could not be read (it is {kind}, a file is needed)")
    return status


def check_name(path: Path, what: str) -> None:
    """Refuse a name that no file or folder of this machine can have, such as one that is too long.

    Args:
        what: the option or variable that names it, for the message.

    Raises:
        UsageError: no file or folder can have that name.
    """
    if not isinstance(path, Path):  # a URL's file system has rules of its own
        return
    if len(path.parts) > _DEEPEST:  # Path.mkdir calls itself for each folder that is missing
        raise UsageError(f"{what} '{shown_path(path)}': {len(path.parts)} folders within each other")
    try:
        path.lstat()
    except ValueError as error:
        raise UsageError(f"{what} '{shown_path(path)}': {reason_of(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise UsageError(f"{what} '{shown_path(path)}': {reason_of(error)}") from error


def is_regular_file(path: str | Path) -> bool:
    """Return whether a path is that of a regular file; False too where no file can have that name."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for names that are too long)


def shown_path(path: Path) -> str:
    """Return a path for a message, cut in the middle where it is very long."""
    return shorten(str(path), 300)


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a person wrote; a ``~`` or ``~user`` at its beginning is a home folder.

    Shells expand it neither after ``=`` nor after ``:``. A file or folder whose own name begins so is written ``./~``.
    The path that is returned never begins with ``~``, so that it may be written down and read again.

    Raises:
        UsageError: there is no such user, or no home folder.
    """
    written = os.fspath(text)
    name, _, rest = written.partition("/")
    home = _home_of(name) if name.startswith("~") else None
    if home is None and (not name.startswith("~") or os.path.lexists(name)):
        path = Path(written)
        # Of "./~" pathlib leaves "~".
        return Path.cwd() / path if path.parts and path.parts[0].startswith("~") else path
    if home is None:
        what = f"no user '{name[1:]}'" if name[1:] else "no home folder for this user"
        raise UsageError(f"'{written}': there is {what}; a name that begins so is written './{written}'")
    # More slashes would make a path from the root of the file system.
    return Path(home, rest.lstrip("/"))


def _home_of(name: str) -> str | None:
    """Return the home folder that ``~`` or ``~user`` stands for, if there is one."""
    if name == "~" and (home := os.environ.get("HOME")):
        return home
    try:
        # Not that of an empty HOME, which would be the root of the file system.
        import pwd

        account = pwd.getpwnam(name[1:]) if name[1:] else pwd.getpwuid(os.getuid())
    except (ImportError, KeyError, ValueError):
        return None
    return account.pw_dir or None


def check_target(path: Path, endings: Collection[str] = ()) -> Path:
    """Check before the work that a file can be written after it; missing folders can be made.

    Args:
        endings: how its name may end, where that says what is in it; anything if there are none.

    Raises:
        UsageError: the name belongs to a folder, or has another ending.
        TpbenchError: nothing can be written there.
    """
    if endings and path.suffix.lower() not in endings:
        raise UsageError(f"'{shown_path(path)}': its name must end in {' or '.join(sorted(endings))}")
    if not isinstance(path, Path):  # of URLs, only writing tells
        return path
    check_name(path, "the file")
    try:
        if path.is_dir():
            raise UsageError(f"'{path}': this is a folder, the name of a file is needed")
        if _takes_bytes(path):
            return path
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        able = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        raise TpbenchError(f"{path}: could not be written ({reason_of(error)})") from error
    if not able:
        reason = "Permission denied" if folder.is_dir() else "it is no folder"
        raise TpbenchError(f"{path}: could not be written ({folder}: {reason})")
    return path


def user_cache() -> Path:
    """Return ``$TPBENCH_CACHE``, or ``tpbench`` in the user's cache folder: everything below it can be made again.

    Raises:
        TpbenchError: there is no home folder to look for it in.
    """
    if chosen := os.environ.get("TPBENCH_CACHE"):
        return user_path(chosen)
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tpbench"
    except UsageError:
        raise TpbenchError(
            "this user has no home folder for caches: set HOME, or XDG_CACHE_HOME to a folder that can be written"
        ) from None


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when everything is on the disk, or in the object store of a URL.

    It follows the umask, as every file that a program makes. A pipe or a device, such as ``/dev/stdout``, gets the
    bytes as they are. Through a link, the file is written that it leads to.

    Args:
        path: the name; missing folders are made.
        replace: whether a file of that name is replaced; otherwise the old one stays.

    Raises:
        TpbenchError: it cannot be written (no permission, disk full, ...); nothing half-written stays behind.
    """
    try:
        takes_bytes = not isinstance(path, Path) or (replace and _takes_bytes(path))
    except OSError as error:
        raise TpbenchError(f"{shown_path(path)}: could not be written ({reason_of(error)})") from error
    if takes_bytes:
        yield from _send(path, replace)
        return
    try:
        if replace and path.is_symlink():
            path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        part = _part_of(path)
        # The kernel takes the umask, and the folder's access list, into account; tempfile's are private instead.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise TpbenchError(f"{shown_path(path)}: could not be written ({reason_of(error)})") from error
    except RecursionError as error:  # as in check_name
        raise TpbenchError(f"{shown_path(path)}: could not be written (too many folders within each other)") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            _rename_once(part, path)
    except OSError as error:
        raise TpbenchError(f"{shown_path(path)}: could not be written ({reason_of(error)})") from error
    finally:
        part.unlink(missing_ok=True)


def _takes_bytes(path: Path) -> bool:
    """Return whether a name is that of a pipe or of a device such as a terminal, which cannot be replaced by a file.

    So is the standard output of a process, whatever it was redirected to: others write to it too.

    Raises:
        OSError: it is a disk, or a socket.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OSError("it is no file")
    of_process = path.is_symlink() and path.parent.resolve().parts[1:2] in (("dev",), ("proc",))
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or of_process


# The name of a file that is being written: it holds the machine and process of the writer.
_PART = re.compile(r"\..*-(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]{1,10})-[0-9a-f]{8}\.part", re.DOTALL)
# As versions up to 0.2 named them.
_OLD_PART = re.compile(r"\..+\.[A-Za-z0-9]{1,12}-[a-z0-9_]{8}\.part", re.DOTALL)
# Seconds without a byte after which the writer of another machine is taken for dead.
_ABANDONED = 86_400.0
# Seconds until a process looks again whether others have left anything in a folder.
_LOOK_AGAIN = 600.0
_looked_at: dict[str, float] = {}


def _part_of(path: Path) -> Path:
    """Return a hidden name beside a file, as long as names may be."""
    own = f"-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part"
    return path.with_name("." + os.fsdecode(os.fsencode(path.name)[: 250 - len(own)]) + own)


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return a digest of the machine since its start and of the container, within which process numbers are unique."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256(" ".join(known).encode(errors="replace")).hexdigest()[:8]


def remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of killed writers in a folder, now and then; those of writers that may live stay."""
    now = time.monotonic()
    if not isinstance(folder, Path) or now - _looked_at.get(str(folder), -_LOOK_AGAIN) < _LOOK_AGAIN:
        return
    _looked_at[str(folder)] = now
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False) and _is_left(entry):
                        Path(entry.path).unlink()


def _is_left(entry: os.DirEntry[str]) -> bool:
    match = _PART.fullmatch(entry.name)
    if match and match["machine"] == _machine():
        try:
            os.kill(int(match["process"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # it is there, and another user's
        return False
    known = match or _OLD_PART.fullmatch(entry.name)
    return bool(known) and time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED


def move_aside(path: Path) -> Path:
    """Rename a file to ``*.damaged``, with a number before that while the name is taken; returns the name it has now.

    Raises:
        OSError: it could not be renamed, or is not there any more; file systems of URLs have errors of their own.
    """
    number = 1
    while True:
        aside = path.with_name(path.stem + (f"-{number}" if number > 1 else "") + ".damaged")
        if _rename_once(path, aside):
            return aside
        number += 1


def _rename_once(path: Path, target: Path) -> bool:
    """Rename a file unless the name is taken, also by another process at the same moment where links can tell."""
    if isinstance(path, Path):
        try:
            target.hardlink_to(path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise
        except OSError:
            pass  # a file system without hard links
        else:
            path.unlink(missing_ok=True)
            return True
    if target.exists():
        return False
    path.rename(target)
    return True


def _send(path: Path, replace: bool) -> Iterator[BinaryIO]:
    """Write to a pipe, a device or a URL's path: object stores make an object visible whole, with its last byte."""
    buffer = io.BytesIO()
    yield buffer
    try:
        if isinstance(path, Path):
            # A pipe without a reader is an error instead of a wait without end. A file behind it is not cut.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_APPEND)
            os.set_blocking(descriptor, True)
            with os.fdopen(descriptor, "wb") as file:
                file.write(buffer.getvalue())
        elif replace or not path.exists():
            path.write_bytes(buffer.getvalue())
    except Exception as error:  # every file system of a URL has exceptions of its own
        raise TpbenchError(f"{shown_path(path)}: could not be written ({reason_of(error)})") from error
