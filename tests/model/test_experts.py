"""Grouped expert products against a loop over the expert modules: outputs and gradients, in every form the experts can have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from openarctic.model import experts as module  # noqa: E402
from openarctic.model.experts import bare_matrices, combine_experts, combine_experts_reference, run_experts  # noqa: E402
from openarctic.model.mlp import MLP  # noqa: E402
from openarctic.model.routing import RoutingConfig, route  # noqa: E402

# tokens, hidden, width, experts, k, capacity factor, skew of the router (large: some experts stay idle)
CASES = [
    (40, 16, 24, 8, 2, None, 0.0),
    (40, 16, 24, 8, 2, None, 9.0),
    (33, 8, 8, 4, 4, None, 0.0),
    (17, 16, 8, 6, 1, None, 4.0),
    (64, 16, 24, 8, 2, 0.5, 1.0),
    (64, 16, 8, 5, 3, 0.25, 2.0),
    (1, 16, 24, 8, 2, None, 0.0),
    (12, 16, 8, 3, 2, 1e-6, 0.0),  # nothing is kept
]


def make(case: Any, dtype: Any = torch.float32) -> tuple[Any, Any, nn.ModuleList]:
    """Inputs, router logits and experts of a case."""
    tokens, hidden, width, count, _, _, skew = case
    generator = torch.Generator().manual_seed(tokens)
    experts = nn.ModuleList(MLP(hidden, width) for _ in range(count))
    for parameter in experts.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
    x = torch.randn(tokens, hidden, generator=generator).to(dtype).requires_grad_()
    logits = torch.randn(tokens, count, generator=generator)
    logits = (logits + skew * torch.linspace(1, -1, count)).requires_grad_()
    return x, logits, experts.to(dtype)


def outcome(combine: Any, case: Any, dtype: Any = torch.float32, prepare: Any = lambda experts: None) -> list[Any]:
    """The output and every gradient."""
    x, logits, experts = make(case, dtype)
    prepare(experts)
    factor = case[5]
    min_capacity = 0 if factor else 4
    config = RoutingConfig(capacity_factor=factor, min_capacity=min_capacity)
    chosen = route(logits, case[4], config, training=True)
    if factor == 1e-6:
        chosen = route(logits, case[4], RoutingConfig(), training=True)
        chosen = _with_nothing_kept(chosen)
    out = combine(x, chosen, experts)
    weigh = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    (out * weigh).sum().backward()
    parameters = [p.grad if p.grad is not None else torch.zeros_like(p) for p in experts.parameters() if p.requires_grad]
    return [out, x.grad, logits.grad if logits.grad is not None else torch.zeros_like(logits), *parameters]


def _with_nothing_kept(chosen: Any) -> Any:
    from dataclasses import replace

    none = torch.zeros_like(chosen.kept_Tk)
    return replace(chosen, kept_Tk=none, weights_Tk=chosen.weights_Tk * none, load_E=torch.zeros_like(chosen.load_E))


def assert_same(got: list[Any], wanted: list[Any], tolerance: float = 2e-6) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        scale = max(other.abs().max().item(), 1e-6)
        assert (one - other).abs().max().item() <= tolerance * max(scale, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_the_modules(case: Any) -> None:
    assert bare_matrices(make(case)[2]) is not None
    assert_same(outcome(combine_experts, case), outcome(combine_experts_reference, case))


@pytest.mark.parametrize("case", CASES[:-1], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_call_for_all_experts_is_the_modules(case: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on CUDA, here on a processor's kernel of the same name."""
    monkeypatch.setattr(module, "_can_group", lambda x, dtype, matrices: True)
    tolerance = 2e-6 if dtype == torch.float32 else 0.04
    assert_same(outcome(combine_experts, case, dtype), outcome(combine_experts_reference, case, dtype), tolerance)


