"""Closed formulas against the sum over every tensor, and against the published table of the 480B."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.formats import HybridConfig
from openarctic.formats.names import tensor_table
from openarctic.planner import PRESETS, parameters
from tests.tiny import FAMILIES, LAYOUTS, tiny_config

MODELS = {**LAYOUTS, **FAMILIES}

PARTS = ("embedding", "attention", "residual_mlp", "dense_mlp", "router", "experts", "norms", "biases", "head")


def by_tensor(config: HybridConfig) -> Counter[str]:
    """Parameters by part, tensor by tensor."""
    counts: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for spec in tensor_table(config):
        counts[spec.part] += len(spec.hf) * prod(spec.shape)
    return counts


def check(config: HybridConfig) -> None:
    counted, tensors = parameters(config), by_tensor(config)
    assert {part: getattr(counted, part) for part in PARTS} == tensors
    assert counted.total == tensors.total()
    idle = sum(
        (len(spec.hf) - config.num_experts_per_tok) * prod(spec.shape) for spec in tensor_table(config) if spec.part == "experts"
    )
    assert counted.active == tensors.total() - idle


@pytest.mark.parametrize("config", [*map(HybridConfig.from_dict, MODELS.values()), *PRESETS.values()], ids=[*MODELS, *PRESETS])
def test_formula_is_the_sum_over_all_tensors(config: HybridConfig) -> None:
    check(config)


BASE = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 32768, "rope_theta": 1e6}
# Sizes of published config.json files (layers, hidden, heads, kv heads, MLP width, vocabulary), and their published numbers
# of parameters.
PUBLISHED: list[tuple[str, tuple[int, ...], dict[str, Any], int]] = [
    ("llama", (30, 576, 9, 3, 1536, 49152), {"tie_word_embeddings": True}, 134_515_008),  # SmolLM2-135M
    ("qwen2", (28, 3584, 28, 4, 18944, 152064), {}, 7_615_616_512),  # Qwen2.5-7B
    ("mixtral", (32, 4096, 32, 8, 14336, 32000), {"num_local_experts": 8, "num_experts_per_tok": 2}, 46_702_792_704),
    (
        "olmoe",  # OLMoE-1B-7B
        (16, 2048, 16, 16, 1024, 50304),
        {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False},
        6_919_161_856,
    ),
    (
        "qwen3_moe",  # Qwen3-30B-A3B
        (48, 2048, 32, 4, 6144, 151936),
        {"moe_intermediate_size": 768, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True},
        30_532_122_624,
    ),
]


@pytest.mark.parametrize(("model_type", "sizes", "own", "total"), PUBLISHED, ids=[case[0] for case in PUBLISHED])
def test_published_models_have_their_parameters(model_type: str, sizes: tuple[int, ...], own: dict[str, Any], total: int) -> None:
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    config = HybridConfig.from_dict({**BASE, **dict(zip(names, sizes, strict=True)), **own, "model_type": model_type})
    assert parameters(config).total == total


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_formula_is_the_sum_for_any_config(data: st.DataObject) -> None:
    draw = data.draw
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    experts = draw(st.integers(0, 9))
    sizes: dict[str, Any] = {
        "vocab_size": draw(st.integers(1, 300)),
        "hidden_size": heads * 2 * draw(st.integers(1, 5)),
        "intermediate_size": draw(st.integers(1, 50)),
        "num_hidden_layers": draw(st.integers(1, 9)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)) if experts else 0,
        "moe_layer_frequency": draw(st.integers(1, 4)),
        "parallel_attn_mlp_res": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "residual_intermediate_size": draw(st.none() | st.integers(1, 50)),
        "dense_intermediate_size": draw(st.none() | st.integers(1, 50)),
    }
    check(HybridConfig.from_dict(tiny_config(**sizes)))


# Spec 4, row by row.
@pytest.mark.parametrize(
    ("part", "per_layer", "total"),
    [
        ("attention", 117_440_512, 4_110_417_920),
        ("residual_mlp", 154_140_672, 5_394_923_520),
        ("router", 917_504, 32_112_640),
        ("experts", 13_388_218_368, 468_587_642_880),
        ("expert", 104_595_456, 3_660_840_960),
    ],
)
def test_the_480b_by_part(part: str, per_layer: int, total: int) -> None:
    assert getattr(parameters(PRESETS["arctic-480b"]), part) == total == 35 * per_layer


def test_the_480b_in_sums() -> None:
    counted = parameters(PRESETS["arctic-480b"])
    assert counted.norms == 759_808 == 35 * 21_504 + 7168
    assert counted.embedding + counted.head == 458_752_000
    assert counted.dense_mlp == 0
    assert counted.dense == 9_996_965_888
    assert counted.total == 478_584_608_768
    assert counted.active == 17_318_647_808
    assert round(counted.active_without_lookup, -7) == 17_090_000_000
    old = parameters(PRESETS["arctic-480b-kv56"])
    assert round(old.attention / 1e9, 3) == 7.193
    assert [round(n / 1e9, 2) for n in (old.dense, old.total, old.active)] == [13.08, 481.67, 20.40]


def test_a_tied_table_is_counted_once_and_stays_active() -> None:
    tied = parameters(HybridConfig.from_dict(tiny_config(tie_word_embeddings=True)))
    own = parameters(HybridConfig.from_dict(tiny_config()))
    assert own.total - tied.total == own.head == own.embedding
    assert tied.active_without_lookup == tied.active == own.active_without_lookup


def test_experts_that_no_layer_has_are_not_active() -> None:
    counted = parameters(HybridConfig.from_dict(tiny_config(moe_layer_frequency=4)))
    assert counted.experts == counted.expert == counted.router == 0
    assert counted.active == counted.total


def test_the_golden_case_has_the_counts_of_the_specification() -> None:
    assert parameters(PRESETS["tiny"]).total == 78_912
    assert sum(len(spec.hf) for spec in tensor_table(PRESETS["tiny"])) == 108
    assert sum(len(spec.hf) for spec in tensor_table(PRESETS["arctic-480b"])) == 13_828
    assert sum(1 for _ in tensor_table(PRESETS["arctic-480b"])) == 493
