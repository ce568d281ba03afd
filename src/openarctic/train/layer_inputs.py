"""What the layers of a dense model read on a text: inputs of routers that upcycling will add, and how MLP neurons answer.

The model passes through memory one layer at a time, as in `model/importance.py`.

T tokens, H hidden, N neurons of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openarctic.errors import UserError
from openarctic.formats.imatrix import CHUNK_TOKENS
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import F32Array
from openarctic.formats.resume import Note
from openarctic.formats.sources import Source
from openarctic.formats.state import read_tensor
from openarctic.formats.upcycled import Fit, UpcycleConfig, choose_neurons, clustered, hybrid_config
from openarctic.machine import check_memory
from openarctic.model.attention import SelfAttention, rotary
from openarctic.model.config import ArcticConfig
from openarctic.model.hybrid import MLP, ArcticRMSNorm
from openarctic.train.warm_router import fit_router

ACTIVATION_TOKENS = 2048  # which make a neuron's features
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """A chosen layer: the normed inputs of its router-to-be [T, H], and its neurons' activations [N, some tokens]."""

    layer: int
    router_TH: F32Array
    neurons_NT: F32Array


def fit_to_text(
    source: Source,
    config: UpcycleConfig,
    ids: Sequence[int],
    *,
    progress: Progress = lambda done, of: None,
    note: Note = lambda text: None,
) -> Fit:
    """Experts of neurons that fire together (`config.experts` "clustered") and warm routers (`config.is_warm`), on `ids`.

    `note` is told how even the routers are. Raises what `layer_inputs` and `fit_router` raise.
    """
    neurons = {} if config.experts == "clustered" else choose_neurons(source, config)
    routers = {}
    for inputs in layer_inputs(source, config, ids, progress):
        if config.experts == "clustered":
            neurons[inputs.layer] = clustered(inputs.neurons_NT, config, inputs.layer)
        if config.is_warm:
            experts, top_k = config.num_local_experts, config.num_experts_per_tok
            router = fit_router(inputs.router_TH, experts, top_k, config.seed + inputs.layer)
            even = f"{router.fullest:.2f} times the mean load, the emptiest {router.emptiest:.2f}"
            note(f"layer {inputs.layer}: on tokens it was not fitted to, the fullest expert has {even}")
            routers[inputs.layer] = router.weight_EH
    return Fit(neurons, routers)


@torch.no_grad()
def layer_inputs(
    source: Source, config: UpcycleConfig, ids: Sequence[int], progress: Progress = lambda done, of: None
) -> Iterator[LayerInputs]:
    """The layers of `config.layers` on a text, in order; the layers above the last are not run.

    `progress` gets (layers done, layers). Raises UserError for too short a text and what `hybrid_config` raises, CapacityError
    for a layer that does not fit into memory.
    """
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} tokens", "give some thousand: text like what the model will see")
    shape, shapes = hybrid_config(source.config, config), state_dict_shapes(source.config)
    layer_bytes = 4 * sum(int(np.prod(size)) for name, size in shapes.items() if name.startswith("model.layers.0."))
    check_memory(layer_bytes, "a layer of this model in float32", "upcycle without a text, or on a larger machine")
    torch_config = ArcticConfig.from_shape(shape)
    torch_config._attn_implementation = "sdpa"

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(read_tensor(source, name, shapes[name])))

    embedding = read("model.embed_tokens.weight")
    hidden = [embedding[torch.tensor(ids[i : i + CHUNK_TOKENS])][None] for i in range(0, len(ids), CHUNK_TOKENS)]
    del embedding
    last = max(config.layers)
    for layer in range(last + 1):
        progress(layer, last + 1)
        prefix = f"model.layers.{layer}."
        with torch.device("meta"):
            module = _DenseLayer(torch_config, layer)
        own = {name.removeprefix(prefix): read(name) for name in shapes if name.startswith(prefix)}
        module.load_state_dict({name.replace("block_sparse_moe.", ""): tensor for name, tensor in own.items()}, assign=True)
        neurons: list[Tensor] = []
        room = ACTIVATION_TOKENS if layer in config.layers and config.experts == "clustered" else 0
        if layer in config.layers:
            router_TH = torch.cat([module.post_attention_layernorm(x)[0] for x in hidden])
        for index, x in enumerate(hidden):
            hidden[index], fired = module(x, room)
            room -= len(fired)
            neurons.append(fired)
        if layer in config.layers:
            yield LayerInputs(layer, router_TH.numpy(), torch.cat(neurons).T.contiguous().numpy())
    progress(last + 1, last + 1)


class _DenseLayer(nn.Module):
    """A layer without experts that also tells what its neurons did."""

    def __init__(self, config: ArcticConfig, index: int) -> None:
        super().__init__()
        self.config = config
        self.self_attn = SelfAttention(config, index)
        self.mlp = MLP(config.hidden_size, config.dense_width)
        self.input_layernorm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_1TH: Tensor, room: int) -> tuple[Tensor, Tensor]:
        """The layer's output, and activations [at most `room` tokens, N]."""
        rope = rotary(self.config, torch.arange(x_1TH.shape[1])[None], x_1TH.dtype)
        h_1TH = x_1TH + self.self_attn(self.input_layernorm(x_1TH), rope, attention_mask=None, cache=None)[0]
        normed_1TH = self.post_attention_layernorm(h_1TH)
        fired_1TN = F.silu(self.mlp.w1(normed_1TH)) * self.mlp.w3(normed_1TH)
        return h_1TH + self.mlp.w2(fired_1TN), fired_1TN[0, :room]
