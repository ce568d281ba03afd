"""The runtimes under comparison: each takes a model in the form it reads, and answers with greedy tokens and logits.

Each runs in a process of its own (`measure` is spawned), so that no two share memory, threads or settings; what is not
installed is known without importing it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openarctic.errors import MissingError

# [positions, vocab]; NaN where a runtime that is sparse does not tell.
Logits = NDArray[np.float32]
TOP = 20  # logits that vLLM is asked for at every position; all of them would be a Python object each


@dataclass(frozen=True, slots=True)
class Forms:
    """One model in both forms."""

    huggingface: Path
    gguf: Path


@dataclass(frozen=True, slots=True)
class Task:
    """What a runtime is asked: to go on from `prompts`, and for the logits of `sequences`, which begin with the prompts."""

    prompts: list[list[int]]
    max_tokens: int
    threads: int
    sequences: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy continuations, none stopped early, and logits of every position of every sequence."""

    tokens: list[list[int]]
    logits: list[Logits]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A way to run the model: the package whose version it carries, and what is special about it.

    `is_sparse`: it tells only the largest logits of a position.
    """

    name: str
    package: str
    run: Callable[[Forms, Task], Answer]
    needs_stock_gguf: bool = False
    is_sparse: bool = False

    def version(self) -> str | None:
        """None when it is not installed."""
        if importlib.util.find_spec(self.package) is None:
            return None
        for distribution in (self.package, *importlib.metadata.packages_distributions().get(self.package, ())):
            with suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(distribution)
        return "unknown"


def measure(name: str, forms: Forms, task: Task, folder: Path) -> None:
    """Run one runtime and leave its answer in `folder` (called in a fresh process). Raises MissingError for an unknown name."""
    if name not in RUNTIMES:
        raise MissingError(f"no runtime named {name!r}", f"known: {', '.join(RUNTIMES)}")
    answer = RUNTIMES[name].run(forms, task)
    np.savez(folder / "tokens.npz", *[np.asarray(t, np.int64) for t in answer.tokens])
    np.savez(folder / "logits.npz", *answer.logits)


def read_answer(folder: Path) -> Answer:
    """What `measure` left."""
    with np.load(folder / "tokens.npz") as tokens, np.load(folder / "logits.npz") as logits:
        count, rows = len(tokens.files), len(logits.files)
        return Answer(
            [tokens[f"arr_{i}"].tolist() for i in range(count)], [logits[f"arr_{i}"].astype(np.float32) for i in range(rows)]
        )


def _openarctic(forms: Forms, task: Task) -> Answer:
    """The engine: greedy through its own cache and batch, logits of whole sequences."""
    from openarctic.engine import Engine

    engine = Engine.load(forms.gguf, threads=task.threads, cache_type="f32")
    tokens = []
    for prompt in task.prompts:
        ids = list(prompt)
        cached = engine.generate(prompt, max_tokens=task.max_tokens)[0].ids
        # An end token stops `generate`; the comparison goes on past it.
        ids += cached
        while len(ids) < len(prompt) + task.max_tokens:
            ids.append(int(engine.logits(ids)[-1].argmax()))
        tokens.append(ids[len(prompt) :])
    return Answer(tokens, [np.asarray(engine.logits(s)) for s in task.sequences])


def _torch(forms: Forms, task: Task) -> Answer:
    """The model's own forward, without cache: every token computes the whole sequences again."""
    model = _load_torch(forms, task)
    import torch

    ids, mask = _padded(task.prompts)
    width = ids.shape[1]
    with torch.no_grad():
        for _ in range(task.max_tokens):
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            last = model(ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1).logits[:, -1]
            ids = torch.cat((ids, last.argmax(-1, keepdim=True)), 1)
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
        logits = [model(torch.tensor([s]), use_cache=False).logits[0].numpy() for s in task.sequences]
    return Answer(ids[:, width:].tolist(), logits)


