"""Token shards made without a tokenizer: every token is a number of its own, so that one that is lost or doubled is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openarctic.data.shards import TRAIN, Manifest, TokenShards, write_manifest, write_shard


def write_shards(
    folder: Path, lengths: Sequence[int], *, first_token: int = 0, per_shard: int = 7, split: str = TRAIN, tokenizer: str = "one"
) -> TokenShards:
    """Documents of these lengths; their tokens count up from `first_token`."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, token = [], first_token
    for number, first in enumerate(range(0, len(lengths), per_shard)):
        ends = np.cumsum(lengths[first : first + per_shard])
        tokens = np.arange(token, token + ends[-1], dtype=np.uint32)
        shards.append(write_shard(folder, f"{split}-{number:05d}", tokens, ends.tolist()))
        token += int(ends[-1])
    manifest = Manifest(
        domain=folder.name,
        dtype="uint32",
        vocab_size=token,
        tokenizer_sha256=tokenizer,
        begin_id=None,
        end_id=None,
        shards={split: shards},
        sources=[],
        documents_read=len(lengths),
        text_bytes=0,
        left_out={},
    )
    write_manifest(folder, manifest)
    return TokenShards(folder, split)
