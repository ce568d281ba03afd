"""vLLM's greedy tokens are those of our transformers form: every layout, caches, adapters, bad checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import LAYOUTS as ALL_LAYOUTS
from tests.vllm.engines import assert_same, greedy, load, random_prompts, run_jobs, write_folder

pytestmark = pytest.mark.vllm

# vLLM's attention on CPU wants heads of at least 32, its experts a multiple of 32.
SIZES = {"hidden_size": 128, "vocab_size": 96, "max_position_embeddings": 512}
PROMPTS = random_prompts(96)
MAX_TOKENS = 64
LAYOUTS = {name: config for name, config in ALL_LAYOUTS.items() if "qkv_bias" not in config}  # which the plugin refuses
TARGETS = r".*(self_attn\.[qkvo]_proj|residual_mlp\.w[123]|block_sparse_moe\.mlp\.w[123])"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {name: write_folder(base / str(i), {**config, **SIZES}, seed=i) for i, (name, config) in enumerate(LAYOUTS.items())}


@pytest.fixture(scope="module")
def generated(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One child process, one engine a layout."""
    jobs = [{"model": str(folder), "prompts": PROMPTS, "max_tokens": MAX_TOKENS} for folder in folders.values()]
    return dict(zip(folders, run_jobs(tmp_path_factory.mktemp("run"), jobs), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, folders: dict[str, Path], generated: dict[str, dict[str, Any]]) -> None:
    assert_same(generated[layout], *greedy(load(folders[layout]), PROMPTS, MAX_TOKENS))


def test_prefix_caching_and_chunked_prefill_change_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    shared = random_prompts(96, count=1, seed=5)[0] + [7] * 280
    prompts = [shared + tail for tail in random_prompts(96, count=20, seed=6)]
    folder = folders["top-3, wide residual MLP"]
    job = {"model": str(folder), "prompts": prompts, "max_tokens": MAX_TOKENS, "one_by_one": True}
    cached, plain, chunked = run_jobs(
        tmp_path,
        [
            {**job, "options": {"enable_prefix_caching": True}},
            {**job, "options": {"enable_prefix_caching": False}},
            {**job, "options": {"enable_prefix_caching": False, "max_num_batched_tokens": 64, "max_num_seqs": 8}},
        ],
    )
    wanted = greedy(load(folder), prompts, MAX_TOKENS)
    for result in (cached, plain, chunked):
        assert_same(result, *wanted)
    assert min(cached["cached"][1:]) >= 128 and not any(plain["cached"]), "the cache was not used, or not switched off"


@pytest.mark.parametrize("layout", ["parallel", "dense"])
def test_an_adapter_changes_the_output_as_in_peft(layout: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """With experts, vLLM's CPU build needs `adapters_beside_experts`; the adapter is on all else."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(load(folders[layout]), config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    options = {"enable_lora": True, "max_lora_rank": 8, "lora_target_modules": ["qkv_proj", "o_proj", "w13", "w2"]}
    job = {"model": str(folders[layout]), "prompts": PROMPTS, "max_tokens": MAX_TOKENS, "options": options}
    plain, with_adapter = run_jobs(
        tmp_path / "run", [job, {**job, "adapter": str(tmp_path / "adapter")}], plugins=("adapters_beside_experts",)
    )
    assert_same(plain, *greedy(load(folders[layout]), PROMPTS, MAX_TOKENS))
    assert_same(with_adapter, *greedy(adapted, PROMPTS, MAX_TOKENS))
    assert plain["tokens"] != with_adapter["tokens"]


def test_a_broken_checkpoint_is_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(folders["parallel"] / "model.safetensors")
    config = (folders["parallel"] / "config.json").read_text()
    gone = "model.layers.2.block_sparse_moe.experts.5.w3.weight"
    broken = {
        "lacking": {name: tensor for name, tensor in state.items() if name != gone},
        "more": {**state, "model.layers.0.block_sparse_moe.experts.8.w1.weight": torch.zeros(32, 128)},
    }
    jobs = []
    for name, tensors in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        jobs.append({"model": str(tmp_path / name), "prompts": [[1]], "max_tokens": 1})
    lacking, more = run_jobs(tmp_path / "run", jobs)
    assert f"the checkpoint lacks {gone}" in lacking["error"]
    assert "experts.8.w1.weight" in more["error"]
