"""Locations of stores and reading of files there: folders, and URLs that fsspec can open (``s3://...``)."""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.errors import reason_of, unknown
from tpbench.engine.files import user_path

_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
"""Names that file systems give to the version of an object, the surest first."""
LARGEST_FILE = 2_000_000_000
"""Bytes; no file of a store is larger."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)


def is_url(text: str) -> bool:
    """Return whether a location is written as a URL."""
    return _URL.fullmatch(text) is not None


_FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*)|(?!//))(?P<path>/.*)", re.DOTALL | re.IGNORECASE)


def file_of_url(text: str) -> Path | None:
    """Return the path that a ``file:`` URL names (RFC 8089), in which ``%20`` is a blank; None of another text.

    Raises:
        UsageError: the file lies on another machine, or the path is not absolute.
    """
    if not text.lower().startswith("file:/"):
        return None
    url = _FILE_URL.fullmatch(text)
    if not url or (url["host"] or "localhost").lower() != "localhost" or "%00" in text:
        raise UsageError(f"'{text}': write the path alone, or a URL of this machine: file:///FOLDER")
    return Path(unquote(url["path"]))


def location(text: str) -> Path:
    """Return the folder of a store from the text that names it.

    Paths of URLs are :class:`upath.UPath`, which has the methods of :class:`pathlib.Path` that stores use. ``~`` is a
    home folder, as of :func:`tpbench.engine.files.user_path`.

    Raises:
        UsageError: it is no path, or no URL of a kind that fsspec knows and can open here; or there is no such home.
    """
    if "\0" in text or not text:
        raise UsageError("the results folder must be a path or a URL")
    if file := file_of_url(text):
        return file
    return _opened(text) if is_url(text) else user_path(text)


@lru_cache(maxsize=32)
def _opened(text: str) -> Path:
    url = cast("re.Match[str]", _URL.fullmatch(text))
    import fsspec
    from upath import UPath

    protocol, rest = url.group(1).lower(), url.group(2)
    if protocol == "local":  # fsspec's own word, of which nothing is encoded
        return user_path(rest)
    known = set(fsspec.available_protocols())
    if protocol not in known:
        raise unknown("kind of URL", protocol, known)
    if not rest.strip("/"):
        raise UsageError(f"'{text}': a bucket or folder must follow {protocol}://")
    try:
        # Other processes write there too: a listing that is remembered would be wrong.
        path = UPath(text, use_listings_cache=False)
        path.fs  # noqa: B018 (opens the file system, which fails where its package is missing)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"'{text}' cannot be opened: {error}") from error
    return cast(Path, path)


class Unreadable(TpbenchError):  # noqa: N818 (named for the file)
    """A file or folder that the file system does not give, though it may be valid."""


@contextmanager
def io_errors(
    path: Path,
    failure: str = "",
    *,
    passing: tuple[type[Exception], ...] = (),
    raised: type[TpbenchError] = Unreadable,
) -> Iterator[None]:
    """Turn every error of a file system into one of ours: that of a URL has exceptions of its own.

    Args:
        path: the file or folder that is used.
        failure: begins the message; by default that the path could not be read.
        passing: exceptions that are passed on as they are.
        raised: raised instead of the others.

    Raises:
        Unreadable: an error that happened within; those of tpbench stay as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (TpbenchError, *passing)):
            raise
        raise raised(f"{failure or f'{path}: could not be read'} ({reason_of(error)})") from error


def near_folders(folder: Path) -> list[str]:
    """Return folders beside a missing one that may be meant: of a similar name, or stores of runs."""
    try:
        beside = sorted(path for path in folder.parent.iterdir() if path.is_dir())
        names = [path.name for path in beside if not path.name.startswith(".")]
        similar = difflib.get_close_matches(folder.name, names, n=3)
        found = similar or [path.name for path in beside if (path / "runs").is_dir()][:3]
    except Exception:  # no such folder either; a URL's file system has exceptions of its own
        return []
    return [f"'{folder.parent / name}'" for name in found]


def file_stamps(folder: Path, suffix: str) -> dict[str, str]:
    """Return the files of a folder by name, each with a stamp of its version; one listing, no file is opened.

    Names that begin with a dot are passed over: what is being written, and what other programs keep beside the files
    (``._NAME`` of macOS). So are folders. The stamp is empty where a URL's file system tells nothing of that kind, and
    of what is no file, which :func:`read_bytes` refuses by name.

    Raises:
        TpbenchError: the folder cannot be read. One that is not there is empty.
    """
    with io_errors(folder):
        return _entry_stamps(folder, suffix) if isinstance(folder, Path) else _object_stamps(folder, suffix)


def _entry_stamps(folder: Path, suffix: str) -> dict[str, str]:
    stamps = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not _is_named(entry.name, suffix):
                continue
            try:
                status = entry.stat()
            except OSError:  # a link to itself, or to nothing
                stamps[entry.name] = ""
                continue
            if not stat.S_ISDIR(status.st_mode):
                # The time of change too: a program that copies a file may set the time of its content.
                stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                stamps[entry.name] = stamp if stat.S_ISREG(status.st_mode) else ""
    return stamps


def _object_stamps(folder: Any, suffix: str) -> dict[str, str]:
    try:
        entries = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    stamps = {}
    for entry in entries:
        name = str(entry["name"]).rstrip("/").rpartition("/")[2]
        if entry["type"] == "file" and _is_named(name, suffix):
            versions = [entry[key] for key in _VERSIONS if entry.get(key)]
            stamps[name] = f"{entry['size']} {versions[0]}" if versions else ""
    return stamps


def _is_named(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and not name.startswith(".")


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it; of a URL's, only the parts that are asked for are fetched.

    Raises:
        OSError: it is not there, or cannot be read.
        TpbenchError: it is no file, such as a folder, a named pipe (which would be waited for), or a link to itself.
    """
    if not isinstance(path, Path):
        return cast(BinaryIO, cast(Any, path).open("rb"))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise TpbenchError(f"{path}: not a file ({error.strerror})") from error
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise TpbenchError(f"{path}: a link to a file that is not there") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TpbenchError(f"{path}: not a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Read a whole file; one at a URL in one request, where UPath's method of that name makes two.

    Args:
        path: the file's.
        largest: bytes that such a file can have; of a URL's, the object store sends what it has.

    Raises:
        OSError: it is not there, or cannot be read.
        TpbenchError: it is no file, or larger.
    """
    if not isinstance(path, Path):
        return _object_bytes(path)
    with open_file(path) as file:
        # Before anything is read: a file may have holes, and claim any size.
        if os.fstat(file.fileno()).st_size > largest:
            raise TpbenchError(f"{path}: larger than such a file can be")
        return file.read(largest + 1)


def _object_bytes(path: Any) -> bytes:
    # s3fs asks for the size first, to fetch large objects in parts at once: runs are small.
    options = {"max_concurrency": 1} if path.protocol in ("s3", "s3a") else {}
    return bytes(path.fs.cat_file(path.path, **options))


def from_here(path: Path) -> Path:
    """Return a path relative to the current folder, where it lies in that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def absolute(text: str) -> str:
    """Return the text of the same location for a process that runs in another folder or on another machine."""
    found = location(text)
    return str(found.resolve()) if isinstance(found, Path) else text
