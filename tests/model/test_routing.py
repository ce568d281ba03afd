"""Routing against the published worked example, against readable forms of every rule, and against chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import UserError  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.model.routing import (  # noqa: E402
    RoutingConfig,
    capacity,
    jitter,
    keep,
    keep_reference,
    route,
    updated_bias,
    wanted_order,
    wanted_order_reference,
)
from tests.tiny import IDS, tiny_config  # noqa: E402

RULES = ("position", "probability", "random")
# spec/arctic-architecture.md section 6.1
PROBS = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.15, 0.35], [0.25, 0.55, 0.2], [0.8, 0.05, 0.15], [0.1, 0.3, 0.6]]
CHOSEN = [[0, 1], [0, 1], [0, 2], [1, 0], [0, 2], [2, 1]]
WEIGHTS = {
    1.0: [[0.7778, 0.2222], [0.6667, 0.3333], [0.5882, 0.4118], [1, 0], [0.8421, 0.1579], [0.6667, 0.3333]],
    0.5: [[0.7778, 0.2222], [1, 0], [0, 1], [1, 0], [0, 0], [1, 0]],
}


def example(**config: Any) -> Any:
    return route(torch.tensor(PROBS).log(), 2, RoutingConfig(min_capacity=0, **config), training=True)


@pytest.mark.parametrize("factor", WEIGHTS)
def test_the_worked_example_of_deepspeed(factor: float) -> None:
    got = example(capacity_factor=factor, aux_loss="first_choice")
    assert got.chosen_Tk.tolist() == CHOSEN
    assert [[round(w, 4) for w in row] for row in got.weights_Tk.tolist()] == WEIGHTS[factor]
    assert got.kept_Tk.tolist() == [[w > 0 for w in row] for row in WEIGHTS[factor]]
    assert got.balance.item() == pytest.approx(1.2375, abs=1e-6)
    limit = {1.0: 4, 0.5: 2}[factor]
    assert capacity(6, 3, 2, factor, 0) == limit == got.load_E.max()
    assert got.dropped.item() == 12 - got.load_E.sum().item() == (~got.kept_Tk).sum().item()
    assert got.demand_E.tolist() == [5, 4, 3]


def test_positions_by_running_counts_of_one_hot_masks() -> None:
    """DeepSpeed's own way to the positions, for any k: offsets of a choice count all earlier choices, dropped ones too."""
    generator = torch.Generator().manual_seed(0)
    for tokens, experts, k, limit in ((50, 4, 2, 20), (31, 7, 3, 9), (64, 8, 4, 33), (9, 3, 1, 2)):
        chosen = torch.rand(tokens, experts, generator=generator).topk(k).indices
        offset, kept = torch.zeros(experts, dtype=torch.long), []
        for j in range(k):
            mask = torch.nn.functional.one_hot(chosen[:, j], experts)
            places = mask.cumsum(0) - 1 + offset
            kept.append((places * mask).sum(1) < limit)
            offset += mask.sum(0)
        got = keep(chosen, wanted_order(chosen.float(), "position"), limit)
        assert torch.equal(got, torch.stack(kept, 1)) and not got.all()


@pytest.mark.parametrize("rule", RULES)
def test_dropping_is_its_readable_form(rule: Any) -> None:
    rng = np.random.default_rng(1)
    for seed in range(60):
        tokens, experts = int(rng.integers(1, 40)), int(rng.integers(1, 9))
        k, limit = int(rng.integers(1, experts + 1)), int(rng.integers(0, 12))
        probs = torch.from_numpy(rng.dirichlet(np.ones(experts), tokens)).float()
        if seed % 3 == 0:
            probs = (probs * 4).round() / 4  # many ties
        probs_Tk, chosen_Tk = probs.topk(k)
        orders = (order(probs_Tk, rule, torch.Generator().manual_seed(seed)) for order in (wanted_order, wanted_order_reference))
        got, wanted = keep(chosen_Tk, next(orders), limit), keep_reference(chosen_Tk, next(orders), limit)
        assert torch.equal(got, wanted)


def test_probability_keeps_the_most_wanted() -> None:
    got = example(capacity_factor=0.5, drop="probability")
    # Expert 0 takes t4 (.8) and t0 (.7); expert 1 takes t3 (.55) and, of t1 and t5 with .3 each, the earlier.
    assert got.kept_Tk.tolist() == [[True, False], [False, True], [False, True], [True, False], [True, False], [True, False]]
    assert got.weights_Tk[2].tolist() == [0, 1]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_random_selection_is_uniform(k: int) -> None:
    """Chi-square over which of an expert's routes stay: neither the token nor the rank of the choice matters."""
    tokens, experts, limit, runs = 24, 4, 3, 2000
    chosen = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(3)).topk(k).indices
    generator = torch.Generator().manual_seed(4)
    kept = sum(keep(chosen, wanted_order(chosen.float(), "random", generator), limit).double() for _ in range(runs))
    for e in range(experts):
        own = kept[chosen == e]
        share = limit / len(own)
        # Of n routes exactly `limit` stay, so the counts are correlated: this sum has n - 1 degrees of freedom.
        statistic = ((own - runs * share) ** 2).sum() / (runs * share * (1 - share)) * (len(own) - 1) / len(own)
        freedom = len(own) - 1
        assert abs(statistic.item() - freedom) < 4 * math.sqrt(2 * freedom), (e, statistic)
        assert own.sum() == runs * limit