@pytest.mark.parametrize(("hidden", "width", "fits"), [(64, 24, True), (64, 20, False), (36, 16, False), (65, 16, False)])
def test_one_call_needs_strides_of_16_bytes(hidden: int, width: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    on_cuda: Any = SimpleNamespace(device=torch.device("cuda"))
    matrices = bare_matrices([MLP(hidden, width), MLP(hidden, width)])
    assert matrices is not None
    assert module._can_group(on_cuda, torch.bfloat16, matrices) is fits
    assert not module._can_group(on_cuda, torch.float32, matrices)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_observed_experts_are_called(case: Any) -> None:
    seen: list[int] = []

    def observe(experts: nn.ModuleList) -> None:
        for expert in experts:
            expert.w2.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        assert bare_matrices(experts) is None

    got = outcome(combine_experts, case, prepare=observe)
    assert_same(got, outcome(combine_experts_reference, case))
    assert len(seen) == case[3], "an idle expert in training is called too, so that its gradients exist"


def test_idle_experts_have_gradients_of_zero() -> None:
    case = CASES[1]
    x, logits, experts = make(case)
    chosen = route(logits, case[4], RoutingConfig(), training=True)
    assert (chosen.load_E == 0).any()
    combine_experts(x, chosen, experts).sum().backward()
    for load, expert in zip(chosen.load_E.tolist(), experts, strict=True):
        assert all((p.grad.abs().max() > 0) == (load > 0) for p in expert.parameters())


def test_frozen_matrices_get_no_gradient() -> None:
    def freeze(experts: nn.ModuleList) -> None:
        for expert in experts:
            expert.w1.weight.requires_grad_(False)
        for parameter in experts[0].parameters():
            parameter.requires_grad_(False)

    assert_same(outcome(combine_experts, CASES[0], prepare=freeze), outcome(combine_experts_reference, CASES[0], prepare=freeze))


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_bf16_and_autocast(case: Any) -> None:
    assert_same(outcome(combine_experts, case, torch.bfloat16), outcome(combine_experts_reference, case, torch.bfloat16), 0.04)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = outcome(combine_experts, case), outcome(combine_experts_reference, case)
    assert_same(got, wanted, 0.04)


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    experts = nn.ModuleList(MLP(4, 3) for _ in range(3)).double()
    logits = torch.randn(6, 3).double().requires_grad_()
    x = torch.randn(6, 4).double().requires_grad_()
    counts = [2, 0, 4]

    def run(x: Any, *weights: Any) -> Any:
        return module._Products.apply(x, None, None, counts, *weights)

    assert torch.autograd.gradcheck(run, (x, *bare_matrices(experts)))
    chosen = route(logits.float(), 2, RoutingConfig(), training=True)
    rows, _ = module.sort_by_expert(chosen)

    def combine(x: Any, weight: Any, *weights: Any) -> Any:
        return module._Scatter.apply(module._Products.apply(x, weight, rows, rows.counts, *weights), rows)

    assert torch.autograd.gradcheck(combine, (x, torch.rand(12).double().requires_grad_(), *bare_matrices(experts)))


def test_rows_that_came_from_elsewhere() -> None:
    """What a process runs that holds some of the experts: rows already sorted."""
    x, _, experts = make(CASES[0])
    counts = [5, 0, 7, 1, 0, 20, 7, 0]
    parts = torch.cat([expert(rows) for expert, rows in zip(experts, x.split(counts), strict=True)])
    torch.testing.assert_close(run_experts(x, counts, experts), parts)


def test_experts_with_adapters_are_called() -> None:
    peft = pytest.importorskip("peft")

    class Holder(nn.Module):
        def __init__(self, experts: nn.ModuleList) -> None:
            super().__init__()
            self.experts = experts

    x, logits, experts = make(CASES[0])
    holder = Holder(experts)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["w1", "w2"], r=2, init_lora_weights=False), holder)
    assert bare_matrices(experts) is None
    chosen = route(logits, 2, RoutingConfig(), training=True)
    torch.testing.assert_close(combine_experts(x, chosen, experts), combine_experts_reference(x, chosen, experts))
