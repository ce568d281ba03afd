"""Which columns of a matrix matter: the mean square of what meets them on a calibration text ("importance matrix").

Quantisers then round so that the columns with large inputs lose least. Names and file form are llama.cpp's (`imatrix.gguf`):
of every matrix the sum of squared inputs per column and the count of tokens, for experts each on its own.

The model passes through memory one layer at a time, so a layer in float32 is what it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.formats.imatrix import CHUNK_TOKENS, Importance
from openarctic.formats.names import TensorSpec, state_dict_shapes, tensor_table
from openarctic.formats.quants import F32Array
from openarctic.formats.sources import open_source
from openarctic.formats.state import read_tensor
from openarctic.machine import check_memory
from openarctic.model.attention import rotary
from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import ArcticDecoderLayer, ArcticRMSNorm

Read = Callable[[str], F32Array]
Progress = Callable[[int, int], None]


def measure_importance(
    path: str | Path, ids: Sequence[int], *, chunk_tokens: int = CHUNK_TOKENS, progress: Progress = lambda done, of: None
) -> dict[str, Importance]:
    """GGUF tensor name -> importance, from running a GGUF file or checkpoint folder over `ids` in chunks.

    `progress` gets (layers done, layers). Raises UserError for too short a text and for a family's model, CapacityError for a
    layer that does not fit into memory.
    """
    if len(ids) < 2:
        raise UserError(f"the calibration text has {len(ids)} tokens", "give some thousand: text like what the model will see")
    chunks = [list(ids[i : i + chunk_tokens]) for i in range(0, len(ids), chunk_tokens)]
    with _open(Path(path)) as (config, read), torch.no_grad():
        config.require_arctic("the measurement")
        hint = "measure on a larger machine, and convert with --imatrix FILE here"
        check_memory(_layer_bytes(config), "a layer of this model in float32", hint)
        found = {
            spec.gguf: Importance(np.zeros((len(spec.hf), spec.shape[1])), np.zeros(len(spec.hf), np.int64))
            for spec in tensor_table(config)
            if len(spec.shape) == 2 and spec.part != "embedding"
        }
        embedding = torch.from_numpy(read("model.embed_tokens.weight"))
        hidden = [embedding[torch.tensor(chunk)][None] for chunk in chunks]
        specs = list(tensor_table(config))
        for layer in range(config.num_hidden_layers):
            progress(layer, config.num_hidden_layers)
            own = [spec for spec in specs if spec.gguf.startswith(f"blk.{layer}.")]
            hidden = _run_layer(config, layer, own, read, hidden, found)
        _add_head(config, read, hidden, found)
        progress(config.num_hidden_layers, config.num_hidden_layers)
    return found


@contextmanager
def _open(path: Path) -> Iterator[tuple[HybridConfig, Read]]:
    """The config, and a way to read one tensor as float32 under its Hugging Face name."""
    source = open_source(path)
    shapes = state_dict_shapes(source.config)
    try:
        yield source.config, lambda name: read_tensor(source, name, shapes[name])
    finally:
        source.close()


def _layer_bytes(config: HybridConfig) -> int:
    """The largest layer in float32."""
    sizes = dict.fromkeys(range(config.num_hidden_layers), 0)
    for spec in tensor_table(config):
        if spec.gguf.startswith("blk."):
            sizes[int(spec.gguf.split(".")[1])] += 4 * math.prod(spec.gguf_shape)
    return max(sizes.values())


def _run_layer(
    config: HybridConfig, layer: int, specs: list[TensorSpec], read: Read, hidden: list[Tensor], found: dict[str, Importance]
) -> list[Tensor]:
    torch_config = ArcticConfig.from_shape(config)
    torch_config._attn_implementation = "sdpa"
    with torch.device("meta"):
        module = ArcticDecoderLayer(torch_config, layer)
    prefix = f"model.layers.{layer}."
    module.load_state_dict({n.removeprefix(prefix): _tensor(read(n)) for s in specs for n in s.hf}, assign=True)
    module.eval()
    for spec in specs:
        if len(spec.shape) == 2:
            for index, name in enumerate(spec.hf):
                linear = module.get_submodule(name.removeprefix(prefix).removesuffix(".weight"))
                linear.register_forward_pre_hook(_Counter(found[spec.gguf], index))
    after = []
    for x in hidden:
        rope = rotary(torch_config, torch.arange(x.shape[1])[None], x.dtype)
        after.append(module(x, rope, attention_mask=None, cache=None)[0])
    return after


def _tensor(values: F32Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


@dataclass(frozen=True, slots=True)
class _Counter:
    """A hook that adds what enters a matrix to its row of an importance."""

    importance: Importance
    index: int

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x_TC = inputs[0].flatten(0, -2).double()
        self.importance.sums[self.index] += x_TC.square().sum(0).numpy()
        self.importance.counts[self.index] += len(x_TC)


def _add_head(config: HybridConfig, read: Read, hidden: list[Tensor], found: dict[str, Importance]) -> None:
    """The head sees the final norm's output; a tied head is the embedding, which then has an importance too."""
    name = "token_embd.weight" if config.tie_word_embeddings else "output.weight"
    norm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.load_state_dict({"weight": _tensor(read("model.norm.weight"))}, assign=True)
    counter = _Counter(Importance(np.zeros((1, config.hidden_size)), np.zeros(1, np.int64)), 0)
    for x in hidden:
        counter(norm, (norm(x),))
    found[name] = counter.importance
