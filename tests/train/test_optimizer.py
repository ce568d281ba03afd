"""Muon against its definition, computed another way; and which parameter goes where."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from openarctic.train.config import TrainConfig  # noqa: E402
from openarctic.train.optimizer import Muon, build_optimizers, orthogonalised, set_rate  # noqa: E402

from .worlds import tiny_hybrid  # noqa: E402


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32), (3, 20, 30)])
def test_singular_values_become_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    got = orthogonalised(matrices)
    values = torch.linalg.svdvals(got)
    assert 0.5 < values.min() and values.max() < 1.3  # a square random matrix has tiny singular values, which stay a bit lower
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    in_its_basis = u.mT @ got @ vh.mT
    off_diagonal = in_its_basis - torch.diag_embed(torch.diagonal(in_its_basis, dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-10


def test_newton_schulz_is_its_quintic_on_every_singular_value() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(10, 16, dtype=torch.float64)
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonalised(matrix), u @ torch.diag(values) @ vh, atol=1e-10)


def test_steps_equal_a_plain_recomputation() -> None:
    torch.manual_seed(2)
    start = [
        torch.randn(6, 9, dtype=torch.float64),
        torch.randn(6, 9, dtype=torch.float64),
        torch.randn(8, 4, dtype=torch.float64),
    ]
    gradients = [[torch.randn_like(w) for w in start] for _ in range(3)]
    parameters = [torch.nn.Parameter(w.clone()) for w in start]
    optimizer = Muon([{"params": parameters, "weight_decay": 0.1}], lr=0.02, momentum=0.9)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()

    for i, weight in enumerate(start):
        momentum = torch.zeros_like(weight)
        for step in gradients:
            momentum = 0.9 * momentum + 0.1 * step[i]
            update = orthogonalised(0.1 * step[i] + 0.9 * momentum)
            weight = weight - 0.02 * (0.1 * weight + 0.2 * math.sqrt(max(weight.shape)) * update)
        assert torch.allclose(parameters[i], weight, atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_it_agrees_with_torch_muon_up_to_its_bf16() -> None:
    torch.manual_seed(3)
    ours, theirs = (torch.nn.Parameter(torch.ones(12, 20)) for _ in range(2))
    first = Muon([{"params": [ours]}], lr=0.01, momentum=0.95, weight_decay=0.1)
    second = torch.optim.Muon([theirs], lr=0.01, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(12, 20)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    moved = (1 - theirs).norm()
    assert (ours - theirs).norm() < 0.03 * moved


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = tiny_hybrid()
    names = {id(p): name for name, p in model.named_parameters()}
    adamw, muon = build_optimizers(model, TrainConfig(optimizer="muon", expert_lr=1e-3))
    in_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    in_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert in_muon | in_adamw == set(names.values()) and not in_muon & in_adamw
    assert in_adamw == {n for n in names.values() if "norm" in n or "embed" in n or "lm_head" in n or ".gate." in n}


def test_norms_do_not_decay_and_experts_have_their_own_rate() -> None:
    model = tiny_hybrid()
    names = {id(p): name for name, p in model.named_parameters()}
    (optimizer,) = build_optimizers(model, TrainConfig(lr=1e-3, expert_lr=5e-3, weight_decay=0.1))
    set_rate([optimizer], 0.5)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["weight_decay"] == (0.0 if "norm" in name else 0.1)
            assert group["lr"] == (2.5e-3 if ".experts." in name or ".gate." in name else 5e-4)
