"""An upcycled model starts as the model it came from."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import UserError  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.train.upcycle import upcycle  # noqa: E402

from .test_packing import tiny_model  # noqa: E402

EXPERTS = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 32,
    "moe_layer_frequency": 2,
    "seed": 0,
}


def dense_model() -> ArcticForCausalLM:
    torch.manual_seed(1)
    return ArcticForCausalLM(ArcticConfig.from_shape(replace(tiny_model().config.shape, num_local_experts=0)))


def test_logits_are_unchanged() -> None:
    dense = dense_model()
    hybrid = upcycle(dense.config, dense.state_dict(), **EXPERTS)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        difference = (dense(ids).logits - hybrid(ids).logits).abs().max().item()
    assert difference < 1e-5
    assert [hybrid.config.is_moe_layer(i) for i in range(4)] == [False, True, False, True]


def test_experts_get_gradients() -> None:
    dense = dense_model()
    hybrid = upcycle(dense.config, dense.state_dict(), **EXPERTS)
    ids = torch.arange(24)[None] % 50
    hybrid(ids, labels=ids).loss.backward()
    grads = [p.grad for n, p in hybrid.named_parameters() if "experts" in n and "w2" in n]
    assert any(g is not None and g.abs().max() > 0 for g in grads)


def test_experts_wider_than_the_mlp_are_refused() -> None:
    dense = dense_model()
    with pytest.raises(UserError, match="wider"):
        upcycle(dense.config, dense.state_dict(), **{**EXPERTS, "intermediate_size": 512})


def test_a_hybrid_is_not_upcycled_again() -> None:
    model = tiny_model()
    with pytest.raises(UserError, match="already"):
        upcycle(model.config, model.state_dict(), **EXPERTS)
