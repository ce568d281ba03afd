"""Packed training is training one by one: same loss, same gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.model.hybrid import SparseMoE  # noqa: E402
from openarctic.model.routing import Route, RoutingConfig, mixing_weights  # noqa: E402
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


def one_by_one(model: ArcticForCausalLM, pack: Pack) -> Iterator[torch.Tensor]:
    """Each example's loss, summed over its targets."""
    for segment in pack.segments:
        ids = torch.tensor([pack.prefix + segment.prompt + segment.target])
        logits = model(ids).logits.double()[0]
        first = ids.shape[1] - len(segment.target)
        yield F.cross_entropy(logits[first - 1 : -1], ids[0, first:], reduction="sum")


def assert_same(model: ArcticForCausalLM, loss: torch.Tensor, others: Callable[[], torch.Tensor]) -> None:
    """Same number, same gradients of all parameters."""
    loss.backward()
    together = gradients(model)
    model.zero_grad()
    other = others()
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)
    for a, b in zip(together, gradients(model), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_packed_equals_one_by_one() -> None:
    model, pack = tiny_model(), tiny_pack()
    packed = pack_loss(model, pack)
    assert_same(model, packed.cross_entropy, lambda: torch.stack(list(one_by_one(model, pack))).sum() / packed.targets)


def test_the_balancing_loss_counts_every_computed_token_once() -> None:
    """Routers see the schema once and every segment; the loss over those rows, gathered one by one, is the packed one."""
    model, pack = tiny_model(), tiny_pack()
    num_experts, top_k = model.config.num_local_experts, model.config.num_experts_per_tok

    def gathered() -> torch.Tensor:
        rows: list[list[torch.Tensor]] = []
        for segment in pack.segments:
            ids = torch.tensor([pack.prefix + segment.prompt + segment.target])
            layers = model(ids, output_router_logits=True).router_logits
            rows.append([logits if not rows else logits[len(pack.prefix) :] for logits in layers])
        total = torch.zeros((), dtype=torch.float64)
        for logits_TE in map(torch.cat, zip(*rows, strict=True)):
            probs_TE = logits_TE.softmax(-1)
            share_E = F.one_hot(probs_TE.topk(top_k).indices, num_experts).double().mean(0).sum(0)
            total = total + num_experts * (share_E * probs_TE.mean(0)).sum()
        return total

    assert_same(model, pack_loss(model, pack).aux_loss.double(), gathered)


@pytest.mark.parametrize("drop", ["position", "probability", "random"])
def test_with_a_capacity_what_is_dropped_is_the_only_difference(drop: str) -> None:
    """A pack is one group of tokens for its capacity. One by one, with the same routes dropped, all is equal."""
    model, pack = tiny_model().train(), tiny_pack()
    config = RoutingConfig(capacity_factor=0.8, min_capacity=0, drop=drop)  # type: ignore[arg-type]
    model.set_routing(config)
    moes = [m for m in model.modules() if isinstance(m, SparseMoE)]
    kept: dict[SparseMoE, torch.Tensor] = {}

    def record(moe: SparseMoE) -> Callable[..., torch.Tensor]:
        run = moe.dispatch

        def dispatch(x_TH: torch.Tensor, route: Route, experts: torch.nn.ModuleList) -> torch.Tensor:
            kept[moe] = route.kept_Tk
            return run(x_TH, route, experts)

        return dispatch

    originals = {moe: moe.dispatch for moe in moes}
    for moe in moes:
        moe.dispatch = record(moe)
    packed = pack_loss(model, pack)
    assert all(0 < mask.double().mean() < 1 for mask in kept.values())

    model.set_routing(RoutingConfig())
    rows: list[int] = []

    def replay(moe: SparseMoE) -> Callable[..., torch.Tensor]:
        def dispatch(x_TH: torch.Tensor, route: Route, experts: torch.nn.ModuleList) -> torch.Tensor:
            mask_Tk = kept[moe][rows]
            probs_Tk = route.logits_TE.float().softmax(-1).gather(1, route.chosen_Tk)
            weights_Tk = mixing_weights(probs_Tk, mask_Tk, config.renormalize_after_drop)
            return originals[moe](x_TH, replace(route, kept_Tk=mask_Tk, weights_Tk=weights_Tk), experts)

        return dispatch

    for moe in moes:
        moe.dispatch = replay(moe)

    def replayed() -> torch.Tensor:
        total, start = torch.zeros((), dtype=torch.float64), len(pack.prefix)
        for segment in pack.segments:
            rows[:] = [*range(len(pack.prefix)), *range(start, start + len(segment))]
            start += len(segment)
            [loss] = one_by_one(model, Pack(pack.prefix, [segment]))
            total = total + loss / packed.targets
        return total

    assert_same(model, packed.cross_entropy, replayed)


def test_targets_are_counted() -> None:
    pack = tiny_pack()
    assert pack_loss(tiny_model(), pack).targets == sum(len(s.target) for s in pack.segments)