def _transformers(forms: Forms, task: Task) -> Answer:
    """AutoModelForCausalLM: `generate` with cache, one padded batch of all prompts."""
    model = _load_torch(forms, task, attn_implementation="sdpa")
    import torch

    ids, mask = _padded(task.prompts)
    model.generation_config.eos_token_id = None
    count = task.max_tokens
    out = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        logits = [model(torch.tensor([s])).logits[0].numpy() for s in task.sequences]
    return Answer(out[:, ids.shape[1] :].tolist(), logits)


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Prompts as one batch, padded on the left, and the mask of what is no padding."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    return ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


def _load_torch(forms: Forms, task: Task, attn_implementation: str = "eager") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    import openarctic.model  # noqa: F401 - registers the architecture

    torch.set_num_threads(task.threads)
    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    return AutoModelForCausalLM.from_pretrained(forms.huggingface, **options).eval()


def _llama_cpp(forms: Forms, task: Task) -> Answer:
    """llama.cpp on the same GGUF file, with a float32 cache and plain attention."""
    import llama_cpp

    longest = max(len(p) for p in task.prompts) + task.max_tokens + 1
    longest = max(longest, *(len(s) + 1 for s in task.sequences), 2)
    model = llama_cpp.Llama(
        str(forms.gguf),
        n_ctx=longest,
        n_batch=longest,
        n_threads=task.threads,
        n_threads_batch=task.threads,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )

    def logits(sequence: Sequence[int]) -> Logits:
        model.reset()
        model.eval(list(sequence))
        return np.array(model.scores[: len(sequence)], np.float32)

    tokens = []
    for prompt in task.prompts:
        model.reset()
        model.eval(prompt)
        own: list[int] = []
        for _ in range(task.max_tokens):
            own.append(int(model.scores[model.n_tokens - 1].argmax()))
            model.eval(own[-1:])
        tokens.append(own)
    answer = Answer(tokens, [logits(s) for s in task.sequences])
    model.close()
    return answer


def _vllm(forms: Forms, task: Task) -> Answer:
    """vLLM with our plugin: its paged cache and batches; the TOP largest logits of every position."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM, SamplingParams, TokensPrompt

    longest = max(max(len(p) for p in task.prompts) + task.max_tokens, *(len(s) for s in task.sequences)) + 1
    engine = LLM(
        str(forms.huggingface),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=longest,
        max_logprobs=TOP,
        logprobs_mode="raw_logits",
    )
    greedy = SamplingParams(temperature=0, max_tokens=task.max_tokens, ignore_eos=True, detokenize=False)
    outputs = engine.generate([TokensPrompt(prompt_token_ids=p) for p in task.prompts], greedy, use_tqdm=False)
    # The logits of the last position are those of the token that follows it.
    asking = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=TOP, logprobs=TOP, detokenize=False)
    replies = engine.generate([TokensPrompt(prompt_token_ids=s) for s in task.sequences], asking, use_tqdm=False)
    vocab = engine.model_config.get_vocab_size() if hasattr(engine, "model_config") else 0
    # Its own processes would live on, and this one would wait for them at its end.
    engine.llm_engine.engine_core.shutdown()
    logits = []
    for reply in replies:
        positions = [*reply.prompt_logprobs[1:], reply.outputs[0].logprobs[0]]
        size = vocab or 1 + max(max(p) for p in positions)
        table = np.full((len(positions), size), np.nan, np.float32)
        for row, known in zip(table, positions, strict=True):
            for token, value in known.items():
                row[token] = value.logprob
        logits.append(table)
    return Answer([list(o.outputs[0].token_ids) for o in outputs], logits)


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("openarctic", "openarctic", _openarctic),
        Runtime("torch", "torch", _torch),
        Runtime("transformers", "transformers", _transformers),
        Runtime("llama.cpp", "llama_cpp", _llama_cpp, needs_stock_gguf=True),
        Runtime("vllm", "vllm", _vllm, is_sparse=True),
    )
}
