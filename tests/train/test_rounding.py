"""Training through a file's precision: the file's own numbers forward, straight gradients back."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import UserError  # noqa: E402
from openarctic.formats.quants import dequantize, quantize  # noqa: E402
from openarctic.train.packing import pack_loss  # noqa: E402
from openarctic.train.rounding import check_types, rounded, rounded_in_torch, through_types  # noqa: E402

from .test_packing import tiny_model, tiny_pack  # noqa: E402

TYPES = ("Q8_0", "Q4_1", "Q5_1")


@pytest.mark.parametrize("type", TYPES)
def test_torch_and_the_files_encoder_agree_to_the_bit(type: str) -> None:
    values = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 64)[:, None]
    values[3, :32], values[4, :32], values[5, 5] = 0.0, 0.25, 1e4  # blocks without a range, and one with a far value
    raw = quantize(values.numpy(), type)
    assert torch.equal(rounded_in_torch(values, type), torch.from_numpy(np.array(dequantize(raw, type, (64, 96)))))
    assert torch.equal(rounded(values, type), rounded_in_torch(values, type))
    assert torch.equal(rounded(rounded(values, "Q4_1"), "Q4_1"), rounded(values, "Q4_1"))  # on its grid nothing moves


def test_an_unknown_type_is_told() -> None:
    with pytest.raises(UserError, match="Q6_K"):
        rounded_in_torch(torch.zeros(1, 32), "Q6_K")
    with pytest.raises(UserError, match="Q6_K"):
        check_types(torch.nn.Linear(32, 1), {"weight": "Q6_K"})
    with pytest.raises(UserError, match="rows of 48 values"):
        check_types(torch.nn.Linear(48, 1), {"weight": "Q4_1"})
    check_types(torch.nn.Linear(64, 1), {"weight": "Q4_1"})


def test_the_loss_is_that_of_rounded_weights_and_gradients_reach_the_parameters() -> None:
    model, pack = tiny_model().float(), tiny_pack()
    name = "model.layers.1.residual_mlp.w2.weight"
    weight = dict(model.named_parameters())[name]
    through_types(model, {name: "Q4_1"}, lambda m: pack_loss(m, pack)).cross_entropy.backward()
    loss = through_types(model, {name: "Q4_1"}, lambda m: pack_loss(m, pack)).cross_entropy.item()
    assert weight.grad is not None
    straight, before = weight.grad.clone(), weight.detach().clone()

    # Another way to the same: put the rounded numbers into the weight.
    model.zero_grad()
    with torch.no_grad():
        weight.copy_(rounded(before, "Q4_1"))
    written = pack_loss(model, pack).cross_entropy
    written.backward()
    assert written.item() == loss and not torch.equal(weight, before)
    assert torch.equal(weight.grad, straight)
