"""Damages GGUF files where it hurts, and reads them: `python -m tests.formats.fuzz_gguf --files 100000 --seed 0`.

The reader itself tells where each count, length, type, offset, string and value of a sound file stands; those are overwritten,
exchanged, doubled, cut out, or the file is cut short; random bytes come beside. Every file must be read, or be refused with an
error of `openarctic.errors`, in bounded time and memory; whatever is read as sound goes on to config, tensor table, tokenizer
and (for one file in `native_every`) to native loading and a step.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openarctic.engine.loader import load_model
from openarctic.errors import OpenArcticError
from openarctic.formats import HybridConfig, config_from_gguf, gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.names import check_tensors
from openarctic.tokenizer import Tokenizer, has_vocabulary
from tests.tiny import random_state, tiny_config

MOST_SECONDS = 2.0
MOST_BYTES = 1 << 30  # of address space, beyond what the process has at the start
NUMBERS = [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 127, 128, 255, 2**15, 2**16 - 1, 2**20, 2**20 + 1, 2**22, 2**31 - 1, 2**31]
NUMBERS += [2**32 - 1, 2**40, 2**47, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@dataclass(frozen=True)
class Seed:
    """A sound file (or its splits), and where its fields stand: (file, start, size)."""

    parts: tuple[bytes, ...]
    fields: tuple[tuple[int, int, int], ...]


def vocabulary(size: int) -> dict[str, Any]:
    """A small SentencePiece vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(size - 20)), *("\u2581abcdefghijklmnop"[:17])]
    types = [2, 3, 3] + [6] * (size - 20) + [1] * 17
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens[:size],
        "tokenizer.ggml.scores": [-float(i) for i in range(size)],
        "tokenizer.ggml.token_type": types[:size],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def seeds(folder: Path) -> list[Seed]:
    """Files of both architectures and several types, one of them in splits."""
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "num_local_experts": 2}
    dense = {**small, "num_local_experts": 0, "num_experts_per_tok": 0}
    out = []
    for number, (changes, type_, limit) in enumerate(((small, "Q8_0", None), (dense, "F16", None), (small, "Q4_0", 20_000))):
        config = tiny_config(**changes)
        metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_, t=type_: t, vocabulary(64))
        paths = write_gguf(folder / f"seed{number}.gguf", metadata, tensors, limit)
        out.append(Seed(tuple(path.read_bytes() for path in paths), tuple(_fields(paths))))
    return out


def _fields(paths: tuple[Path, ...]) -> list[tuple[int, int, int]]:
    """Everything that the reader takes from the files."""
    found: list[tuple[int, int, int]] = []
    plain, fast = gguf._Cursor.take, gguf._Cursor.strings

    def take(self: Any, count: int, what: str) -> bytes:
        found.append((paths.index(self.path), self.at, count))
        return plain(self, count, what)

    def one_by_one(self: Any, count: int, what: str) -> list[str]:
        return [self.string(what) for _ in range(count)]

    gguf._Cursor.take, gguf._Cursor.strings = take, one_by_one  # type: ignore[method-assign]
    try:
        read_gguf(paths[0])
    finally:
        gguf._Cursor.take, gguf._Cursor.strings = plain, fast  # type: ignore[method-assign]
    return [field for field in found if field[2]]


def damage(seed: Seed, rng: random.Random) -> list[bytes]:
    """The seed's files with one to four wounds."""
    parts = [bytearray(part) for part in seed.parts]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        part, start, size = rng.choice(seed.fields)
        data = parts[part]
        kind = rng.random()
        if kind < 0.45:
            data[start : start + size] = _value(bytes(data[start : start + size]), rng)
        elif kind < 0.6:  # what stands elsewhere
            other, at, length = rng.choice(seed.fields)
            data[start : start + size] = bytes(seed.parts[other][at : at + length])[:size].ljust(size, b"\0")
        elif kind < 0.7:
            del data[start : start + rng.choice((size, 1, 8, rng.randrange(1, 200)))]
        elif kind < 0.8:
            piece = bytes(data[start : start + rng.choice((size, 1, 8, rng.randrange(1, 200)))])
            data[start:start] = piece * rng.choice((1, 1, 2, 50))
        elif kind < 0.87:
            del data[rng.choice((start, start + 1, rng.randrange(len(data) + 1))) :]
        elif kind < 0.95:
            for _ in range(rng.choice((1, 3, 30))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind < 0.98:
            data[start : start + size] = rng.randbytes(rng.choice((size, 16, 64)))
        else:
            keep = rng.choice((0, 4, 8, 24))
            data[keep:] = rng.randbytes(rng.randrange(400))
    return [bytes(part) for part in parts]


def _value(old: bytes, rng: random.Random) -> bytes:
    """Another value in the place of a field."""
    size = len(old)
    if size in (1, 2, 4, 8) and rng.random() < 0.9:
        now = int.from_bytes(old, "little")
        value = rng.choice((*NUMBERS, now + 1, now - 1, now * 2, now // 2, now ^ 1 << rng.randrange(8 * size)))
        if rng.random() < 0.1 and size == 4:
            return struct.pack("<f", rng.choice((float("nan"), float("inf"), -1.0, 1e30, 0.0)))
        return (value % 2 ** (8 * size)).to_bytes(size, "little")
    return rng.choice((rng.randbytes(size), b"\xff" * size, bytes(size), old[::-1], bytes(b ^ 32 for b in old)))


def read(path: Path, is_native: bool) -> str:
    """Reads a file as the engine does; says how far it came, or which error refused it."""
    try:
        file = read_gguf(path)
        config = config_from_gguf(file)
        check_tensors(config, file)
        if has_vocabulary(file.metadata):
            Tokenizer.from_gguf_metadata(file.metadata).encode("abc \u00e9")
        if not is_native:
            return "sound"
        model = load_model(file, config, pages=1, threads=1, cache_type="f32")
        one, out = np.zeros(1, np.int32), np.empty((1, model.padded_vocab), np.float32)
        model.step(one, one, one, np.zeros((1, 1), np.int32), [0], out)
        return "ran"
    except OpenArcticError as error:
        return type(error).__name__


def fuzz(files: int, seed: int, native_every: int, folder: Path) -> tuple[collections.Counter[str], list[str]]:
    """How many files ended how, and a description of each that ended as none may."""
    rng, counts, failures = random.Random(seed), collections.Counter[str](), []
    sound = seeds(folder)
    for number in range(files):
        chosen = rng.choice(sound)
        parts = damage(chosen, rng)
        count = len(parts)
        names = ["x.gguf"] if count == 1 else [f"x-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
        for name, part in zip(names, parts, strict=True):
            (folder / name).write_bytes(part)
        start = time.perf_counter()
        try:
            counts[read(folder / names[0], number % native_every == 0)] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is what this looks for
            failures.append(f"file {number} of seed {seed}: {traceback.format_exc(limit=-3)}")
            counts["failed"] += 1
        if (seconds := time.perf_counter() - start) > MOST_SECONDS:
            failures.append(f"file {number} of seed {seed} took {seconds:.1f} s")
    return counts, failures


def main() -> int:
    """Prints the counts; the exit code tells whether all ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native-every", type=int, default=10)
    options = parser.parse_args()
    now = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (1024 * now + MOST_BYTES, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(options.files, options.seed, options.native_every, Path(folder))
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    print(dict(counts.most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
