"""What fits on GPUs: shares against the whole model, limits from both sides, bounds against a simulation."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

import pytest

from openarctic.errors import MissingError, UserError
from openarctic.formats import HybridConfig
from openarctic.formats.names import TensorSpec, tensor_table
from openarctic.planner import GPUS, PRESETS, Gpu, fit, flops_per_token, kv_bytes_per_token, parameters, weight_bytes
from openarctic.planner.fit import (
    RUNTIME_BYTES,
    activation_bytes,
    layouts,
    stage_layers,
    step_weights,
    weights_on_gpu,
)
from tests.tiny import FAMILIES, LAYOUTS

MODELS = {**LAYOUTS, **FAMILIES}
ARCTIC = PRESETS["arctic-480b"]
# Sizes that divide by 8, so that shares are exact.
EVEN = replace(PRESETS["hybrid-145m"], num_key_value_heads=2)


@pytest.mark.parametrize("config", [*map(HybridConfig.from_dict, MODELS.values()), *PRESETS.values()], ids=[*MODELS, *PRESETS])
def test_one_gpu_holds_the_whole_model(config: HybridConfig) -> None:
    assert weights_on_gpu(config, 1, range(config.num_hidden_layers)) == parameters(config).total


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stages", [2, 3])
def test_stages_share_the_layers_and_a_tied_head_is_copied(layout: str, stages: int) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    parts = stage_layers(config, stages)
    assert [layer for part in parts for layer in part] == list(range(config.num_hidden_layers))
    copied = parameters(config).embedding if config.tie_word_embeddings else 0
    assert sum(weights_on_gpu(config, 1, part) for part in parts) == parameters(config).total + copied


def share(config: HybridConfig, spec: TensorSpec, degree: int) -> int:
    """A tensor's weights on one of `degree` GPUs."""
    size = len(spec.hf) * prod(spec.shape)
    if spec.part in ("norms", "router"):
        return size
    is_kv = spec.part == "attention" and spec.gguf.split(".")[2] in ("attn_k", "attn_v")
    return size // (min(degree, config.num_key_value_heads) if is_kv else degree)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_tensor_parallel_shares_are_those_of_every_tensor(degree: int) -> None:
    for config in (EVEN, ARCTIC):
        expected = sum(share(config, spec, degree) for spec in tensor_table(config))
        assert weights_on_gpu(config, degree, range(config.num_hidden_layers)) == expected


def test_layouts_divide_the_heads_and_go_on_in_stages() -> None:
    assert list(layouts(ARCTIC)) == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (8, 8)]
    odd = replace(ARCTIC, hidden_size=9 * 128, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=5)
    assert list(layouts(odd)) == [(1, 1), (1, 2), (1, 4)]
    uneven = replace(odd, num_attention_heads=12, hidden_size=12 * 128, num_hidden_layers=1)
    assert list(layouts(uneven)) == [(1, 1)]  # 2 and 4 divide the 12 heads, but neither split nor copy the 3 of keys
    wide = replace(ARCTIC, hidden_size=64 * 128, num_attention_heads=64)
    assert list(layouts(wide)) == [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (32, 1), (64, 1)]


