"""GGUF keys and tensors: what asks for another computation is refused by name, by every reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openarctic.engine import Engine
from openarctic.errors import CorruptError, OpenArcticError, UserError
from openarctic.formats import HybridConfig, config_from_gguf, from_gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.gguf import TensorData
from openarctic.formats.names import stock_obstacles
from openarctic.formats.sources import open_source
from openarctic.planner import find
from tests.tiny import LAYOUTS, random_state, tiny_config


def write_changed(
    path: Path, config: dict[str, Any], keys: dict[str, Any] | None = None, tensors: dict[str, TensorData | None] | None = None
) -> Path:
    """A random F32 model with other keys and tensors; None leaves a tensor out."""
    metadata, stored = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", keys or {})
    changed = {name: tensor for name, tensor in {**stored, **(tensors or {})}.items() if tensor is not None}
    return write_gguf(path, metadata, changed)[0]


CHANGES: list[tuple[str, Any]] = [
    ("rope.scaling.type", "linear"),
    ("rope.scaling.type", "yarn"),
    ("rope.scaling.factor", 4.0),
    ("rope.scaling.yarn_beta_fast", 32.0),
    ("rope.scale_linear", 2.0),
    ("rope.dimension_count", 8),
    ("rope.dimension_sections", [4, 4]),
    ("attention.key_length", 32),
    ("attention.value_length", 8),
    ("attention.sliding_window", 16),
    ("attention.clamp_kqv", 8.0),
    ("attention.causal", False),
    ("attention.scale", 0.5),
    ("attention.unheard_of", 1),
    ("attn_logit_softcapping", 50.0),
    ("logit_scale", 0.5),
    ("expert_weights_scale", 2.5),
    ("expert_weights_norm", False),
    ("expert_gating_func", 2),
    ("expert_shared_count", 1),
    ("expert_feed_forward_length", 48),
]


@pytest.mark.parametrize(("key", "value"), CHANGES)
@pytest.mark.parametrize("layout", ["parallel", "sequential"])
def test_a_key_that_changes_the_computation_is_refused(layout: str, key: str, value: Any, tmp_path: Path) -> None:
    full = f"{'arctic' if layout == 'parallel' else 'llama'}.{key}"
    path = write_changed(tmp_path / "m.gguf", LAYOUTS[layout], {full: value})
    with pytest.raises(UserError, match=full) as caught:
        config_from_gguf(read_gguf(path))
    assert repr(value) in caught.value.message


def test_the_same_keys_at_values_that_change_nothing(tmp_path: Path) -> None:
    neutral = {
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scaling.original_context_length": 128,
        "rope.dimension_count": 16,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.sliding_window": 0,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_gating_func": 1,
        "expert_feed_forward_length": 32,
    }
    plain = write_changed(tmp_path / "plain.gguf", tiny_config())
    path = write_changed(tmp_path / "m.gguf", tiny_config(), {f"arctic.{key}": value for key, value in neutral.items()})
    assert config_from_gguf(read_gguf(path)) == config_from_gguf(read_gguf(plain))


def test_the_weight_of_one_expert_is_renormalised_in_llama_files_and_not_in_ours(tmp_path: Path) -> None:
    config = tiny_config(parallel_attn_mlp_res=False, num_experts_per_tok=1)
    path = write_changed(tmp_path / "m.gguf", config)
    file = read_gguf(path)
    assert file.metadata["general.architecture"] == "arctic" and not config_from_gguf(file).renormalizes
    stock = replace(HybridConfig.from_dict(config), norm_topk_prob=True)  # as Mixtral has it
    metadata, tensors = to_gguf(stock, random_state(config), lambda *_: "F32", {})
    file = read_gguf(write_gguf(tmp_path / "one.gguf", metadata, tensors)[0])
    assert file.metadata["general.architecture"] == "llama" and config_from_gguf(file).renormalizes
    assert config_from_gguf(file).model_type == "mixtral" and stock_obstacles(stock) == []


def f32(*shape: int) -> TensorData:
    return "F32", shape, np.zeros(shape, np.float32).reshape(-1).view(np.uint8)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"blk.0.attn_q.bias": f32(64)}, "1 tensors that its keys do not know: blk.0.attn_q.bias"),
        ({"rope_freqs.weight": f32(8)}, "1 tensors that its keys do not know: rope_freqs.weight"),
        ({"blk.1.ffn_up_exps.weight": None}, "lacks 1 of .* tensors: blk.1.ffn_up_exps.weight"),
        ({"blk.1.ffn_down_exps.weight": f32(8, 32, 64)}, "blk.1.ffn_down_exps.weight has shape"),
        ({"blk.2.ffn_gate_inp.weight": f32(512)}, "blk.2.ffn_gate_inp.weight has shape"),
    ],
)
def test_every_reader_refuses_missing_surplus_and_misshapen_tensors(tensors: Any, told: str, tmp_path: Path) -> None:
    path = write_changed(tmp_path / "m.gguf", tiny_config(), tensors=tensors)
    for read in (lambda p: from_gguf(read_gguf(p)), Engine.load, lambda p: find(str(p))):
        with pytest.raises(CorruptError, match=told):
            read(path)
    with pytest.raises(OpenArcticError, match=next(iter(tensors))):
        open_source(path)


@pytest.mark.parametrize(
    ("changes", "gguf", "huggingface"),
    [
        ({}, [], []),
        ({"residual_intermediate_size": 160}, ["residual_intermediate_size"], ["residual_intermediate_size"]),
        ({"moe_layer_frequency": 2}, ["moe_layer_frequency"], []),
        (
            {"moe_layer_frequency": 2, "dense_intermediate_size": 96},
            ["moe_layer_frequency"],
            ["dense_intermediate_size"],
        ),
        ({"dense_intermediate_size": 96}, [], []),  # no layer has it
        ({"num_experts_per_tok": 1}, ["num_experts_per_tok"], []),
        ({"parallel_attn_mlp_res": False}, [], []),
        ({"parallel_attn_mlp_res": False, "residual_intermediate_size": 160}, [], []),
        (
            {"parallel_attn_mlp_res": False, "num_experts_per_tok": 1},
            ["num_experts_per_tok", "parallel_attn_mlp_res"],
            [],
        ),
        ({"num_local_experts": 0, "num_experts_per_tok": 0}, [], ["num_local_experts"]),
        ({"num_local_experts": 0, "num_experts_per_tok": 0, "moe_layer_frequency": 4}, [], []),  # of 3 layers
    ],
)
def test_obstacles_are_those_of_the_form(changes: dict[str, Any], gguf: list[str], huggingface: list[str]) -> None:
    config = HybridConfig.from_dict(tiny_config(**changes))
    for form, wanted in (("gguf", gguf), ("huggingface", huggingface)):
        assert [told.split()[0] for told in stock_obstacles(config, form)] == wanted, form  # type: ignore[arg-type]
    assert stock_obstacles(config) == stock_obstacles(config, "gguf")
