"""What to measure: the workloads by name, their options, and about how long they take. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openarctic.bench.protocol import Protocol

WORKLOADS: Mapping[str, str] = {
    "decode": "one sequence, a token at a time, behind 128 tokens",
    "prefill": "one prompt of 512 tokens",
    "batch": "one token of each of 1, 2, 4, 8, 16 and 32 sequences a step, behind 128 tokens",
    "prefix": "8 prompts that share 512 tokens and end in 32 of their own",
    "long": "decode behind 512 to 16384 tokens, and the prefill between",
    "contention": "decode while another process is busy on every processor",
    "speculation": "requests of SQL and of free text, with and without suffix decoding",
    "submit": "whole requests through the scheduler: 1, 8 and 16 at once, against bare steps",
    "experts": "decode of models with 8 to 128 experts and the same active size",
    "load": "from a file that is in memory to the first token",
    "accuracy": "logits against float64 on the file's own numbers",
}
ALL = "all"
# Of `all` with several models, only the first runs these.
FIRST_ONLY = frozenset(("prefix", "long", "contention", "submit"))
PEERS = ("llama.cpp",)
SHAPES = ("S", "L", "D", "G")  # of --random; see random_models


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a benchmark. `folder` is where random models are written and found."""

    models: tuple[Path, ...]
    folder: Path
    threads: int
    protocol: Protocol
    against: str | None = None
    peer_python: str = sys.executable
    context: int = 128
    prompt: int = 512
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    requests: int = 8
    shared: int = 512
    own: int = 32
    experts: tuple[int, ...] = (8, 32, 128)
    rewind: int = 64  # steps after which a decode goes back to its context
    buffer_bytes: int = 1 << 30
    expert_type: str = "Q8_0"
    first_only: frozenset[str] = frozenset()  # workloads that only the first model runs
    load_models: tuple[Path, ...] = ()  # for `load`, in place of `models`
    text_models: tuple[Path, ...] = ()  # for `speculation`, in place of `models`: what writes sense
