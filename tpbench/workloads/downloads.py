"""Download the files of a data set from torchvision's addresses, with time-outs and progress."""

from __future__ import annotations

import http.client
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tpbench.engine import TpbenchError
from tpbench.engine.errors import shorten
from tpbench.workloads.datasets import md5
from tpbench.workloads.workload import DatasetSpec

PATIENCE = 30.0
"""Seconds that a server may take to answer, or to send the next bytes."""
_LINE_INTERVAL = 60.0
"""Seconds between two lines of progress."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class _Source:
    """A file, its MD5 sum and its addresses in the order in which they are tried."""

    name: str
    md5: str
    addresses: tuple[str, ...]


def download_hosts(spec: DatasetSpec) -> str:
    """Return the hosts that a data set is downloaded from, in the order in which they are tried."""
    hosts = (urlsplit(address).netloc for source in _sources(spec) for address in source.addresses)
    return " or ".join(dict.fromkeys(hosts))


def download_files(spec: DatasetSpec, folder: Path, patience: float = PATIENCE) -> None:
    """Download the files of a data set into a folder, as they are published, and check their MD5 sums.

    Args:
        patience: seconds that a server may take to answer, or to send the next bytes.

    Raises:
        TpbenchError: no server gave one of the files; with each one's reason.
        OSError: the folder cannot be written.
    """
    with _progress(spec.name, spec.megabytes) as advance:
        for source in _sources(spec):
            _fetch(source, folder / source.name, spec, patience, advance)


def _sources(spec: DatasetSpec) -> list[_Source]:
    """Return the files of a data set, with torchvision's addresses and sums."""
    import torchvision.datasets

    loader = getattr(torchvision.datasets, str(spec.torchvision_name))
    if spec.archive:
        return [_Source(spec.archive[0], spec.archive[1], (loader.url,))]
    return [_Source(name, md5, tuple(f"{mirror}{name}" for mirror in loader.mirrors)) for name, md5 in loader.resources]


def _fetch(source: _Source, path: Path, spec: DatasetSpec, patience: float, advance: Callable[[int], None]) -> None:
    reasons = []
    for address in source.addresses:
        received = 0
        try:
            with path.open("wb") as file:
                for chunk in _chunks(address, patience):
                    received += len(chunk)
                    if received > 2_000_000 * max(1, spec.megabytes):
                        raise _ServerError("it sends far more than the file")
                    file.write(chunk)
                    advance(len(chunk))
            if source.md5 and md5(path) != source.md5:
                raise _ServerError("what it sent has another MD5 sum")
            return
        except _ServerError as error:
            advance(-received)
            reasons.append(f"{urlsplit(address).netloc}: {shorten(str(error), 200)}")
    raise TpbenchError(
        f"{spec.name} could not be downloaded ({source.name}; {'; '.join(reasons)}). Without a network, import what "
        f"another machine has, a Keras-style file or torchvision's folder: 'tpbench data import {spec.name} FILE.npz'"
    )


class _ServerError(Exception):
    """A fault of a server, beside those of the disk."""


def _chunks(address: str, patience: float) -> Iterator[bytes]:
    """Yield the bytes that a server sends.

    Raises:
        _ServerError: it stops before the end.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "pytorch/vision"})
    try:
        # The time-out holds for every single wait: for a proxy and the connection, an answer, and the next bytes. An
        # opener of its own knows the proxies that the environment names now.
        with urllib.request.build_opener().open(request, timeout=patience) as response:
            length, received = response.length, 0
            while chunk := response.read1(_CHUNK):
                received += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        raise _ServerError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid proxy address
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError)
        text = f"no answer within {patience:g} s" if late else " ".join(str(reason).split()) or type(error).__name__
        raise _ServerError(text) from error
    if length is not None and received != length:
        raise _ServerError(f"it sent {received} of {length} bytes")


@contextmanager
def _progress(name: str, megabytes: int) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error: a bar on a terminal, elsewhere a line a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(name, markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as progress:
            task = progress.add_task(name, total=megabytes * 1_000_000 or None)
            yield lambda count: progress.advance(task, count)
        return
    lines = ProgressLines(name, megabytes)
    yield lines.advance


class ProgressLines:
    """Progress as a line a minute."""

    def __init__(self, name: str, megabytes: int) -> None:
        self.name, self.megabytes = name, megabytes
        self.received, self.started = 0, time.monotonic()
        self.printed = self.started

    def advance(self, count: int) -> None:
        """Count bytes; a negative number takes those of a failed address back."""
        self.received += count
        now = time.monotonic()
        if now - self.printed >= _LINE_INTERVAL:
            self.printed = now
            done = f"{self.received / 1e6:.0f} of {self.megabytes} MB after {now - self.started:.0f} s"
            print(f"{self.name}: {done}", file=sys.stderr)
