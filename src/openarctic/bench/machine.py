"""What a measurement ran on, and how much of the machine other programs used meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from openarctic.machine import default_threads

STAT = Path("/proc/stat")
PACKAGES = ("openarctic", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, system and versions, as far as they are told."""
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "usable_processors": default_threads(),
        "caches": caches(),
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def processor() -> str:
    """Its name, as Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def caches() -> dict[str, str]:
    """Name -> size of the first processor's caches."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        found[f"L{level}{kind[0].lower() if kind != 'Unified' else ''}"] = size
    return found


def memory_bytes() -> int | None:
    """All of it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def commit() -> str | None:
    """Of the checkout that this package runs from, with + where files have changed; None of an installed package."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # a folder of packages inside some other checkout
        return None
    name = git("rev-parse", "--short", "HEAD")
    return name and name + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def own_cpu_seconds() -> float:
    """Processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def busy_seconds() -> float | None:
    """Processor time of everything that runs here since the start, and what the hypervisor took; None where it is not told.

    The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal in ticks (guests are part of user).
    """
    try:
        fields = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class ForeignClock:
    """Measures the share of the machine that others use between `start` and `stop`."""

    _wall: float = 0.0
    _busy: float | None = None
    _own: float = 0.0

    def start(self) -> None:
        """Begin."""
        self._wall, self._busy, self._own = time.perf_counter(), busy_seconds(), own_cpu_seconds()

    def stop(self, children_cpu_s: float) -> float | None:
        """Their share; `children_cpu_s` is what the measured process says it used. None where the system does not tell."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        own = own_cpu_seconds() - self._own + children_cpu_s
        return foreign_share(busy - self._busy, own, time.perf_counter() - self._wall, os.cpu_count() or 1)


def foreign_share(busy_s: float, own_s: float, wall_s: float, processors: int) -> float:
    """What share of all processors' time was busy and not our own: 0 to 1. Ticks of 10 ms may make it a little wrong."""
    return min(1.0, max(0.0, (busy_s - own_s) / (wall_s * processors))) if wall_s > 0 else 0.0
