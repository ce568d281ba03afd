"""`openarctic model parity` with vLLM among the runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.model.parity import compare
from tests.model.test_transformers import write_checkpoint
from tests.tiny import tiny_config

pytestmark = pytest.mark.vllm

# Attention of the CPU build has no heads narrower than 32.
CONFIG = tiny_config(hidden_size=128, num_attention_heads=4, intermediate_size=96, vocab_size=256, residual_intermediate_size=160)


def test_vllm_is_within_tolerance_and_ends(tmp_path: Path) -> None:
    report = compare(write_checkpoint(tmp_path, CONFIG), runtimes=["vllm"], max_tokens=32)
    assert report.is_ok, report
    [vllm] = report.runtimes
    assert vllm.greedy_agreement == 1.0 and vllm.max_logit_diff is not None and vllm.max_logit_diff < 1e-4
