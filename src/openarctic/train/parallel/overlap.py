"""The schedule that Arctic's layout allows: as the experts read a layer's input, their tokens travel under the dense part.

    router, dispatch starts | attention | experts, chunk by chunk; each chunk's combine starts | residual MLP | combine ends

The dispatch is under attention, the combine under the residual MLP (and the next chunk's products). In the backward pass the
gradient of the combine travels under the residual MLP and that of the dispatch under attention (`exchange.py` says why). The sums
are those of `ArcticDecoderLayer.compute`, in the same order. A layer that is not parallel has nothing to put beside its experts.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor

from openarctic.model.hybrid import ArcticDecoderLayer, ArcticForCausalLM, RouterOutput
from openarctic.train.parallel.expert import ExpertParallel


def overlap_layers(model: ArcticForCausalLM) -> None:
    """Give the model's parallel layers the overlapped schedule, in place; their experts must have been spread."""
    for layer in model.model.layers:
        if layer.is_parallel:
            layer.compute = MethodType(_overlapped, layer)


def _overlapped(
    layer: ArcticDecoderLayer, x_BSH: Tensor, rope: tuple[Tensor, Tensor], **options: Any
) -> tuple[Tensor, Tensor | None, RouterOutput]:
    """`ArcticDecoderLayer.compute` of a parallel layer, in the order in which its work can run side by side."""
    moe = layer.block_sparse_moe
    dispatch = moe.dispatch
    assert isinstance(dispatch, ExpertParallel)
    x_TH = layer.post_attention_layernorm(x_BSH).flatten(0, -2)
    route = moe.choose(x_TH)
    journey = dispatch.start(x_TH, route, moe.experts)
    attended_BSH, weights = layer.self_attn(layer.input_layernorm(x_BSH), rope, **options)
    h_BSH = x_BSH + attended_BSH
    journey.compute()
    dense_BSH = h_BSH + layer.residual_mlp(layer.residual_layernorm(h_BSH))
    return dense_BSH + journey.result().view_as(x_BSH), weights, RouterOutput.of(route)
