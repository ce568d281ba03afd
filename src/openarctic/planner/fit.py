"""Which counts of a GPU hold a model, with what context, and how fast they can be at best.

Tensor parallelism splits every matrix over 1, 2, 4, 8, ... GPUs that divide the heads; norms, biases and routers are whole on
each, and past the number of key-value heads each GPU keeps a copy of one, so memory for them stops shrinking. Past the largest
such count whole layers go to pipeline stages. Of a GPU's memory 90 % is used, less the reserve of the runtime and the
activations of a step.

Times are bounds that no implementation can beat, not predictions: every byte is read once at full bandwidth, every FLOP runs at
the peak rate, communication is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from openarctic.errors import UserError
from openarctic.formats.config import HybridConfig
from openarctic.planner.flops import flops_per_token
from openarctic.planner.hardware import Gpu, find_gpu
from openarctic.planner.memory import bits, kv_bytes_per_token
from openarctic.planner.parameters import parameters

MAX_GPUS = 64
USABLE_SHARE = 0.9
RUNTIME_BYTES = 1 << 30  # context of the driver, communication buffers, captured graphs
STEP_TOKENS = 2048  # prompts are computed in steps of at most so many tokens
ACTIVATION_BYTES = 2
KV_VALUE_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A number of GPUs that holds the model.

    `context` is the longest that `batch` sequences can have at once, up to what was asked; `sequences` of that length fit.
    `kv_room_bytes` and `weight_bytes` are those of the fullest GPU. `decode_ms` is the least time of one token of each of
    `batch` sequences at that context, `prefill_tokens_per_s` the most.
    """

    gpu: str
    precision: str
    tensor_parallel: int
    pipeline_stages: int
    weight_bytes: int
    kv_room_bytes: int
    context: int
    sequences: int
    decode_ms: float
    prefill_tokens_per_s: float

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.tensor_parallel * self.pipeline_stages


def fit(config: HybridConfig, gpu: Gpu | str, precision: str, *, context: int | None = None, batch: int = 1) -> list[Fit]:
    """The counts of a GPU that hold the model and one token of `batch` sequences, fewest first; empty if none up to 64 does.

    `context` defaults to max_position_embeddings. Keys and values are bf16. Raises UserError for sizes that make no sense.
    """
    card = find_gpu(gpu) if isinstance(gpu, str) else gpu
    wanted = check_context(config, context)
    if batch < 1:
        raise UserError(f"batch is {batch}, it must be at least 1")
    found = (_fit(config, card, precision, layout, wanted, batch) for layout in layouts(config))
    return [each for each in found if each is not None]


def check_context(config: HybridConfig, context: int | None) -> int:
    """The context to plan for. Raises UserError outside 1 to max_position_embeddings."""
    limit = config.max_position_embeddings
    if context is None:
        return limit
    if not 1 <= context <= limit:
        raise UserError(f"context is {context}, the model has 1 to {limit} positions")
    return context


