"""The loss without logits is the loss with them: values, gradients and counts."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from openarctic.errors import UserError  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.model import head_loss as module  # noqa: E402
from openarctic.model.head_loss import head_loss, head_loss_reference  # noqa: E402
from tests.tiny import IDS, LAYOUTS, tiny_config  # noqa: E402


def outcome(loss: Any, dtype: Any, frozen: str = "") -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(16, 50, bias=False)
    head.weight.data = torch.randn(50, 16, generator=generator)
    head = head.to(dtype)
    head.weight.requires_grad_(frozen != "head")
    hidden = torch.randn(37, 16, generator=generator).to(dtype).requires_grad_(frozen != "hidden")
    labels = torch.randint(0, 50, (37,), generator=generator)
    labels[::5] = -100
    got = loss(head, hidden, labels)
    (got.total * 0.3).backward()
    return [got.total, got.correct, hidden.grad, head.weight.grad]


@pytest.mark.parametrize("frozen", ["", "head", "hidden"])
@pytest.mark.parametrize("pieces", [1, 50, 500, 1 << 22])
def test_piece_by_piece_is_all_at_once(pieces: int, frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_VALUES", pieces)
    got, wanted = (outcome(loss, torch.float32, frozen) for loss in (head_loss, head_loss_reference))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_bf16_and_autocast() -> None:
    got, wanted = (outcome(loss, torch.bfloat16) for loss in (head_loss, head_loss_reference))
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = (outcome(loss, torch.float32) for loss in (head_loss, head_loss_reference))
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.1)


def test_a_head_with_an_observer_is_called() -> None:
    head, calls = nn.Linear(16, 50, bias=False), []
    head.register_forward_hook(lambda *_: calls.append(1))
    hidden, labels = torch.randn(5, 16), torch.tensor([1, 2, 3, -100, 4])
    assert head_loss(head, hidden, labels).total == head_loss_reference(head, hidden, labels).total
    assert len(calls) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_models_loss_needs_no_logits(layout: str) -> None:
    ids = torch.tensor([IDS, IDS[::-1]])
    labels = ids.clone()
    labels[:, 3:6] = -100
    losses, gradients, counts = [], [], []
    for with_logits in (True, False):
        torch.manual_seed(0)
        model = ArcticForCausalLM(ArcticConfig(**LAYOUTS[layout])).train()
        out = model(ids, labels=labels, with_logits=with_logits)
        out.loss.backward()
        losses.append(out.loss)
        gradients.append([p.grad for p in model.parameters()])
        counts.append((out.logits[:, :-1].argmax(-1) == labels[:, 1:]).sum() if with_logits else out.correct)
        assert with_logits or out.logits is None
    assert counts[0] == counts[1]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_nothing_to_compute_is_refused() -> None:
    model = ArcticForCausalLM(ArcticConfig(**tiny_config()))
    with pytest.raises(UserError, match="without labels"):
        model(torch.tensor([IDS]), with_logits=False)
