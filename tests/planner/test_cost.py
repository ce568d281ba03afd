"""Published numbers against what their own inputs give; `errata.json` holds claims, inputs, truths and which are wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openarctic.planner import GPUS, PRESETS, kv_bytes_per_token, parameters, weight_bytes
from openarctic.planner.cost import (
    dollars_per_gpu_hour,
    dollars_per_million_tokens,
    gpu_hours,
    training_flops,
    training_gpu_hours,
)

ERRATA: list[dict[str, Any]] = json.loads((Path(__file__).parent / "errata.json").read_text())
# Arctic's own config class, with the published 128 experts (spec 1.1).
CLASS_DEFAULTS = replace(
    PRESETS["arctic-480b"],
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
)


def norms_embedding_head(preset: str) -> int:
    counted = parameters(PRESETS[preset])
    return counted.norms + counted.embedding + counted.head


def dense_percent(preset: str) -> float:
    counted = parameters(PRESETS[preset])
    return 100 * counted.dense / counted.total


FUNCTIONS: dict[str, Any] = {
    "gpu_hours": gpu_hours,
    "dollars_per_gpu_hour": dollars_per_gpu_hour,
    "dollars_per_million_tokens": dollars_per_million_tokens,
    "expert_choices": lambda num_experts, experts_per_token: math.comb(num_experts, experts_per_token),
    "experts_per_gpu": lambda num_experts, gpus: -(-num_experts // gpus),
    "training_flops": training_flops,
    "vector_bytes": lambda dimensions, bits_per_value: -(-dimensions * bits_per_value // 8),
    "ratio": lambda larger, smaller: larger / smaller,
    "norms_embedding_head": norms_embedding_head,
    "dense_percent": dense_percent,
    "config": lambda preset, field: getattr(PRESETS[preset], field),
    "parameters": lambda preset, count: getattr(parameters(PRESETS[preset]), count),
    "weight_bytes": lambda preset, precision: weight_bytes(PRESETS[preset], precision),
    "kv_bytes_per_token": lambda preset: kv_bytes_per_token(PRESETS[preset], 2),
    "class_default_parameters": lambda moe_layer_frequency, count: getattr(
        parameters(replace(CLASS_DEFAULTS, moe_layer_frequency=moe_layer_frequency)), count
    ),
}


@pytest.mark.parametrize("row", ERRATA, ids=lambda row: row["claim"])
def test_published_numbers(row: dict[str, Any]) -> None:
    truth = FUNCTIONS[row["function"]](**row["inputs"])
    assert truth == pytest.approx(row["truth"], rel=1e-9)
    rounded = float(f"{truth:.{row['digits'] - 1}e}")
    assert (rounded != row["published"]) is row["is_wrong"]


def test_training_time_is_flops_by_rate() -> None:
    gpu = GPUS["H100"]
    hours = training_gpu_hours(3600 * gpu.bf16_flops, gpu, 0.5)
    assert hours == pytest.approx(2)