def test_past_the_kv_heads_memory_for_keys_does_not_shrink() -> None:
    """16 heads, 4 of them kv: 4 GPUs split keys and values, 8 and 16 hold copies."""
    config = PRESETS["hybrid-1.4b"]
    small = Gpu("small", 4 * 10**9, 1e12, 1e14, None)
    fits = {f.gpus: f for f in fit(config, small, "bf16", context=4096)}
    tokens = {n: fits[n].sequences * 4096 for n in (4, 8, 16)}
    per_gpu = {n: fits[n].kv_room_bytes / tokens[n] for n in tokens}
    quarter = kv_bytes_per_token(config, 2) / 4
    for n in tokens:
        assert quarter <= per_gpu[n] < 1.05 * quarter, n


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("precision", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize("batch", [1, 32])
def test_what_is_said_to_fit_fits_and_no_more(gpu: str, precision: str, batch: int) -> None:
    for found in fit(ARCTIC, gpu, precision, batch=batch):
        usable = GPUS[gpu].memory_bytes * 0.9
        used = found.weight_bytes + found.kv_room_bytes + RUNTIME_BYTES + activation_bytes(ARCTIC, batch)
        assert used == pytest.approx(usable, abs=1)
        layers = max(map(len, stage_layers(ARCTIC, found.pipeline_stages)))
        kv = 2 * 2 * 128 * max(1, 8 // found.tensor_parallel) * layers
        assert found.sequences * found.context * kv <= found.kv_room_bytes
        assert found.sequences >= batch
        if found.pipeline_stages == 1:
            assert (found.sequences + 1) * found.context * kv > found.kv_room_bytes
        assert found.gpus * found.weight_bytes >= weight_bytes(ARCTIC, precision)


def test_the_480b_on_machines_of_eight() -> None:
    """Eight H200 hold bf16, eight H100 only fp8: what its makers published it for."""
    assert min(f.gpus for f in fit(ARCTIC, "H200", "bf16")) == 8
    assert min(f.gpus for f in fit(ARCTIC, "H100", "bf16")) == 16
    assert min(f.gpus for f in fit(ARCTIC, "H100", "fp8")) == 8
    assert fit(ARCTIC, "L4", "fp32") == []


def test_where_the_context_does_not_fit_a_shorter_one_does() -> None:
    config = replace(PRESETS["hybrid-145m"], max_position_embeddings=10**6)
    card = Gpu("small", 3 * 10**9, 1e12, 1e14, None)
    one = fit(config, card, "bf16")[0]
    assert one.gpus == 1 and 1 < one.context < 10**6 and one.sequences == 1
    four = fit(config, card, "bf16", batch=4)[0]
    # Logits of three more sequences take a little of the room.
    assert 0.9 * one.context <= 4 * four.context <= one.context


@pytest.mark.parametrize("context", [0, -1, 4097])
def test_a_context_that_the_model_lacks_is_told(context: int) -> None:
    with pytest.raises(UserError, match="4096"):
        fit(ARCTIC, "H200", "bf16", context=context)


def test_other_wrong_sizes_are_told() -> None:
    with pytest.raises(UserError, match="batch is 0"):
        fit(ARCTIC, "H200", "bf16", batch=0)
    with pytest.raises(UserError, match="int5"):
        fit(ARCTIC, "H200", "int5")
    with pytest.raises(MissingError, match="H2000"):
        fit(ARCTIC, "H2000", "bf16")


def test_decode_is_bound_by_reading_and_prefill_by_multiplying() -> None:
    found = {f.gpus: f for f in fit(ARCTIC, "H100", "fp8", context=4096)}[8]
    read = parameters(ARCTIC).active_matrices + 4096 * 143_360
    assert found.decode_ms == pytest.approx(1e3 * read / (8 * 3.35e12))
    assert found.prefill_tokens_per_s == pytest.approx(8 * 1979e12 / flops_per_token(ARCTIC, 4096).prefill)


def test_pipeline_stages_hide_other_sequences_not_their_own() -> None:
    one, many = ({f.pipeline_stages: f.decode_ms for f in fit(ARCTIC, "B200", "bf16", batch=batch)} for batch in (1, 64))
    assert one[1] == one[2] == one[8]
    assert many[1] > many[2] > many[8] > one[8]


def test_the_fullest_stage_limits() -> None:
    """Of eight layers the third and sixth have experts, so that the second and third of four stages are the fullest."""
    config = replace(PRESETS["hybrid-145m"], moe_layer_frequency=3, num_attention_heads=1, num_key_value_heads=1, vocab_size=32)
    found = {f.pipeline_stages: f for f in fit(config, "L4", "bf16")}[4]
    stages = [2 * weights_on_gpu(config, 1, layers) for layers in stage_layers(config, 4)]
    assert found.weight_bytes == max(stages) == stages[1] > stages[3]


def test_a_batch_without_room_for_a_token_each_does_not_fit() -> None:
    config = replace(PRESETS["hybrid-145m"], vocab_size=1, bos_token_id=None, eos_token_id=None)
    per_token = kv_bytes_per_token(config, 2)
    fixed = weight_bytes(config, "bf16") + RUNTIME_BYTES + activation_bytes(config, 8)
    for tokens, expected in ((8, 1), (7, 0)):
        card = Gpu("small", round((fixed + (tokens + 0.5) * per_token) / 0.9), 1e12, 1e14, None)
        assert sum(f.gpus == 1 for f in fit(config, card, "bf16", batch=8)) == expected


def test_every_sequence_reads_its_own_keys() -> None:
    config = HybridConfig.from_dict(LAYOUTS["dense"])
    found = fit(config, "L4", "bf16", context=128, batch=50)[0]
    read = 2 * parameters(config).active_matrices + 50 * 128 * kv_bytes_per_token(config, 2)
    assert found.decode_ms == pytest.approx(1e3 * read / 0.3e12)


def test_stages_prefill_side_by_side() -> None:
    rates = {f.gpus: f.prefill_tokens_per_s for f in fit(ARCTIC, "H100", "fp8")}
    assert rates[16] == pytest.approx(2 * rates[8])


def test_a_large_batch_is_bound_by_multiplying() -> None:
    config = replace(PRESETS["hybrid-145m"], max_position_embeddings=1)
    found = fit(config, "H100", "bf16", batch=4096)[0]
    assert found.decode_ms == pytest.approx(1e3 * 4096 * flops_per_token(config, 1).decode / 989e12)


def test_experts_read_by_a_batch_are_those_of_random_routing() -> None:
    config, batch = PRESETS["hybrid-145m"], 8
    counted = parameters(config)
    assert step_weights(config, 1) == pytest.approx(counted.active_matrices)
    rng = random.Random(0)
    rounds = [len({e for _ in range(batch) for e in rng.sample(range(16), 2)}) for _ in range(4000)]
    dense = counted.active_matrices - 2 * counted.expert
    simulated = dense + counted.expert * sum(rounds) / len(rounds)
    assert step_weights(config, batch) == pytest.approx(simulated, rel=0.01)
    assert step_weights(config, 10**6) == pytest.approx(dense + counted.experts)


def test_a_dense_model_reads_all_of_itself() -> None:
    config = HybridConfig.from_dict(LAYOUTS["dense"])
    assert step_weights(config, 7) == parameters(config).active_matrices
