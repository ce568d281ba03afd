"""What this process may use of the machine: processors and memory, as affinity, container and limits allow.

Containers limit by control groups, which the processes inside do not see in the usual counts. Both versions are read: v2 has
one tree with `cpu.max` and `memory.max`, v1 a tree for each controller. A limit of any group above ours holds too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from openarctic.errors import CapacityError, UserError

ROOT = Path("/")
MAX_THREADS = 256


def default_threads(root: Path = ROOT) -> int:
    """The processors that this process may use: those it may run on, at most its quota of time, rounded down, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, cpu_quota(root))))


def checked_threads(threads: int | None) -> int:
    """The number of threads to start; None is `default_threads`. Raises UserError."""
    if threads is None:
        return default_threads()
    if not 1 <= threads <= MAX_THREADS:
        raise UserError(f"threads is {threads}, it must be 1 to {MAX_THREADS}")
    return threads


def cpu_quota(root: Path = ROOT) -> float:
    """Seconds of processor time a second that the control groups allow; infinite without a limit."""
    quota = math.inf
    for folder in _groups(root, "cpu"):
        parts = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]) > 0:  # not "max", not -1
            quota = min(quota, int(parts[0]) / int(parts[1]))
    return quota


def available_bytes(root: Path = ROOT) -> int | None:
    """Memory that can be had without swapping, counting file pages that would be given back; None where nobody tells."""
    found = [left for folder in _groups(root, "memory") if (left := _left_in_group(folder)) is not None]
    if (kilobytes := _field(root / "proc/meminfo", "MemAvailable")) is not None:
        found.append(1024 * kilobytes)
    if (left := _left_of_address_space(root)) is not None:
        found.append(left)
    return max(0, min(found)) if found else None


def check_memory(needed_bytes: int, what: str, hint: str, root: Path = ROOT) -> None:
    """Raises CapacityError, with both numbers, when `what` needs more memory than there is."""
    available = available_bytes(root)
    if available is not None and needed_bytes > available:
        raise CapacityError(f"{what} takes {needed_bytes / 1e9:.2f} GB of memory, {available / 1e9:.2f} GB are available", hint)


def return_free_memory() -> None:
    """Hand back to the system what was freed here, where the C library would keep it (glibc; elsewhere nothing happens).

    Tensors of ever other sizes leave holes that no later one fills: a training run held twice the memory that its steps need.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups that may limit `controller`, from its own up."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            trees = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            trees = [root / "sys/fs/cgroup" / controller, root / "sys/fs/cgroup" / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for tree in trees:
            for length in range(len(parts), -1, -1):  # inside a container our own path may be missing, the top is ours then
                yield tree.joinpath(*parts[:length])


def _left_in_group(folder: Path) -> int | None:
    for limit_name, usage_name, file_pages in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, usage = _words(folder / limit_name), _words(folder / usage_name)
        if limit and usage and limit[0].isdigit() and usage[0].isdigit():
            return int(limit[0]) - int(usage[0]) + (_field(folder / "memory.stat", file_pages) or 0)
    return None


def _left_of_address_space(root: Path) -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field(root / "proc/self/status", "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - 1024 * used


def _field(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:?\s+(\d+)", _text(path), re.MULTILINE)
    return int(found[1]) if found else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Empty where there is no such file, or none that we may read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