def test_earlier_tokens_win_by_position_and_not_by_chance() -> None:
    chosen = torch.zeros(100, 1, dtype=torch.long)
    by_position = keep(chosen, wanted_order(chosen.float(), "position"), 10)
    by_chance = keep(chosen, wanted_order(chosen.float(), "random", torch.Generator().manual_seed(0)), 10)
    assert by_position[:10].all() and by_position.sum() == by_chance.sum() == 10
    assert by_chance[50:].any()


def test_capacity_is_deepspeeds_to_the_last_bit() -> None:
    """DeepSpeed multiplies in float32: an operation of torch on a tensor of one number."""
    for tokens in (1, 10, 77, 2048, 4095):
        for experts in (3, 8, 60, 128):
            for k in (1, 2, 3):
                for factor in (0.1, 1.0, 1.1, 1.25, 2.0):
                    wanted = torch.ceil((tokens / experts) * torch.tensor(factor * k)).to(torch.int64).item()
                    assert capacity(tokens, experts, k, factor, 0) == wanted
                    assert capacity(tokens, experts, k, factor, 4) == max(wanted, 4)
    assert capacity(10, 128, 2, 1.0, 0) == 1


def test_dropless_unless_training() -> None:
    config = RoutingConfig(capacity_factor=0.25, min_capacity=0)
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert route(logits, 2, config, training=True).dropped > 0
    quiet = route(logits, 2, config, training=False)
    assert quiet.kept_Tk.all() and quiet.dropped == 0
    torch.testing.assert_close(quiet.weights_Tk.sum(1), torch.ones(64))


def test_renormalising_before_or_after_drops() -> None:
    after, before = (example(capacity_factor=0.5, renormalize_after_drop=flag) for flag in (True, False))
    assert after.weights_Tk[1].tolist() == [1, 0]
    assert before.weights_Tk[1].tolist() == pytest.approx([0.6667, 0], abs=1e-4)
    assert before.weights_Tk[4].tolist() == after.weights_Tk[4].tolist() == [0, 0]
    single = route(torch.tensor(PROBS).log(), 1, RoutingConfig(), training=True)
    torch.testing.assert_close(single.weights_Tk[:, 0], torch.tensor(PROBS).amax(1))


def test_gradient_of_dropped_routes_is_finite_and_their_weight_none() -> None:
    logits = torch.tensor(PROBS).log().requires_grad_()
    route(logits, 2, RoutingConfig(capacity_factor=0.5, min_capacity=0), training=True).weights_Tk[4].sum().backward()
    assert torch.equal(logits.grad, torch.zeros(6, 3))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_balancing_losses_at_balance(k: int) -> None:
    """Uniform probabilities and every expert chosen equally often give k, or 1 with first choices only."""
    experts = 6
    logits = torch.full((experts, experts), 0.0)
    for token in range(experts):
        for j in range(k):
            logits[token, (token + j) % experts] = 1e-4 * (k - j)
    for form, value in (("all_choices", k), ("first_choice", 1)):
        got = route(logits, k, RoutingConfig(aux_loss=form), training=True)
        assert got.balance.item() == pytest.approx(value, abs=1e-5)
        assert got.entropy.item() == pytest.approx(math.log(experts), abs=1e-5)


def test_balancing_over_processes_is_that_of_one_with_all_tokens() -> None:
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    config = RoutingConfig()
    whole = route(logits, 2, config, training=True).balance
    counts = [torch.cat((route(part, 2, config, training=True).demand_E, torch.tensor([20]))) for part in logits.split(20)]
    parts = [route(part, 2, config, training=True, total=lambda _: sum(counts).float()).balance for part in logits.split(20)]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_z_loss_is_the_mean_squared_log_of_the_partition_sum() -> None:
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    got = route(logits, 2, RoutingConfig(), training=True).z_loss
    assert got.item() == pytest.approx(float(np.mean(np.log(np.exp(logits.numpy()).sum(1)) ** 2)), rel=1e-5)


