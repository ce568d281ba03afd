"""Language modelling on packed documents is language modelling on each of them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from openarctic.data import Batch  # noqa: E402
from openarctic.errors import UserError  # noqa: E402
from openarctic.train.objectives import DocumentAttention, LanguageModelling, PackTuning, document_mask  # noqa: E402
from openarctic.train.packing import Pack, Segment  # noqa: E402

from .worlds import documents, tiny_hybrid  # noqa: E402


def test_packed_documents_equal_each_on_its_own() -> None:
    model, batch = tiny_hybrid().double(), documents(3)
    packed = LanguageModelling()(model, batch)
    packed.cross_entropy.backward()
    together = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    targets = LanguageModelling().size(batch).targets
    total = 0.0
    for row in range(len(batch.input_ids)):
        for document in np.unique(batch.document_ids[row]):
            ids = torch.from_numpy(batch.input_ids[row, batch.document_ids[row] == document])[None]
            logits = model(ids).logits.double()
            loss = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum") / targets
            loss.backward()
            total += loss.item()
    assert packed.cross_entropy.item() == pytest.approx(total, rel=1e-6)
    for a, b in zip(together, (p.grad for p in model.parameters()), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_runs_equal_the_mask(kv_heads: int) -> None:
    torch.manual_seed(0)
    ids = documents(5, rows=3).document_ids
    ids[2] = ids[0]  # two sequences of one form, one of another
    q = torch.randn(3, 4, 24, 8, dtype=torch.float64)
    k, v = (torch.randn(3, kv_heads, 24, 8, dtype=torch.float64) for _ in range(2))
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=document_mask(ids), enable_gqa=True)
    assert torch.allclose(DocumentAttention(ids)(q, k, v), masked.transpose(1, 2).flatten(2), atol=1e-12)


def test_sizes_count_what_is_computed() -> None:
    batch = documents(1)
    size = LanguageModelling().size(batch)
    assert size.tokens == 48 and size.examples == 2
    assert size.targets == 48 - sum(len(np.unique(row)) for row in batch.document_ids)
    assert size.seen == int(document_mask(batch.document_ids).sum())


def test_what_does_not_fit_is_named() -> None:
    model, batch = tiny_hybrid(), documents(0)
    batch.input_ids[0, 3] = 99
    with pytest.raises(UserError, match="token 99 is not in the model's vocabulary of 32"):
        LanguageModelling().check(model, batch)
    long = np.arange(100, dtype=np.int64)[None]
    too_long = Batch(long % 32, long % 32, 0 * long, long, 0 * long[:, 0])
    with pytest.raises(UserError, match="100 tokens is longer than the model's context, 64"):
        LanguageModelling().check(model, too_long)
    PackTuning().check(model, Pack([1] * 40, [Segment([2], [3] * 23), Segment([2], [3])]))  # more tokens than positions
    with pytest.raises(UserError, match="65 tokens is longer than the model's context, 64"):
        PackTuning().check(model, Pack([1] * 40, [Segment([2], [3]), Segment([2], [3] * 24)]))
