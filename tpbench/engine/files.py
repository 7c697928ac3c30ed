"""Files: read only where they are files, and written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tpbench.engine.errors import TpbenchError, UsageError, shorten

_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
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
        raise UsageError(f"{shown_path(path)}: could not be read ({_reason(error)})") from error
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
        raise UsageError(f"{what} '{shown_path(path)}': {_reason(error)}") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            raise UsageError(f"{what} '{shown_path(path)}': {_reason(error)}") from error


def is_regular_file(path: str | Path) -> bool:
    """Return whether a path is that of a regular file; False too where no file can have that name."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for names that are too long)


def shown_path(path: Path) -> str:
    """Return a path for a message, cut in the middle where it is very long."""
    return shorten(str(path), 300)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def check_target(path: Path, endings: Collection[str] = ()) -> Path:
    """Find out before the work whether a file can be written after it; missing folders can be made.

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
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        able = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        raise TpbenchError(f"{path}: could not be written ({_reason(error)})") from error
    if not able:
        reason = "Permission denied" if folder.is_dir() else "it is no folder"
        raise TpbenchError(f"{path}: could not be written ({folder}: {reason})")
    return path


def user_cache() -> Path:
    """``$TPBENCH_CACHE``, or ``tpbench`` in the user's cache folder: everything below it can be made again.

    Raises:
        TpbenchError: there is no home folder to look for it in.
    """
    if chosen := os.environ.get("TPBENCH_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tpbench"
    except RuntimeError:
        raise TpbenchError(
            "this user has no home folder for caches: set HOME, or XDG_CACHE_HOME to a folder that can be written"
        ) from None


@contextmanager
def atomic_write(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when everything is on the disk, or in the object store of a URL.

    Args:
        path: the name; missing folders are made.
        replace: whether a file of that name is replaced; otherwise the old one stays.

    Raises:
        TpbenchError: it cannot be written (no permission, disk full, ...); nothing half-written stays behind.
    """
    if not isinstance(path, Path):
        yield from _put(path, replace)
        return
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        part = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        if replace:
            part.replace(path)
        else:
            _name_once(part, path)
    except (OSError, ValueError) as error:
        raise TpbenchError(f"{shown_path(path)}: could not be written ({_reason(error)})") from error
    except RecursionError as error:  # as in check_name
        raise TpbenchError(f"{shown_path(path)}: could not be written (too many folders within each other)") from error
    finally:
        if part:
            part.unlink(missing_ok=True)


def _name_once(part: Path, path: Path) -> None:
    try:
        path.hardlink_to(part)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links. Who asks for this writes what the name determines, so that it is harmless
        # if another process gives the name at the same moment.
        if not path.exists():
            part.replace(path)


def move_aside(path: Path, suffix: str) -> Path:
    """Give a file another suffix, with a number before it while that name is taken; returns the name it has now.

    Raises:
        OSError: it could not be renamed, or is not there any more; file systems of URLs have errors of their own.
    """
    number = 1
    while True:
        aside = path.with_name(path.stem + (f"-{number}" if number > 1 else "") + suffix)
        if not aside.exists() and _rename_once(path, aside):
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
    path.rename(target)
    return True


def _put(path: Any, replace: bool) -> Iterator[BinaryIO]:
    """Write to a URL's path: object stores make an object visible whole, when its last byte has arrived."""
    buffer = io.BytesIO()
    yield buffer
    try:
        if replace or not path.exists():
            path.write_bytes(buffer.getvalue())
    except Exception as error:  # every file system has exceptions of its own
        raise TpbenchError(f"{path}: could not be written ({error})") from error
