"""Two processes give the tokens of one: tensor, pipeline and expert parallelism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import LAYOUTS
from tests.vllm.engines import assert_same, greedy, load, random_prompts, run_jobs, write_folder

pytestmark = pytest.mark.vllm
PROMPTS = random_prompts(96)
MAX_TOKENS = 64


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("top-3, wide residual MLP", {}),
        ("every second layer, top-1, tied", {}),
        ("top-3, wide residual MLP", {"tensor_parallel_size": 1, "pipeline_parallel_size": 2, "enforce_eager": False}),
        ("parallel", {"enable_expert_parallel": True, "enable_ep_weight_filter": True}),
    ],
    ids=["parallel layout", "dense and expert layers", "pipeline", "expert parallel"],
)
def test_two_ranks(layout: str, options: dict[str, Any], tmp_path: Path) -> None:
    """On the CPU build, a pipeline does not start with enforce_eager, and expert parallelism needs `local_experts`: the
    same with a stock Mixtral.
    """
    folder = write_folder(tmp_path / "model", {**LAYOUTS[layout], "hidden_size": 128, "vocab_size": 96})
    wanted = greedy(load(folder), PROMPTS, MAX_TOKENS)
    job = {"model": str(folder), "prompts": PROMPTS, "max_tokens": MAX_TOKENS}
    options = {"tensor_parallel_size": 2, "max_model_len": 128, **options}
    plugins = ("local_experts",) if "enable_expert_parallel" in options else ()
    (result,) = run_jobs(tmp_path / "run", [{**job, "options": options}], plugins)
    assert_same(result, *wanted)
