"""How fast are decode and prefill beside llama.cpp, on the same GGUF file?

Each engine runs in its own process with the same number of threads. After two warm-ups, in every repetition both run
the same tokens, in alternating order; reported are medians and the median of the paired ratios with its range. One JSON
document on standard output, a table on standard error. `--random PATH` writes a random hybrid first.

    python benchmarks/bench_engine.py --random S-Q8_0.gguf --type Q8_0 --peer-python venv-llama/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SERVER = Path(__file__).with_name("engine_server.py")
WORKLOADS = {"decode": "decode 128 32", "prefill": "prefill 512"}
TOKENS = {"decode": 32, "prefill": 512}
# The shape "S" of docs/log.md: 145 M parameters, 16 experts.
CONFIG: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "moe_layer_frequency": 1,
    "parallel_attn_mlp_res": True,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def main() -> None:
    """Run and print."""
    options = parse()
    if options.random:
        write_random(options.random, options.type)
    report = {
        "model": Path(options.model or options.random).name,
        "threads": options.threads,
        "repetitions": options.repetitions,
        "commit": commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
        "workloads": compare(options),
    }
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file")
    parser.add_argument("--random", metavar="PATH", help="write a random hybrid here and measure it")
    parser.add_argument("--type", default="Q8_0", help="of the random hybrid's matrices")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python")
    options = parser.parse_args()
    if not (options.model or options.random):
        parser.error("give a model or --random")
    return options


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Results by workload."""
    path = options.model or options.random
    results: dict[str, Any] = {}
    with server(sys.executable, "ours", path, options.threads) as ours:
        with server(options.peer_python, "llama", path, options.threads) as llama:
            results["engines"] = [ours.description, llama.description]
            for name, line in WORKLOADS.items():
                results[name] = measure(ours, llama, line, options.repetitions, TOKENS[name])
                row = results[name]
                print(
                    f"{name:8} ours {row['ours_tok_s']:8.1f} tok/s  llama.cpp {row['llama_tok_s']:8.1f} tok/s  "
                    f"ratio {row['ratio']:.2f} [{row['ratio_min']:.2f}, {row['ratio_max']:.2f}]",
                    file=sys.stderr,
                )
    return results


class Server:
    """A running engine_server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.description = self._read()["description"]

    def ask(self, line: str) -> Any:
        """One line of work, its result."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended early")  # type: ignore[arg-type]
        return json.loads(line)


@contextmanager
def server(python: str, kind: str, path: str, threads: int) -> Iterator[Server]:
    """A process for one engine, ended at the end."""
    command = [python, str(SERVER), kind, str(path), str(threads), "1024"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def measure(ours: Server, llama: Server, line: str, repetitions: int, tokens: int) -> dict[str, Any]:
    """Alternating runs; the ratio is llama.cpp's time over ours."""
    for each in (ours, llama) * 2:
        each.ask(line)
    pairs = []
    for i in range(repetitions):
        order = (ours, llama) if i % 2 else (llama, ours)
        times = {id(each): each.ask(line) for each in order}
        pairs.append((times[id(ours)], times[id(llama)]))
        time.sleep(0.05)
    ratios = [b / a for a, b in pairs]
    return {
        "ours_tok_s": tokens / statistics.median(a for a, _ in pairs),
        "llama_tok_s": tokens / statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "seconds": pairs,
    }


def write_random(path: str, kind: str) -> None:
    """A hybrid of random weights that stock runtimes can read, with a tokenizer of nonsense."""
    from openarctic.formats import HybridConfig, to_gguf, write_gguf

    rng = np.random.default_rng(0)
    metadata, tensors = to_gguf(
        HybridConfig.from_dict(CONFIG), RandomState(rng), lambda *_: kind, tokenizer_metadata(CONFIG["vocab_size"])
    )
    write_gguf(path, metadata, tensors)


class RandomState(dict[str, Any]):
    """Random tensors by Hugging Face name, made when they are asked for."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __missing__(self, name: str) -> np.ndarray[Any, Any]:
        hidden, vocab = CONFIG["hidden_size"], CONFIG["vocab_size"]
        if "norm" in name:
            return (1 + 0.1 * self.rng.standard_normal(hidden)).astype(np.float32)
        key_rows = CONFIG["num_key_value_heads"] * hidden // CONFIG["num_attention_heads"]
        rows = {"embed_tokens": vocab, "lm_head": vocab, "k_proj": key_rows, "v_proj": key_rows, "gate": 16}
        shape = (rows.get(name.split(".")[-2], hidden), hidden)
        scale = 1.0 if "embed_tokens" in name else hidden**-0.5
        return self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def tokenizer_metadata(vocab: int) -> dict[str, Any]:
    """The least that llama.cpp accepts."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    kinds = [2, 3, 3] + [6] * 256
    tokens += [f"t{i}" for i in range(vocab - len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(vocab)],
        "tokenizer.ggml.token_type": kinds + [1] * (vocab - len(kinds)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def commit() -> str:
    """Of the checkout."""
    folder = Path(__file__).parent
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    ).stdout.strip()


def processor() -> str:
    """Its name, as Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
