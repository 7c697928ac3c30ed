"""Free memory: of the machine, within the limits of the process's container, and of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tpbench.engine import TpbenchError
from tpbench.engine.errors import format_bytes

# Linux's files of control groups, of version 2 and of version 1.
_LIMITS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes available without swapping: free, or taken by the page cache, which makes room.

    Args:
        root: where ``proc`` and ``sys`` lie; systems without them have no limit but the machine's.
    """
    return min([_machine_memory(root), *_left_in_groups(root)])


def _machine_memory(root: Path) -> int:
    """Return the machine's free bytes: from Linux's file, elsewhere from psutil."""
    for line in read_text(root / "proc/meminfo").splitlines():
        name, *words = line.split()
        if name == "MemAvailable:" and words[0].isdecimal():
            return 1024 * int(words[0])
    import psutil

    return int(psutil.virtual_memory().available)


def require_memory(needed: int, what: str) -> None:
    """Refuse work before it begins if the memory for it is missing.

    Args:
        needed: bytes.
        what: the work, for the message, such as ``wine.npz: splitting it``.

    Raises:
        TpbenchError: less is free.
    """
    free = available_memory()
    if needed > free:
        raise TpbenchError(f"{what} needs {format_bytes(needed)} of memory, {format_bytes(free)} are free")


def free_memory(device: str) -> int:
    """Return the bytes that are free on a device, as torch names it."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes that each group of this process may still take."""
    for kind, mount, limit, usage, cache in _LIMITS:
        for folder in group_folders(root, kind, mount):
            bound, used = read_number(folder / limit), read_number(folder / usage)
            if bound is not None and used is not None:
                # Pages of files can be dropped; they count as used.
                yield max(0, bound - used + (_counter(folder / "memory.stat", cache) or 0))


def group_folders(root: Path, controller: str, mount: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process belongs to, from the innermost outwards.

    The limit of an outer group binds too. A container often sees its own group as the outermost.

    Args:
        root: where ``proc`` and ``sys`` lie.
        controller: of version 1, such as ``memory``; empty: the groups of version 2.
        mount: their folder, below ``root``.
    """
    group = _group(root, controller)
    if group is not None:
        for part in (group, *group.parents):
            yield root / mount / str(part).lstrip("/")


def _group(root: Path, controller: str) -> PurePosixPath | None:
    """Return the group of this process, of version 2 (``controller`` is empty) or of a controller of version 1."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (controller in controllers.split(",")) if controller else (number == "0" and not controllers):
            # A group outside the container appears as /../..: no path below the mount.
            return PurePosixPath("/") / ("" if ".." in path.split("/") else path.lstrip("/"))
    return None


def read_number(path: Path) -> int | None:
    """Return a file's number; None where it holds ``max``, or does not exist."""
    text = read_text(path).strip()
    return int(text) if text.isdecimal() else None


def read_text(path: Path) -> str:
    """Return a file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# The counters of processes that the kernel killed as memory ran out, of groups of version 2 and 1.
_KILLS = (("", "sys/fs/cgroup", "memory.events"), ("memory", "sys/fs/cgroup/memory", "memory.oom_control"))


def oom_kills(root: Path = Path("/")) -> int:
    """Count the processes that the kernel has killed as memory ran out: of this process's group, or of the system.

    The counter of a group has the kills for want of memory outside it too, and none of other programs. Only that the
    number grows means something.

    Args:
        root: where ``proc`` and ``sys`` lie; 0 on systems without them.
    """
    for controller, mount, file in _KILLS:
        for folder in group_folders(root, controller, mount):
            if (count := _counter(folder / file, "oom_kill")) is not None:
                return count
    return _counter(root / "proc/vmstat", "oom_kill") or 0


def _counter(path: Path, name: str) -> int | None:
    """Return the number after a name that begins a line; None where there is none."""
    values = [line.split()[1] for line in read_text(path).splitlines() if line.startswith(f"{name} ")]
    return int(values[0]) if values and values[0].isdecimal() else None