def layouts(config: HybridConfig) -> Iterator[tuple[int, int]]:
    """(tensor parallel, pipeline stages) in order of GPUs, up to 64."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    degree = widest = 1
    while degree <= min(heads, MAX_GPUS):
        if heads % degree == 0 and (kv_heads % degree == 0 or degree % kv_heads == 0):
            widest = degree
            yield degree, 1
        degree *= 2
    stages = 2
    while stages <= config.num_hidden_layers and widest * stages <= MAX_GPUS:
        yield widest, stages
        stages *= 2


def stage_layers(config: HybridConfig, stages: int) -> list[range]:
    """Consecutive layers of each pipeline stage, as even as they go."""
    layers = config.num_hidden_layers
    edges = [layers * i // stages for i in range(stages + 1)]
    return [range(low, high) for low, high in pairwise(edges)]


def weights_on_gpu(config: HybridConfig, tensor_parallel: int, layers: range) -> int:
    """Weights on one GPU of the stage that has `layers`; the first stage has the embedding, the last the final norm and head."""
    hidden = config.hidden_size

    def share(size: int) -> int:
        return -(-size // tensor_parallel)

    count = 0
    for layer in layers:
        kv_width = kv_heads_on_gpu(config, tensor_parallel) * config.head_dim
        count += 2 * hidden * (share(config.q_width) + kv_width) + 2 * hidden + config.qk_norm_width + config.bias_width
        if config.is_parallel_layer(layer):
            count += 3 * hidden * share(config.residual_width) + hidden
        if config.is_moe_layer(layer):
            count += config.num_local_experts * hidden * (3 * share(config.intermediate_size) + 1)
        else:
            count += 3 * hidden * share(config.dense_width)
    vocabulary = share(config.vocab_size) * hidden
    is_first, is_last = layers.start == 0, layers.stop == config.num_hidden_layers
    has_own_head = is_last and not (is_first and config.tie_word_embeddings)
    return count + is_first * vocabulary + has_own_head * vocabulary + is_last * hidden


def kv_heads_on_gpu(config: HybridConfig, tensor_parallel: int) -> int:
    """Key-value heads that one GPU keeps: never less than one."""
    return max(1, config.num_key_value_heads // tensor_parallel)


def activation_bytes(config: HybridConfig, batch: int) -> int:
    """What a step keeps at once, on every GPU in full: the widest layer's values in bf16, and fp32 logits of each sequence."""
    hidden, top = config.hidden_size, config.num_experts_per_tok if config.num_local_experts else 0
    widest = max(config.residual_width, config.dense_width, top * config.intermediate_size)
    values = (4 + top) * hidden + 2 * config.q_width + 2 * config.kv_width + 2 * widest
    return STEP_TOKENS * values * ACTIVATION_BYTES + batch * config.vocab_size * 4


def _fit(config: HybridConfig, gpu: Gpu, precision: str, layout: tuple[int, int], context: int, batch: int) -> Fit | None:
    tensor_parallel, stages = layout
    usable = int(gpu.memory_bytes * USABLE_SHARE) - RUNTIME_BYTES - activation_bytes(config, batch)
    kv_layer_bytes = 2 * kv_heads_on_gpu(config, tensor_parallel) * config.head_dim * KV_VALUE_BYTES
    tightest: tuple[int, int, int] | None = None  # tokens, room, weights of the stage that runs full first
    for layers in stage_layers(config, stages):
        weights = -(-weights_on_gpu(config, tensor_parallel, layers) * bits(precision) // 8)
        room = usable - weights
        stage = (room // (kv_layer_bytes * len(layers)), room, weights)
        tightest = min(tightest or stage, stage)
    assert tightest is not None
    tokens, room, weights = tightest
    if tokens < batch:
        return None
    length = min(context, tokens // batch)
    # A token passes the stages one after another; meanwhile they work on other sequences, at best an equal part each.
    at_once = max(1, batch / stages)
    return Fit(
        gpu=gpu.name,
        precision=precision,
        tensor_parallel=tensor_parallel,
        pipeline_stages=stages,
        weight_bytes=weights,
        kv_room_bytes=room,
        context=length,
        sequences=tokens // length,
        decode_ms=1e3 * decode_seconds(config, gpu, precision, context=length, batch=at_once) / tensor_parallel,
        prefill_tokens_per_s=gpu.flops(precision) * tensor_parallel * stages / flops_per_token(config, length).prefill,
    )


def decode_seconds(config: HybridConfig, gpu: Gpu, precision: str, *, context: int, batch: float = 1) -> float:
    """Least seconds of one decode step on one GPU with room for all: the later of reading and multiplying.

    Weights are read once a step, keys and values once a sequence. With several sequences, as many experts are read as
    independent even routing touches on average: E (1 - (1 - k/E)^batch).
    """
    read = step_weights(config, batch) * bits(precision) / 8 + batch * context * kv_bytes_per_token(config, KV_VALUE_BYTES)
    return max(read / gpu.bandwidth, batch * flops_per_token(config, context).decode / gpu.flops(precision))


def step_weights(config: HybridConfig, batch: float) -> float:
    """Weights that a decode step of `batch` sequences reads, on average over even routing; exact for one sequence."""
    counted = parameters(config)
    dense = counted.active_matrices - counted.experts_per_token * counted.expert
    if not counted.num_experts:
        return dense
    idle_share = (1 - counted.experts_per_token / counted.num_experts) ** batch
    return dense + counted.num_experts * (1 - idle_share) * counted.expert
