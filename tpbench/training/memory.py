"""How much memory a process may still take: what the machine has left, and what its container lets it have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Where Linux shows the groups of processes: the files of version 2, and those of version 1.
_LIMITS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be had without swapping: free, or taken by the page cache, which makes room.

    Args:
        root: where ``proc`` and ``sys`` lie; systems without them have no limit but the machine's.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each group that this process belongs to may still take."""
    for kind, mount, limit, usage, cache in _LIMITS:
        group = _group(root, kind)
        if group is None:
            continue
        # The limit of an outer group binds too. A container often sees its own group as the outermost.
        for folder in (root / mount / str(part).lstrip("/") for part in (group, *group.parents)):
            bound, used = _number(folder / limit), _number(folder / usage)
            if bound is not None and used is not None:
                yield max(0, bound - used + _cached(folder / "memory.stat", cache))


def _group(root: Path, kind: str) -> PurePosixPath | None:
    """The group of this process, of version 2 (``kind`` is empty) or of a controller of version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (kind in controllers.split(",")) if kind else (number == "0" and not controllers):
            return PurePosixPath("/") / path.lstrip("/")
    return None


def _cached(path: Path, name: str) -> int:
    """Pages of files that can be dropped; they count as used."""
    found = [line.split()[1] for line in _text(path).splitlines() if line.startswith(f"{name} ")]
    return int(found[0]) if found and found[0].isdigit() else 0


def _number(path: Path) -> int | None:
    """A file's number; None where it says ``max``, or is not there."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# The counters of processes that the kernel killed as memory ran out: of the whole system, of groups of version 2 and 1.
_KILLS = (("", "sys/fs/cgroup", "memory.events"), ("memory", "sys/fs/cgroup/memory", "memory.oom_control"))


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed as memory ran out, of the system and of the groups of this process.

    Only that the number grows means something.

    Args:
        root: where ``proc`` and ``sys`` lie; 0 on systems without them.
    """
    found = _counter(root / "proc/vmstat", "oom_kill")
    for kind, mount, file in _KILLS:
        group = _group(root, kind)
        if group is not None:
            folders = (root / mount / str(part).lstrip("/") for part in (group, *group.parents))
            found += sum(_counter(folder / file, "oom_kill") for folder in folders)
    return found


def _counter(path: Path, name: str) -> int:
    values = [line.split()[1] for line in _text(path).splitlines() if line.startswith(f"{name} ")]
    return int(values[0]) if values and values[0].isdigit() else 0
