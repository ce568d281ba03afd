"""A config says everything and nothing that contradicts itself; whatever is wrong is told, never a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from openarctic.errors import MissingError, UserError
from openarctic.formats import HybridConfig
from tests.tiny import LAYOUTS, tiny_config

REQUIRED = set(tiny_config())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_survives_the_way_through_json(layout: str) -> None:
    config = HybridConfig.from_dict(LAYOUTS[layout])
    assert HybridConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("key", sorted(REQUIRED))
def test_no_key_has_a_default(key: str) -> None:
    with pytest.raises(MissingError, match=key):
        HybridConfig.from_dict({k: v for k, v in tiny_config().items() if k != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("num_hidden_layers", 0),
        ("num_local_experts", True),
        ("num_local_experts", -1),
        ("num_local_experts", 10**12),
        ("num_hidden_layers", 10**9),
        ("num_experts_per_tok", 2.5),
        ("num_experts_per_tok", "2"),
        ("num_experts_per_tok", 9),
        ("parallel_attn_mlp_res", "false"),
        ("parallel_attn_mlp_res", []),
        ("use_residual", {}),
        ("use_residual", False),
        ("tie_word_embeddings", "false"),
        ("rope_theta", float("nan")),
        ("rope_scaling", 2.0),
        ("rope_scaling", {"type": "linear", "factor": 2}),
        ("rope_parameters", "default"),
        ("sliding_window", 1024),
        ("hidden_act", "gelu"),
        ("model_type", "gpt2"),
        ("architectures", ["MixtralForCausalLM"]),
        ("architectures", "ArcticForCausalLM"),
        ("architectures", []),
        ("head_dim", -16),
        ("qkv_bias", "yes"),
        ("moe_layers", [0, 3]),
        ("moe_layers", [1, 0]),
        ("moe_layers", []),
        ("moe_layers", "01"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization", {"q_bits": 8}),
        ("partial_rotary_factor", 0.5),
        ("rope_parameters", {"rope_theta": 5e5}),
        ("bos_token_id", 64),
        ("bos_token_id", [1]),
        ("eos_token_id", -1),
        ("eos_token_id", "2"),
        ("eos_token_id", True),
        ("eos_token_id", [2, 64]),
    ],
)
def test_a_wrong_value_is_told_by_name(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        HybridConfig.from_dict(tiny_config(**{key: value}))


@pytest.mark.parametrize(("key", "value"), [("head_dim", 32), ("qkv_bias", True)])
def test_extensions_are_for_models_with_experts_beside_attention(key: str, value: Any) -> None:
    config = HybridConfig.from_dict(tiny_config(**{key: value}))
    assert config.is_arctic and config.to_dict()[key] == value
    assert HybridConfig.from_dict(config.to_dict()) == config
    for other in ({"parallel_attn_mlp_res": False}, {"num_local_experts": 0}):
        with pytest.raises(UserError, match=key):
            HybridConfig.from_dict(tiny_config(**{key: value}, **other))


def test_layers_with_experts_by_name_or_by_frequency() -> None:
    config = HybridConfig.from_dict(tiny_config(moe_layers=[0, 1]))
    assert config.moe_layers == (0, 1) and [config.is_moe_layer(i) for i in range(3)] == [True, True, False]
    assert HybridConfig.from_dict(config.to_dict()) == config and config.to_dict()["moe_layers"] == [0, 1]
    assert HybridConfig.from_dict(tiny_config(moe_layers=[1])) == HybridConfig.from_dict(tiny_config(moe_layer_frequency=2))
    for other in ({"moe_layer_frequency": 2}, {"num_local_experts": 0}):
        with pytest.raises(UserError, match="moe_layers beside"):
            HybridConfig.from_dict(tiny_config(moe_layers=[0, 1], **other))


def test_the_same_keys_where_they_change_nothing() -> None:
    said = {
        "architectures": ["ArcticForCausalLM"],
        "head_dim": 16,
        "attention_bias": False,
        "mlp_bias": None,
        "quantization": None,
        "quantization_config": {"quant_method": "bitsandbytes"},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000},
    }
    assert HybridConfig.from_dict(tiny_config(**said)) == HybridConfig.from_dict(tiny_config())


def test_of_several_end_tokens_the_first_is_the_models() -> None:
    assert HybridConfig.from_dict(tiny_config(eos_token_id=[63, 0])).eos_token_id == 63
    assert HybridConfig.from_dict(tiny_config(eos_token_id=[])).eos_token_id is None
