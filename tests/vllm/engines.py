"""Helpers: run jobs of `child.py`, and the same prompts through our transformers form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from openarctic.model import ArcticConfig, ArcticForCausalLM
from tests.tiny import random_state

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 600
TIE = 1e-5  # two programs may differ where the best two logits are closer than this


def environment(folder: Path, plugins: tuple[str, ...] = ()) -> dict[str, str]:
    """vLLM's settings for small engines on few cores; `plugins` of `plugins.py` are installed for this process alone."""
    site = folder / "site"
    metadata = site / "arctic_tests-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: arctic-tests\nVersion: 1\n")
    lines = "".join(f"{name} = tests.vllm.plugins:{name}\n" for name in plugins)
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{lines}")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else two ranks want two NUMA nodes
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run_jobs(folder: Path, jobs: list[dict[str, Any]], plugins: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Results of the jobs, in order, all from one child process."""
    folder.mkdir(parents=True, exist_ok=True)
    given, made = folder / "jobs.json", folder / "results.json"
    given.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.vllm.child", str(given), str(made)]
    done = subprocess.run(
        command, env=environment(folder, plugins), cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert made.exists(), done.stderr[-4000:]
    results: list[dict[str, Any]] = json.loads(made.read_text())
    return results


def write_folder(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """A random model as a Hugging Face folder."""
    model = ArcticForCausalLM(ArcticConfig(**config))
    state = {name: torch.from_numpy(values) for name, values in random_state(config, seed).items()}
    model.load_state_dict(state, strict=not config["tie_word_embeddings"])
    model.save_pretrained(folder)
    return folder


def random_prompts(vocab_size: int, count: int = 20, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to 39 tokens."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=random).tolist()
    return [torch.randint(0, vocab_size, (length,), generator=random).tolist() for length in lengths]


@torch.no_grad()
def greedy(model: torch.nn.Module, prompts: list[list[int]], max_tokens: int) -> tuple[list[list[int]], float]:
    """Greedy tokens of each prompt by transformers' `generate`, and the smallest gap between the best two logits met."""
    tokens, smallest = [], float("inf")
    for prompt in prompts:
        out = model.generate(  # type: ignore[operator]
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.cat(out.logits).topk(2, -1).values
        smallest = min(smallest, float((best[:, 0] - best[:, 1]).min()))
        tokens.append(out.sequences[0, len(prompt) :].tolist())
    return tokens, smallest


def load(folder: Path) -> ArcticForCausalLM:
    """The folder in our transformers form, fp32."""
    return ArcticForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def assert_same(result: dict[str, Any], wanted: list[list[int]], gap: float) -> None:
    """Identical tokens. A gap below `TIE` would make that a matter of luck: then other prompts are needed, not a tolerance."""
    assert "error" not in result, result.get("error")
    assert gap > TIE, f"the prompts hold a tie: the best two logits are {gap} apart"
    assert result["tokens"] == wanted
