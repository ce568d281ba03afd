"""Warm routers spread tokens evenly and send tokens of a kind to the same experts; random ones do neither."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from openarctic.errors import UserError
from openarctic.formats.quants import F32Array
from openarctic.train.warm_router import fit_router, load


def inputs(shares: list[float], tokens: int = 4000, hidden: int = 48) -> tuple[F32Array, np.ndarray]:
    """Normed vectors with a strong common part, of kinds that are not equally frequent; and each one's kind."""
    rng = np.random.default_rng(0)
    kinds, common = rng.standard_normal((len(shares), hidden)), 2 * rng.standard_normal(hidden)
    kind = rng.choice(len(shares), size=tokens, p=shares)
    x = common + kinds[kind] + 0.5 * rng.standard_normal((tokens, hidden))
    return (x / np.sqrt((x**2).mean(1, keepdims=True))).astype(np.float32), kind


def information(chosen: np.ndarray, kind: np.ndarray) -> float:
    """What the first choice tells of the kind, in bits."""
    table = np.zeros((chosen.max() + 1, kind.max() + 1))
    np.add.at(table, (chosen, kind), 1 / len(kind))
    product = np.outer(table.sum(1), table.sum(0))
    return float((table[table > 0] * np.log2(table[table > 0] / product[table > 0])).sum())


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_load_is_even_on_tokens_that_were_not_fitted(top_k: int) -> None:
    x, _ = inputs([0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    router = fit_router(x, 8, top_k, seed=0)
    load_E = load(x[1::2] @ router.weight_EH.T, top_k)
    assert router.fullest == pytest.approx(load_E.max() / load_E.mean()) and load_E.sum() == top_k * 2000
    assert router.fullest < 1.3 and router.emptiest > 0.7
    random = np.random.default_rng(1).standard_normal((8, 48)).astype(np.float32)
    uneven = load(x[1::2] @ random.T, top_k)
    assert uneven.max() / uneven.mean() > router.fullest + 0.2


def test_tokens_of_a_kind_go_together() -> None:
    x, kind = inputs([0.25] * 4)
    router = fit_router(x, 4, 1, seed=0)
    assert information((x @ router.weight_EH.T).argmax(1), kind) > 1.5  # of 2 bits


def test_load_counts_the_best_of_every_token() -> None:
    logits = np.array([[3, 2, 1, 0], [0, 3, 2, 1], [3, 0, 0, 4]], np.float32)
    assert load(logits, 1).tolist() == [1, 1, 0, 1]
    assert load(logits, 2).tolist() == [2, 2, 1, 1]


def test_too_few_tokens_are_told() -> None:
    with pytest.raises(UserError, match="100 tokens are too few to fit a router of 8 experts"):
        fit_router(np.ones((100, 4), np.float32), 8, 2, seed=0)
