"""Configs, keys and tensor names of the families: what is read, what is written, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openarctic.errors import CorruptError, MissingError, OpenArcticError, UserError
from openarctic.formats import HybridConfig, config_from_gguf, read_gguf, to_gguf, write_gguf
from openarctic.formats.convert import ConvertOptions, convert
from openarctic.formats.families import FAMILIES as KNOWN
from openarctic.formats.families import stored_name
from openarctic.formats.gguf import TensorData
from openarctic.formats.names import stock_obstacles, tensor_table
from openarctic.formats.sources import open_source, plan_collapse
from openarctic.planner import find
from tests.formats.files import assert_same, raw_state, state_of, write_folder
from tests.tiny import FAMILIES, random_state, write_model

CONFIGS = {name: HybridConfig.from_dict(values) for name, values in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write_family(folder: Path, family: str) -> Path:
    """A random checkpoint in F32, by way of a GGUF file."""
    convert(open_source(write_model(folder / "m.gguf", FAMILIES[family], "F32")), folder / "checkpoint", ConvertOptions())
    return folder / "checkpoint"


def test_each_is_known_and_arctic_is_none_of_them(family: str) -> None:
    config = CONFIGS[family]
    assert (set(FAMILIES), config.model_type) == (set(KNOWN), family)
    assert not config.is_arctic and stock_obstacles(config) == stock_obstacles(config, "huggingface") == []
    assert HybridConfig.from_dict(config.to_dict()) == config
    assert HybridConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_plain_llama_and_a_mixtral_are_arctics() -> None:
    llama = {name: value for name, value in FAMILIES["llama"].items() if name != "head_dim"}
    for values in (llama, {**llama, "head_dim": 16}, {**FAMILIES["mixtral"], "num_experts_per_tok": 2}):
        config = HybridConfig.from_dict(values)
        assert config.is_arctic and config.model_type == "arctic" and not config.parallel_attn_mlp_res
        assert HybridConfig.from_dict(config.to_dict()) == config


def test_what_a_class_assumes() -> None:
    llama = {k: v for k, v in FAMILIES["llama"].items() if k not in ("num_key_value_heads", "rope_theta", "tie_word_embeddings")}
    config = HybridConfig.from_dict(llama)
    assert (config.num_key_value_heads, config.rope_theta, config.tie_word_embeddings) == (4, 10000.0, False)
    new = {k: v for k, v in FAMILIES["qwen2"].items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    assert HybridConfig.from_dict(new).rope_theta == 1e6


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("qwen2", "num_key_value_heads"),
        ("qwen2", "rope_theta"),
        ("qwen3", "head_dim"),
        ("mixtral", "num_experts_per_tok"),
        ("olmoe", "num_experts"),
        ("olmoe", "norm_topk_prob"),
        ("qwen3_moe", "moe_intermediate_size"),
        ("qwen3_moe", "norm_topk_prob"),
    ],
)
def test_what_decides_the_computation_has_no_default(family: str, key: str) -> None:
    named = {"num_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"}.get(key, key)
    with pytest.raises(MissingError, match=named):
        HybridConfig.from_dict({k: v for k, v in FAMILIES[family].items() if k != key})


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llama", "attention_bias", True),
        ("llama", "mlp_bias", True),
        ("llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("llama", "head_dim", 15),
        ("llama", "hidden_act", "gelu"),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "architectures", ["MistralForCausalLM"]),
        ("llama", "parallel_attn_mlp_res", True),
        ("llama", "residual_intermediate_size", 32),
        ("qwen2", "use_sliding_window", True),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("qwen2", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        ("qwen2", "rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),
        ("qwen3", "attention_bias", True),
        ("mixtral", "sliding_window", 4096),
        ("olmoe", "clip_qkv", 8.0),
        ("olmoe", "num_local_experts", 9),
        ("olmoe", "norm_topk_prob", "no"),
        ("qwen3_moe", "mlp_only_layers", [1]),
        ("qwen3_moe", "decoder_sparse_step", 2),
    ],
)
def test_another_computation_is_refused_by_name(family: str, key: str, value: Any) -> None:
    with pytest.raises(UserError, match="heads of width 15" if value == 15 else key):
        HybridConfig.from_dict({**FAMILIES[family], key: value})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_of_any_key_gives_a_config_or_an_error(data: st.DataObject) -> None:
    values = dict(FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))])
    keys = [*values, "architectures", "layer_types", "rope_parameters", "norm_topk_prob", "head_dim", "mlp_only_layers"]
    junk = [None, -1, 0, 3, 10**12, 0.5, float("nan"), "", "7", True, [], [1], ["full_attention"], {}, {"rope_type": "yarn"}]
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3)):
        values[key] = data.draw(st.sampled_from(junk))
    try:
        config = HybridConfig.from_dict(values)
    except OpenArcticError:
        return
    assert HybridConfig.from_dict(config.to_dict()) == config
    assert sum(spec.part == "head" for spec in tensor_table(config)) == (not config.tie_word_embeddings)


def test_the_same_keys_where_they_change_nothing() -> None:
    said = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "attention_bias": False}
    said |= {"layer_types": ["full_attention"] * 3, "rope_scaling": None, "architectures": ["Qwen3ForCausalLM"]}
    assert HybridConfig.from_dict({**FAMILIES["qwen3"], **said}) == CONFIGS["qwen3"]
    said = {"mlp_only_layers": [], "decoder_sparse_step": 1, "intermediate_size": 4096, "num_local_experts": 8}
    assert HybridConfig.from_dict({**FAMILIES["qwen3_moe"], **said}) == CONFIGS["qwen3_moe"]
    said = {"clip_qkv": None, "attention_bias": False, "sliding_window": None}
    assert HybridConfig.from_dict({**FAMILIES["olmoe"], **said}) == CONFIGS["olmoe"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {"qk_norm": "head"}),
        ("qwen2", {"qk_norm": "row", "qkv_bias": False}),
        ("qwen3", {"dense_intermediate_size": 32}),
        ("mixtral", {"qkv_bias": True}),
        ("mixtral", {"norm_topk_prob": False, "num_experts_per_tok": 2}),
        ("olmoe", {"parallel_attn_mlp_res": True}),
        ("olmoe", {"moe_layer_frequency": 2}),
    ],
)
def test_what_no_architecture_computes_is_no_config(family: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no known architecture has"):
        replace(CONFIGS[family], **changes)


def test_every_file_says_what_it_is(family: str, tmp_path: Path) -> None:
    file = read_gguf(write_model(tmp_path / "m.gguf", FAMILIES[family], "F32"))
    assert file.metadata["general.architecture"] == KNOWN[family].architecture
    assert replace(config_from_gguf(file), rms_norm_eps=1e-5) == CONFIGS[family]
    assert find(str(tmp_path / "m.gguf")).config == config_from_gguf(file)


def test_norm_topk_prob_against_the_rule_of_stock_runtimes_is_a_key_and_an_obstacle(tmp_path: Path) -> None:
    values = {**FAMILIES["olmoe"], "norm_topk_prob": True}
    file = read_gguf(write_model(tmp_path / "m.gguf", values, "F32"))
    assert file.metadata["olmoe.expert_weights_norm"] is True and config_from_gguf(file).renormalizes
    assert "norm_topk_prob is True" in stock_obstacles(HybridConfig.from_dict(values))[0]
    assert "num_key_value_heads is 2" in stock_obstacles(replace(CONFIGS["olmoe"], num_key_value_heads=2))[0]


def f32(*shape: int) -> TensorData:
    return "F32", shape, np.zeros(shape, np.float32).reshape(-1).view(np.uint8)


@pytest.mark.parametrize(
    ("family", "keys", "told"),
    [
        ("qwen2", {"qwen2.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ("qwen2", {"qwen2.attention.sliding_window": 4096}, "attention.sliding_window is 4096"),
        ("qwen3", {"qwen3.attention.value_length": 16}, "attention.key_length is 32"),
        ("qwen3", {"qwen3.rope.dimension_count": 16}, "rope.dimension_count is 16"),
        ("olmoe", {"olmoe.attention.clamp_kqv": 8.0}, "attention.clamp_kqv is 8.0"),
        ("olmoe", {"olmoe.expert_shared_count": 1}, "expert_shared_count is 1"),
        ("olmoe", {"olmoe.expert_gating_func": 2}, "expert_gating_func is 2"),
        ("mixtral", {"llama.expert_weights_norm": False}, "expert_weights_norm is False"),
        ("qwen3_moe", {"qwen3moe.expert_weights_scale": 2.5}, "expert_weights_scale is 2.5"),
        ("qwen3_moe", {"qwen3moe.expert_feed_forward_length": 48}, "has shape"),
        ("qwen3_moe", {"qwen3moe.leading_dense_block_count": 1}, "leading_dense_block_count is 1"),
    ],
)
def test_keys_of_another_computation_are_refused(family: str, keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    config = FAMILIES[family]
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", {})
    path = write_gguf(tmp_path / "m.gguf", {**metadata, **keys}, tensors)[0]
    with pytest.raises(OpenArcticError, match=told):
        open_source(path)


@pytest.mark.parametrize(
    ("family", "name", "tensor"),
    [
        ("llama", "rope_freqs.weight", f32(12)),
        ("qwen2", "blk.0.attn_v.bias", None),
        ("qwen2", "blk.0.attn_output.bias", f32(64)),
        ("qwen3", "blk.1.attn_q_norm.weight", None),
        ("qwen3", "blk.1.attn_q.bias", f32(128)),
        ("olmoe", "blk.1.attn_k_norm.weight", f32(16)),
        ("qwen3_moe", "blk.0.ffn_gate_shexp.weight", f32(32, 64)),
    ],
)
def test_tensors_are_exactly_the_models(family: str, name: str, tensor: TensorData | None, tmp_path: Path) -> None:
    config = FAMILIES[family]
    metadata, tensors = to_gguf(HybridConfig.from_dict(config), random_state(config), lambda *_: "F32", {})
    tensors = {**tensors, name: tensor} if tensor else {n: t for n, t in tensors.items() if n != name}
    path = write_gguf(tmp_path / "m.gguf", metadata, tensors)[0]
    with pytest.raises(CorruptError, match=name):
        find(str(path))


def test_names_in_a_checkpoint_are_the_familys(family: str, tmp_path: Path) -> None:
    folder = write_family(tmp_path, family)
    official = [name for spec in tensor_table(CONFIGS[family]) for name in spec.hf]
    stored = {stored_name(name, family) for name in official}
    assert len(stored) == len(official)
    with open_source(folder).checkpoint as checkpoint:  # type: ignore[union-attr]
        assert {name for header in checkpoint.headers for name in header.tensors} == stored
        assert set(checkpoint.names) == set(official)
    is_renamed = any("mlp.gate_proj" in name or ".mlp.experts.0.up_proj" in name for name in stored)
    assert is_renamed == (family != "mixtral")
    convert(open_source(folder), tmp_path / "again.gguf", ConvertOptions())
    convert(open_source(tmp_path / "again.gguf"), tmp_path / "again", ConvertOptions())
    assert_same(state_of(tmp_path / "again"), state_of(folder))
    assert find(str(folder)).config == CONFIGS[family]


def test_a_checkpoint_of_another_family_is_told_by_its_own_names(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen2")
    config = json.loads((folder / "config.json").read_text())
    for change, told in (
        ({"model_type": "llama", "architectures": None}, "3 tensors|9 tensors that its config does not know.*bias"),
        ({"model_type": "arctic", "architectures": None}, "config lacks|block_sparse_moe.mlp.w1"),
        ({"intermediate_size": 64}, "mlp.gate_proj.weight has shape"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(OpenArcticError, match=told):
            open_source(folder)


def test_experts_in_one_tensor_are_told(tmp_path: Path) -> None:
    config = {**FAMILIES["qwen3_moe"], "architectures": ["Qwen3MoeForCausalLM"]}
    tensors = {stored_name(name, "qwen3_moe"): tensor for name, tensor in raw_state(config).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if ".layers.0.mlp.experts." not in name}
    tensors["model.layers.0.mlp.experts.gate_up_proj"] = ("BF16", (8, 64, 64), np.zeros(8 * 64 * 64 * 2, np.uint8))
    with pytest.raises(MissingError, match=r"mlp\.experts\.0\.gate_proj") as caught:
        open_source(write_folder(tmp_path / "fused", config, tensors))
    assert "stored as one tensor" in str(caught.value.hint)


def test_what_is_arctics_alone_is_refused(family: str, tmp_path: Path) -> None:
    source = open_source(write_model(tmp_path / "m.gguf", FAMILIES[family], "F32"))
    with pytest.raises(UserError, match=f"collapsing kv heads cannot compute .* which this {family} model has"):
        plan_collapse(source)
    with pytest.raises(UserError, match="the training layout cannot"):
        convert(source, tmp_path / "stacked", ConvertOptions(layout="training"))


def test_a_conversion_keeps_the_other_keys_of_a_config(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen2")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2" and "qkv_bias" not in config and "parallel_attn_mlp_res" not in config
    (folder / "config.json").write_text(json.dumps({**config, "use_sliding_window": False}))
    convert(open_source(folder), tmp_path / "half", ConvertOptions(type="F16"))
    kept = json.loads((tmp_path / "half" / "config.json").read_text())
    assert kept == {**config, "use_sliding_window": False, "torch_dtype": "float16"}


def test_a_plain_llama_becomes_arctics_form_without_keys_of_its_own(tmp_path: Path) -> None:
    config = {k: v for k, v in FAMILIES["llama"].items() if k != "head_dim"}
    tensors = {stored_name(name, "llama"): tensor for name, tensor in raw_state(config).items()}
    said = {**config, "architectures": ["LlamaForCausalLM"], "mlp_bias": False, "pretraining_tp": 1}
    folder = write_folder(tmp_path / "llama", said, tensors)
    convert(open_source(folder), tmp_path / "arctic", ConvertOptions())
    made = json.loads((tmp_path / "arctic" / "config.json").read_text())
    assert made["model_type"] == "arctic" and "pretraining_tp" not in made
    assert HybridConfig.from_dict(made) == HybridConfig.from_dict(config)
    assert_same(state_of(tmp_path / "arctic"), raw_state(config))