def test_jitter_stays_in_its_bounds_and_is_for_the_router_alone() -> None:
    ones = torch.ones(1000, 8)
    noisy = jitter(ones, 0.1, torch.Generator().manual_seed(0))
    assert 0.9 <= noisy.min() < 0.92 and 1.08 < noisy.max() <= 1.1
    model = tiny_model().train()
    model.set_routing(RoutingConfig(jitter=0.5))
    ids = torch.tensor([IDS])
    first, second = (model(ids, output_router_logits=True) for _ in range(2))
    assert not torch.equal(first.router_logits[0], second.router_logits[0])
    model.eval()
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("changes", [{"capacity_factor": 0.0}, {"min_capacity": -1}, {"jitter": 1.0}, {"z_loss_coef": -1.0}])
def test_senseless_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        RoutingConfig(**changes)
    with pytest.raises(UserError, match="drop is 'last'"):
        RoutingConfig(drop="last")  # type: ignore[arg-type]


def test_a_bias_balances_a_skewed_router_without_a_loss() -> None:
    """A router that prefers two of eight experts: the bias evens the choices out, and weights stay those of the probabilities."""
    generator = torch.Generator().manual_seed(0)
    skew, bias = torch.tensor([2.0, 1.5, 0, 0, 0, 0, 0, 0]), torch.zeros(8)
    shares = []
    for _ in range(400):
        logits = torch.randn(256, 8, generator=generator) + skew
        got = route(logits, 2, RoutingConfig(), training=True, bias_E=bias)
        shares.append(got.demand_E / got.demand_E.sum())
        bias = updated_bias(bias, got.demand_E, 0.005)
    first, last = shares[0], torch.stack(shares[-50:]).mean(0)
    assert first.max() > 0.3 and abs(last - 1 / 8).max() < 0.01
    probs = logits.softmax(-1).gather(1, got.chosen_Tk)
    torch.testing.assert_close(got.weights_Tk, probs / probs.sum(1, keepdim=True))


def tiny_model(**changes: Any) -> ArcticForCausalLM:
    torch.manual_seed(0)
    return ArcticForCausalLM(ArcticConfig(**tiny_config(**changes)))


def test_the_model_balances_itself_and_its_bias_is_state() -> None:
    model = tiny_model(num_hidden_layers=2).train()
    ids = torch.randint(0, 64, (4, 64), generator=torch.Generator().manual_seed(0))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.block_sparse_moe.gate.weight, std=0.1)
    model.set_routing(RoutingConfig(bias_update_rate=0.004))
    spreads = []
    with torch.no_grad():
        for _ in range(60):
            spreads.append([stats.demand_E.float().std().item() for stats in model(ids).routes])
            model.update_router_biases()
    assert all(late < early / 2 for early, late in zip(spreads[0], spreads[-1], strict=True)), (spreads[0], spreads[-1])
    state = model.state_dict()
    biases = [name for name in state if name.endswith("choice_bias")]
    assert len(biases) == 2
    other = tiny_model(num_hidden_layers=2)
    other.set_routing(RoutingConfig(bias_update_rate=0.004))
    other.load_state_dict(state)
    assert torch.equal(other.eval()(ids).logits, model.eval()(ids).logits)
    model.set_routing(RoutingConfig())
    assert not any(name.endswith("choice_bias") for name in model.state_dict())


def test_recomputed_layers_are_counted_once() -> None:
    demands = []
    for again in (False, True):
        model = tiny_model().train()
        if again:
            model.gradient_checkpointing_enable()
        model.set_routing(RoutingConfig(bias_update_rate=0.01))
        ids = torch.tensor([IDS])
        model(ids, labels=ids).loss.backward()
        demands.append([layer.block_sparse_moe.demand_E for layer in model.model.layers])
    assert all(torch.equal(a, b) and a.sum() == 24 for a, b in zip(*demands, strict=True))


def test_losses_and_routes_of_the_model() -> None:
    model = tiny_model().train()
    ids = torch.tensor([IDS, IDS[::-1]])
    plain = model(ids, labels=ids)
    assert plain.z_loss > 0 and len(plain.routes) == 3
    assert all(stats.load_E.sum() == 48 and stats.dropped == 0 and not stats.entropy.requires_grad for stats in plain.routes)
    model.set_routing(RoutingConfig(z_loss_coef=0.5))
    torch.testing.assert_close(model(ids, labels=ids).loss, plain.loss + 0.5 * plain.z_loss)
    model.set_routing(RoutingConfig(capacity_factor=0.5, min_capacity=1))
    dropping = model(ids, labels=ids)
    assert all(stats.dropped > 0 and stats.load_E.max() <= 6 for stats in dropping.routes)
    assert model.eval()(ids).routes[0].dropped == 0


def test_the_router_is_float32_under_autocast_and_for_bf16_weights() -> None:
    model = tiny_model().train()
    ids = torch.tensor([IDS])
    inputs: list[Any] = []
    moe = model.model.layers[0].block_sparse_moe
    moe.gate.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, output_router_logits=True).router_logits[0]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, inputs[0].float() @ moe.gate.weight.T, rtol=0, atol=1e-6)
    half = model.to(torch.bfloat16)
    assert half(ids, output_router_logits=True).router_logits[0].dtype == torch.float32
    assert half.eval()(ids, output_router_logits=True).router_logits[0].dtype == torch.bfloat16, "as published"
