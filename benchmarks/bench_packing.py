"""What does shared-prefix packing gain over training the same examples unpacked?

A model of arctic-nano's shape and random weights (`--layers` for a smaller one) takes forward and backward passes over the same
question-and-SQL examples: packed behind their schema once (`train.packing`), and unpacked, each with its own copy of the schema,
both as one batch padded on the right and one after the other. Logits are computed only where a target counts, in all forms.
Lengths are those of Spider's training packs (means: schema 168 tokens, 13.5 questions of 54 tokens with 25 of them SQL). Forms
alternate; reported are medians over `--repetitions` and the ratio to the faster unpacked form, paired. The losses must agree.

    python benchmarks/bench_packing.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from openarctic.bench.machine import commit, processor
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.train.packing import Pack, Segment, pack_loss


def main() -> None:
    """Run and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = nano_shaped(options.layers)
    pack = spider_sized_pack(random.Random(0), model.config.vocab_size)
    forms: dict[str, Callable[[], Tensor]] = {
        "packed": lambda: pack_loss(model, pack).cross_entropy,
        "padded": lambda: padded_loss(model, pack),
        "one_by_one": lambda: one_by_one_loss(model, pack),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    losses = {}
    for repetition in range(options.repetitions + 1):
        for name, form in forms.items():
            taken, losses[name] = timed(model, form)
            if repetition:  # the first warms up
                seconds[name].append(taken)
    assert max(abs(a - b) for a, b in pairwise(losses.values())) < 1e-4, losses
    examples = len(pack.segments)
    unpacked = [min(pair) for pair in zip(seconds["padded"], seconds["one_by_one"], strict=True)]
    ratios = [slow / fast for slow, fast in zip(unpacked, seconds["packed"], strict=True)]
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": examples,
        "tokens": {"packed": len(pack), "unpacked": sum(len(pack.prefix) + len(s) for s in pack.segments)},
        "threads": options.threads,
        "repetitions": options.repetitions,
        "examples_per_s": {name: round(examples / statistics.median(taken), 2) for name, taken in seconds.items()},
        "losses": losses,
        "packed_over_unpacked": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "commit": commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


def nano_shaped(layers: int) -> ArcticForCausalLM:
    """arctic-nano's widths, experts in every sixth layer, random weights, all of them trained."""
    config = ArcticConfig(
        vocab_size=16384,
        hidden_size=576,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_local_experts=8,
        num_experts_per_tok=2,
        moe_layer_frequency=6,
        parallel_attn_mlp_res=True,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        residual_intermediate_size=1536,
        dense_intermediate_size=1536,
    )
    return ArcticForCausalLM(config).train()


def spider_sized_pack(rng: random.Random, vocab_size: int) -> Pack:
    """Random ids in the lengths of a mean pack."""

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocab_size) for _ in range(count)]

    segments = [Segment(ids(rng.randrange(18, 41)), ids(rng.randrange(10, 41))) for _ in range(13)]
    return Pack(ids(168), segments)


def padded_loss(model: ArcticForCausalLM, pack: Pack) -> Tensor:
    """One right-padded batch: no token sees the padding behind it."""
    rows = [pack.prefix + s.prompt + s.target for s in pack.segments]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    hidden_BSH = model.model(ids, use_cache=False).last_hidden_state
    places = [(b, len(row) - len(s.target) - 1 + i) for b, (row, s) in enumerate(zip(rows, pack.segments, strict=True))
              for i in range(len(s.target))]  # fmt: skip
    row_of, position_of = torch.tensor(places).T
    wanted = torch.tensor([i for s in pack.segments for i in s.target])
    return F.cross_entropy(model.lm_head(hidden_BSH[row_of, position_of]), wanted)


def one_by_one_loss(model: ArcticForCausalLM, pack: Pack) -> Tensor:
    """Each example forward and backward on its own; gradients add up. Returns the loss without a graph."""
    total, targets = torch.zeros(()), sum(len(s.target) for s in pack.segments)
    for segment in pack.segments:
        ids = torch.tensor([pack.prefix + segment.prompt + segment.target])
        hidden_SH = model.model(ids, use_cache=False).last_hidden_state[0]
        logits = model.lm_head(hidden_SH[-len(segment.target) - 1 : -1])
        loss = F.cross_entropy(logits, torch.tensor(segment.target), reduction="sum") / targets
        loss.backward()
        total += loss.detach()
    return total


def timed(model: ArcticForCausalLM, form: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds of forward and backward, and the loss."""
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    loss = form()
    if loss.requires_grad:
        loss.backward()
    return time.perf_counter() - started, loss.item()


if __name__ == "__main__":
    main()
