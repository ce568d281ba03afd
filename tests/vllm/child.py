"""A program that runs vLLM engines one after the other: `python -m tests.vllm.child JOBS.json RESULTS.json`.

vLLM wants a process of its own: importing it sets threads and environment. A job is {"model", "options", "prompts",
"max_tokens", "adapter", "vllm_version"}; its result {"tokens", "cached"} (one list and one number a prompt) or {"error"}.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Greedy tokens of one job's prompts."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "seed": 0, "skip_tokenizer_init": True}
    llm = LLM(job["model"], **{**options, **job.get("options", {})})
    sampling = SamplingParams(temperature=0, max_tokens=job["max_tokens"], ignore_eos=True, detokenize=False)
    adapter = LoRARequest("adapter", 1, job["adapter"]) if job.get("adapter") else None
    outputs = [
        llm.generate([{"prompt_token_ids": ids} for ids in batch], sampling, lora_request=adapter, use_tqdm=False)
        for batch in ([[ids] for ids in job["prompts"]] if job.get("one_by_one") else [job["prompts"]])
    ]
    done = [output for batch in outputs for output in batch]
    return {"tokens": [list(o.outputs[0].token_ids) for o in done], "cached": [o.num_cached_tokens for o in done]}


def main() -> None:
    """Run every job; a failure is a result, too."""
    import vllm

    results = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        vllm.__version__ = job.get("vllm_version", vllm.__version__)
        try:
            results.append(run(job))
        except Exception:
            results.append({"error": traceback.format_exc()})
    Path(sys.argv[2]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
