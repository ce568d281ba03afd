"""Packed training is training one by one: same loss, same gradients."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.train.packing import Pack, Segment, pack_loss  # noqa: E402


def tiny_model() -> ArcticForCausalLM:
    torch.manual_seed(0)
    config = ArcticConfig(
        vocab_size=50,
        hidden_size=48,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_layer_frequency=2,
        parallel_attn_mlp_res=True,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        residual_intermediate_size=64,
        dense_intermediate_size=64,
    )
    return ArcticForCausalLM(config).double()


def tiny_pack() -> Pack:
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(50) for _ in range(count)]

    return Pack(ids(20), [Segment(ids(rng.randrange(3, 9)), ids(rng.randrange(2, 7))) for _ in range(5)])


def gradients(model: ArcticForCausalLM) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_packed_equals_one_by_one() -> None:
    model, pack = tiny_model(), tiny_pack()
    packed = pack_loss(model, pack)
    packed.cross_entropy.backward()
    together = gradients(model)
    model.zero_grad()

    total = 0.0
    for segment in pack.segments:
        ids = torch.tensor([pack.prefix + segment.prompt + segment.target])
        logits = model(ids).logits.double()[0]
        start = ids.shape[1] - len(segment.target)
        loss = F.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum") / packed.targets
        loss.backward()
        total += loss.item()
    assert packed.cross_entropy.item() == pytest.approx(total, rel=1e-6)
    for a, b in zip(together, gradients(model), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_targets_are_counted() -> None:
    pack = tiny_pack()
    assert pack_loss(tiny_model(), pack).targets == sum(len(s.target) for s in pack.segments)
