"""How fast is a Hugging Face folder converted to GGUF, and how much memory does that take?

A miniature of the 480B model is made shard by shard: random bf16 weights, many experts, 9 GB in about as many shards as the
real one has. It is converted in a process of its own, whose peak resident memory is reported, and deleted. Beside the speed
stand those of the disk (one file written and synced, and read back uncached): they bound it. One JSON document on standard
output, a table on standard error.

    python benchmarks/bench_convert.py --folder /data/bench --type Q8_0 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# 1/100 of the 480B model: its proportions of heads and experts, narrower, with half as many experts.
CONFIG: dict[str, Any] = {
    "model_type": "arctic",
    "architectures": ["ArcticForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 1536,
    "num_hidden_layers": 7,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_local_experts": 64,
    "num_experts_per_tok": 2,
    "moe_layer_frequency": 1,
    "parallel_attn_mlp_res": True,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SHARD_BYTES = 48_000_000
PROBE_BYTES = 1 << 30


def main() -> None:
    """Make, convert, report, delete."""
    options = parse()
    if options.child:
        print(json.dumps(globals()[options.child](options)))
        return
    room = options.folder / f"bench_convert.{os.getpid()}"
    room.mkdir(parents=True)
    try:
        report = {
            "commit": commit(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "type": options.type,
            "threads": options.threads,
            "disk": probe_disk(room),
            "model": child("make", options, room),
            "runs": [child("convert", options, room) for _ in range(options.repetitions)],
        }
    finally:
        shutil.rmtree(room)
    print(json.dumps(report, indent=1))
    table(report)


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where 20 GB are free, outside of the repository")
    parser.add_argument("--type", default="Q8_0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"], help="1.25 GB each")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--child", choices=("make", "convert"), help=argparse.SUPPRESS)
    return parser.parse_args()


def child(what: str, options: argparse.Namespace, room: Path) -> dict[str, Any]:
    """Run a function of this file in a process of its own, whose memory is its own."""
    command = [sys.executable, __file__, "--child", what, "--folder", str(room), "--type", options.type]
    command += ["--threads", str(options.threads), "--layers", str(options.layers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def make(options: argparse.Namespace) -> dict[str, Any]:
    """Write the miniature; every tensor is a window into one pool of normal values."""
    import numpy as np

    from openarctic.formats import HybridConfig
    from openarctic.formats.checkpoint import INDEX, index_text, layout_shapes, shard_plan
    from openarctic.formats.quants import byte_size, quantize
    from openarctic.formats.safetensors import write_safetensors

    folder = options.folder / "checkpoint"
    folder.mkdir()
    config = {**CONFIG, "num_hidden_layers": options.layers}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = layout_shapes(HybridConfig.from_dict(config), "huggingface")
    plan = shard_plan(shapes, "BF16", SHARD_BYTES)
    rng = np.random.default_rng(0)
    largest = max(byte_size("BF16", shape) for shape in shapes.values())
    pool = quantize((rng.standard_normal(largest // 2 + (1 << 20)) * 0.02).astype(np.float32), "BF16")
    total = 0
    for file, names in plan.items():
        tensors = {}
        for name in names:
            start, size = 2 * int(rng.integers(1 << 20)), byte_size("BF16", shapes[name])
            tensors[name] = ("BF16", shapes[name], pool[start : start + size])
            total += size
        write_safetensors(folder / file, tensors)
        forget(folder / file)
    (folder / INDEX).write_text(index_text(plan, total, "huggingface"))
    return {"bytes": total, "shards": len(plan), "tensors": len(shapes)}


def convert(options: argparse.Namespace) -> dict[str, Any]:
    """One conversion of shards that are not in memory, with the peak of this process's resident memory."""
    from openarctic.formats.convert import ConvertOptions, Progress, convert
    from openarctic.formats.sources import open_source

    for path in (options.folder / "checkpoint").iterdir():
        forget(path)
    phases: dict[str, float] = {}

    def on_progress(progress: Progress) -> None:
        phases.setdefault(progress.phase, time.monotonic())

    started, cpu = time.monotonic(), time.process_time()
    source = open_source(options.folder / "checkpoint")
    result = convert(
        source,
        options.folder / "model.gguf",
        ConvertOptions(type=options.type, threads=options.threads),
        on_progress=on_progress,
    )
    seconds = time.monotonic() - started
    for path in result.paths:
        path.unlink()
    return {
        "seconds": round(seconds, 2),
        "checking_seconds": round(time.monotonic() - phases["checking"], 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "input_bytes_per_s": round(result.bytes_read / seconds),
        "output_bytes": result.bytes_written,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def probe_disk(room: Path) -> dict[str, int]:
    """Bytes a second of writing and syncing one file, and of reading it back."""
    path, piece = room / "probe", os.urandom(1 << 23)
    started = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(PROBE_BYTES // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())
    written = time.monotonic()
    forget(path)
    reading = time.monotonic()
    with path.open("rb", buffering=0) as file:
        while file.read(len(piece)):
            pass
    read = time.monotonic()
    path.unlink()
    return {
        "write_bytes_per_s": round(PROBE_BYTES / (written - started)),
        "read_bytes_per_s": round(PROBE_BYTES / (read - reading)),
    }


def forget(path: Path) -> None:
    """Drop a file's pages from memory."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def commit() -> str:
    """Of the repository, + where it has changes."""
    folder = Path(__file__).parent
    name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    changes = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=False)
    return name.stdout.strip() + ("+" if changes.stdout.strip() else "")


def table(report: dict[str, Any]) -> None:
    """For people."""
    model, disk = report["model"], report["disk"]
    print(f"{model['bytes'] / 1e9:.2f} GB bf16, {model['tensors']} tensors in {model['shards']} shards", file=sys.stderr)
    print(
        f"disk: writes {disk['write_bytes_per_s'] / 1e6:.0f} MB/s, reads {disk['read_bytes_per_s'] / 1e6:.0f} MB/s",
        file=sys.stderr,
    )
    print("  seconds  of that checking  input MB/s  peak RSS MB", file=sys.stderr)
    for run in report["runs"]:
        speed, peak = run["input_bytes_per_s"] / 1e6, run["peak_rss_bytes"] / 1e6
        print(f"{run['seconds']:9.1f}{run['checking_seconds']:18.1f}{speed:12.0f}{peak:13.0f}", file=sys.stderr)


if __name__ == "__main__":
    main()
