"""The measured rate of products of matrices."""

from __future__ import annotations

from itertools import count

import pytest

torch = pytest.importorskip("torch")
from openarctic.train import throughput  # noqa: E402


def test_a_round_of_products_is_timed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()  # a second passes between any two looks at the clock
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(seconds)))
    monkeypatch.setattr(throughput, "_round", lambda device: (8, 5))
    assert throughput.gemm_flops.__wrapped__(torch.float32, torch.device("cpu"), seconds=3.0) == 5 * 2 * 8**3


def test_an_accelerator_gets_more_to_do_at_once() -> None:
    (side, products), (small, few) = (throughput._round(torch.device(kind)) for kind in ("cuda", "cpu"))
    assert side > small and products > few
