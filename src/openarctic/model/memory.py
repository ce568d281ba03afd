"""How much memory this machine can still give, and the refusal of work that needs more."""

from __future__ import annotations

import re
from pathlib import Path

from openarctic.errors import CapacityError

MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Memory that can be had without swapping, counting what the page cache would give back; None where nobody tells."""
    if not MEMINFO.exists():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def check_memory(needed_bytes: int, what: str, hint: str) -> None:
    """Raise CapacityError, with both numbers, when `what` needs more than there is."""
    available = available_bytes()
    if available is not None and needed_bytes > available:
        raise CapacityError(f"{what} takes {needed_bytes / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available", hint)
