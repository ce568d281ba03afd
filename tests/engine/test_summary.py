"""The largest logit and the sum of exponentials: every table of kernels against float64."""

from __future__ import annotations

import numpy as np
import pytest
from openarctic.native._native import available_kernels, summarize


@pytest.mark.parametrize("kernels", available_kernels())
@pytest.mark.parametrize("count", [1, 7, 8, 31, 1000, 32003])
def test_summaries_are_exact(kernels: str, count: int) -> None:
    rng = np.random.default_rng(count)
    for scale, share in ((1, 1.0), (30, 0.5), (1, 0.01), (5, 0.0)):
        row = (scale * rng.standard_normal(count)).round(2).astype(np.float32)  # rounded: equal ones occur
        allowed = rng.random(count) < share if share < 1 else np.ones(count, bool)
        bits = b"" if share == 1 else np.packbits(allowed, bitorder="little").tobytes()
        best, log_sum = summarize(kernels, row, bits)
        masked = np.where(allowed, row.astype(np.float64), -np.inf)
        if not allowed.any():
            assert (best, log_sum) == (-1, -np.inf)
            continue
        assert best == int(masked.argmax())
        assert log_sum == pytest.approx(masked.max() + np.log(np.exp(masked - masked.max()).sum()), abs=2e-6, rel=3e-7)


def test_too_few_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer bits"):
        summarize("plain", np.zeros(9, np.float32), b"\xff")
