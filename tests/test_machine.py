"""Processors and memory that a process may use, from made-up trees of control groups of both versions."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import pytest

from openarctic.errors import CapacityError, UserError
from openarctic.machine import (
    MAX_THREADS,
    _malloc_trim,
    available_bytes,
    check_memory,
    checked_threads,
    cpu_quota,
    default_threads,
    return_free_memory,
)

GB = 10**9


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        (V2, math.inf),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}, math.inf),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "150000 100000\n"}, 1.5),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n", "sys/fs/cgroup/pod/cpu.max": "50000 100000"}, 0.5),
        ({**V2, "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),  # a container that sees its own group as the top
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "nonsense"}, math.inf),
        ({**V1, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000"}, math.inf),
        ({**V1, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000"}, 3.0),
        (
            {**V1, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "70000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "10000"},
            7,
        ),
    ],
)
def test_quota_of_processor_time(tmp_path: Path, files: dict[str, str], quota: float) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota
    allowed = len(os.sched_getaffinity(0))
    assert default_threads(tmp_path) == (allowed if quota >= allowed else max(1, int(quota)))


def test_affinity_limits_threads(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads(tmp_path) == checked_threads(None) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_threads_that_make_no_sense_are_refused() -> None:
    assert checked_threads(1) == 1 and checked_threads(MAX_THREADS) == MAX_THREADS
    for threads in (0, -1, MAX_THREADS + 1):
        with pytest.raises(UserError, match=f"threads is {threads}, it must be 1 to {MAX_THREADS}"):
            checked_threads(threads)


MEMINFO = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:   8000000 kB\n"}


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, None),
        (MEMINFO, 8_192_000_000),
        (
            {
                **MEMINFO,
                **V2,
                "sys/fs/cgroup/pod/box/memory.max": "3000000000\n",
                "sys/fs/cgroup/pod/box/memory.current": "2500000000\n",
                "sys/fs/cgroup/pod/box/memory.stat": "anon 1\ninactive_file 400000000\nactive_file 7\n",
            },
            900_000_000,
        ),
        ({**MEMINFO, **V2, "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "1\n"}, 8_192_000_000),
        ({**V2, "sys/fs/cgroup/memory.max": "5\n", "sys/fs/cgroup/memory.current": "7\n"}, 0),
        (
            {
                **MEMINFO,
                **V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000",
            },
            3_000_000_000,
        ),
    ],
)
def test_memory_that_is_left(tmp_path: Path, files: dict[str, str], available: int | None) -> None:
    assert available_bytes(tree(tmp_path, files)) == available


def test_a_refusal_names_both_numbers(tmp_path: Path) -> None:
    tree(tmp_path, MEMINFO)
    check_memory(8 * GB, "it", "buy some", tmp_path)
    with pytest.raises(CapacityError, match=r"^it takes 9.00 GB of memory, 8.19 GB are available$") as caught:
        check_memory(9 * GB, "it", "buy some", tmp_path)
    assert caught.value.hint == "buy some"
    check_memory(9 * GB, "it", "buy some", tmp_path / "nobody tells")


def test_free_memory_is_handed_back_where_the_c_library_can() -> None:
    return_free_memory()
    return_free_memory()
    assert (_malloc_trim() is not None) == (platform.libc_ver()[0] == "glibc")
