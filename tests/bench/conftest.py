"""Tiny files and options for the benchmarks' own tests: nothing here measures anything worth knowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openarctic.bench.plan import Options
from openarctic.bench.protocol import Protocol
from tests.tiny import LAYOUTS, tiny_config, write_model

LIMITS: dict[str, Any] = {
    "buffer_bytes": 1,
    "read_bytes_per_s": {"1": 1e10},
    "operations_per_s": {name: {"1": {"fp32": 1e11, "int8": 2e11, "int16": 1e11}} for name in ("avx512", "avx2", "plain")},
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bench") / "tiny.gguf", tiny_config(max_position_embeddings=256), "Q8_0")


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bench") / "dense.gguf", LAYOUTS["dense"], "Q4_0")


@pytest.fixture
def options(model: Path, tmp_path: Path) -> Options:
    return Options(
        models=(model,),
        folder=tmp_path,
        threads=1,
        protocol=Protocol(repetitions=2, max_foreign=1.0, warmups=1, target_s=0.001),
        context=8,
        prompt=40,
        batches=(1, 3),
        lengths=(16, 48),
        requests=3,
        shared=20,
        own=4,
        rewind=8,
    )


@pytest.fixture
def known_limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of seconds of measuring."""
    monkeypatch.setattr("openarctic.bench.measure.measure_limits", lambda threads, buffer_bytes: LIMITS)
    return LIMITS
