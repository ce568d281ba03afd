"""How fast are tensors written in each number type, and how does that compare with ggml's own quantiser?

Input is a random matrix of the widths of `arctic-480b`, as BF16 (what checkpoints hold) on one and on several threads, and as
F32 on one thread beside ggml (llama-cpp-python) on one thread, in alternating order; reported are medians, and the median
of the paired ratios. With `--importance` columns are weighted. One JSON document on standard output, a table on standard error.

    python benchmarks/bench_quantize.py --types Q8_0 Q4_K --threads 2
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from openarctic.formats._quants import coders

from openarctic.bench.machine import commit, processor
from openarctic.formats.quants import TYPES, byte_size, encode

COLUMNS = 7168
FLOATS = ("F32", "F16", "BF16")


def main() -> None:
    """Run and print."""
    options = parse()
    report = {
        "columns": COLUMNS,
        "values": options.rows * COLUMNS,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "importance": options.importance,
        "coder": coders()[0],
        "commit": commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
        "types": {type_: measure(type_, options) for type_ in options.types},
    }
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=[t for t in TYPES if t != "F32"], choices=TYPES)
    parser.add_argument("--rows", type=int, default=1024, help=f"of {COLUMNS} values")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--importance", action="store_true")
    return parser.parse_args()


def measure(type_: str, options: argparse.Namespace) -> dict[str, Any]:
    """Speeds of one type, after one run to warm up."""
    shape = (options.rows, COLUMNS)
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape, dtype=np.float32)
    exact = values.reshape(-1).view(np.uint8)
    stored = encode(exact, "F32", "BF16", shape)
    weights = rng.random(COLUMNS, dtype=np.float32) if options.importance and type_ not in FLOATS else None
    out = np.zeros(byte_size(type_, shape), np.uint8)
    ggml = ggml_quantizer(type_, values, weights)

    def ours(raw: np.ndarray[Any, Any], source: str, threads: int) -> Callable[[], object]:
        return lambda: encode(raw, source, type_, shape, importance=weights, threads=threads, out=out)

    jobs = {
        "one_thread": ours(stored, "BF16", 1),
        "threads": ours(stored, "BF16", options.threads),
        "f32": ours(exact, "F32", 1),
        **({"ggml": ggml} if ggml else {}),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(options.repetitions + 1):
        for name in sorted(jobs, reverse=i % 2 == 1):
            start = time.perf_counter()
            jobs[name]()
            if i:
                times[name].append(time.perf_counter() - start)
    result = {f"bf16_gb_s_{n}": stored.size / 1e9 / statistics.median(times[n]) for n in ("one_thread", "threads")}
    result["bf16_gb_s_threads_max"] = stored.size / 1e9 / min(times["threads"])
    if ggml:
        result["times_ggml"] = statistics.median(b / a for a, b in zip(times["f32"], times["ggml"], strict=True))
    print(f"{type_:5} " + "  ".join(f"{name} {value:.3f}" for name, value in result.items()), file=sys.stderr)
    return result


def ggml_quantizer(type_: str, values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any] | None) -> Callable[[], object] | None:
    """ggml's function on the same values, if llama-cpp-python is there."""
    try:
        import llama_cpp
    except ImportError:
        return None
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    out = np.zeros(byte_size(type_, values.shape), np.uint8)
    columns = None if weights is None else weights.ctypes.data
    arguments = (TYPES[type_].code, values.ctypes.data, out.ctypes.data, 0, *values.shape, columns)
    return lambda: (library.ggml_quantize_chunk(*arguments), out, weights)


if __name__ == "__main__":
    main()
