"""The machine's limits, measured: read bandwidth and arithmetic peaks (`native/limits.cpp`), and the shares that speeds reach.

Decode reads all active weights once a token, so bandwidth bounds it; prefill multiplies each weight with many tokens, so
arithmetic does. What arithmetic a type needs is `native/kernels.h`'s choice: 16-bit activations for 6- and 8-bit weights, 8-bit
ones below.
"""

from __future__ import annotations

from typing import Any

from openarctic.formats import GGUFFile, HybridConfig
from openarctic.formats.names import tensor_table
from openarctic.planner import flops_per_token, kv_bytes_per_token

BUFFER_BYTES = 1 << 30  # larger than caches that are told of as 260 MB
REPETITIONS = 7
ARITHMETIC = {"F32": "fp32", "F16": "fp32", "BF16": "fp32", "Q8_0": "int16", "Q6_K": "int16"}  # others: int8


def measure_limits(threads: int, buffer_bytes: int = BUFFER_BYTES) -> dict[str, Any]:
    """Bytes a second read, and operations a second by kind of arithmetic, on 1 and on `threads` threads."""
    from openarctic.native import _native

    counts = sorted({1, threads})
    peaks = {name: {str(n): _native.arithmetic_peaks(name, n) for n in counts} for name in _native.available_kernels()}
    return {
        "buffer_bytes": buffer_bytes,
        "read_bytes_per_s": {str(n): _native.read_bandwidth(buffer_bytes, n, REPETITIONS) for n in counts},
        "operations_per_s": {name: by_threads for name, by_threads in peaks.items() if any(by_threads.values())},
    }


def active_bytes(file: GGUFFile, config: HybridConfig, batch: int = 1) -> float:
    """Bytes of weights that a decode step of `batch` sequences reads, as stored: experts by their mean under even routing.

    An embedding table is one row a token, unless it is the head too.
    """
    total = 0.0
    for spec in tensor_table(config):
        size = file.tensors[spec.gguf].data.size
        if spec.part == "experts":
            missed = (1 - config.num_experts_per_tok / config.num_local_experts) ** batch
            total += size * (1 - missed)
        elif spec.part == "embedding" and not config.tie_word_embeddings:
            total += batch * size / config.vocab_size
        else:
            total += size
    return total


def main_type(file: GGUFFile) -> str:
    """The type of most bytes."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.data.size
    return max(sizes, key=lambda name: sizes[name])


def shares(
    file: GGUFFile,
    config: HybridConfig,
    limits: dict[str, Any],
    kernels: str,
    threads: int,
    *,
    tokens_per_s: float,
    batch: int,
    context: int,
    is_prefill: bool,
) -> dict[str, float]:
    """`bandwidth`: bytes read a second over the measured limit (decode); `arithmetic`: operations over the peak of the kind that
    the file's main type needs, where that is known."""
    out = {}
    if not is_prefill:
        steps_per_s = tokens_per_s / batch
        read = active_bytes(file, config, batch) + batch * context * kv_bytes_per_token(config)
        out["active_bytes"] = read
        out["bandwidth"] = read * steps_per_s / limits["read_bytes_per_s"][str(threads)]
    peaks = limits["operations_per_s"].get(kernels, {}).get(str(threads), {})
    kind = ARITHMETIC.get(main_type(file), "int8")
    if kind in peaks:
        flops = flops_per_token(config, max(context, 1))
        # A prefill multiplies the head with its last token alone.
        operations = flops.prefill - 2 * config.vocab_size * config.hidden_size if is_prefill else flops.decode
        out["arithmetic"] = operations * tokens_per_s / peaks[kind]
    return out
