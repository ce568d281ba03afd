"""A tiny training world: a hybrid, and a source of packed random documents that remembers where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from openarctic.data import Batch
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.model.routing import RoutingConfig
from openarctic.train.config import TrainConfig
from openarctic.train.objectives import LanguageModelling
from openarctic.train.trainer import Progress, train

VOCABULARY = 32


def documents(number: int, rows: int = 2, length: int = 24) -> Batch:
    """The batch of that number: rows of documents, whose tokens count up from where they start."""
    rng = np.random.default_rng(number)
    ids, own, positions = (np.zeros((rows, length), np.int64) for _ in range(3))
    for row in range(rows):
        at, document = 0, 0
        while at < length:
            stop = min(length, at + int(rng.integers(4, 14)))
            ids[row, at:stop] = (int(rng.integers(VOCABULARY)) + np.arange(stop - at)) % VOCABULARY
            own[row, at:stop], positions[row, at:stop] = document, np.arange(stop - at)
            at, document = stop, document + 1
    labels = np.where(positions == 0, -100, ids)
    return Batch(ids, labels, own.astype(np.int32), positions.astype(np.int32), np.zeros(rows, np.int32))


class Stream:
    """Batches 0, 1, 2, ...; those of `spoiled` are documents of noise."""

    def __init__(self, spoiled: frozenset[int] = frozenset()) -> None:
        self.number, self.spoiled = 0, spoiled

    def next_batch(self) -> Batch:
        batch = documents(self.number)
        if self.number in self.spoiled:
            batch.input_ids[:] = np.random.default_rng(0).integers(VOCABULARY, size=batch.input_ids.shape)
            batch.labels[:] = np.where(batch.labels == -100, -100, 0)
        self.number += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def tiny_hybrid(seed: int = 0, **changes: Any) -> ArcticForCausalLM:
    torch.manual_seed(seed)
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_layer_frequency": 1,
        "parallel_attn_mlp_res": True,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        **changes,
    }
    return ArcticForCausalLM(ArcticConfig(**values))


# Everything about a router that depends on chance or on earlier steps.
RESTLESS = RoutingConfig(capacity_factor=1.0, min_capacity=1, drop="random", jitter=0.1, bias_update_rate=0.01, z_loss_coef=1e-3)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 8, "lr": 3e-3, "warmup_steps": 2, "checkpoint_steps": 2, **changes})


def run(out: Path, settings: TrainConfig, source: Any = None, model: Any = None, **options: Any) -> tuple[Any, Progress]:
    """Train a fresh tiny hybrid; the model and where it ended."""
    model = model or tiny_hybrid()
    model.set_routing(options.pop("routing", RoutingConfig()))
    return model, train(model, LanguageModelling(), source or Stream(), settings, out, **options)
