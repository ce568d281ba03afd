"""Grouped-query attention with rotary positions, and the masks it reads (spec 2.2).

Shapes: B sequences, S tokens of each, H hidden, A attention heads, K key-value heads, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from openarctic.model.config import ArcticConfig

# (queries [B, A, S, D], keys [B, K, S, D], values [B, K, S, D]) -> [B, S, A * D]; knows which token may see which.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

# What transformers of this version wants to know to make a mask.
MASK_PARAMETERS = frozenset(inspect.signature(create_causal_mask).parameters)


def rotary(config: ArcticConfig, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, S, D] of positions [B, S], computed in fp32 and rounded to the model's dtype."""
    half = torch.arange(0, config.head_dim, 2, device=position_ids.device, dtype=torch.float32)
    angles = position_ids[:, None, :, None].float() * config.rope_theta ** (-half / config.head_dim)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BASD: Tensor, cos_B1SD: Tensor, sin_B1SD: Tensor) -> Tensor:
    """Rotary embedding over pairs (i, i + D/2): the readable form of what attention does."""
    first, second = x_BASD.chunk(2, -1)
    return x_BASD * cos_B1SD + torch.cat((-second, first), -1) * sin_B1SD


class _Rotate(torch.autograd.Function):
    """`rotate` to the same bits with fewer steps over memory; backwards it turns the other way."""

    @staticmethod
    def forward(ctx: Any, x_BASD: Tensor, cos_B1SD: Tensor, sin_B1SD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_B1SD, sin_B1SD)
        return _turned(x_BASD, cos_B1SD, sin_B1SD, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BASD: Tensor) -> tuple[Tensor, None, None]:
        cos_B1SD, sin_B1SD = ctx.saved_tensors
        return _turned(dout_BASD, cos_B1SD, sin_B1SD, -1), None, None


def _turned(x_BASD: Tensor, cos_B1SD: Tensor, sin_B1SD: Tensor, sense: int) -> Tensor:
    half = x_BASD.shape[-1] // 2
    sin = sin_B1SD[..., :half]  # both halves of the table are the same
    out = x_BASD * cos_B1SD
    out[..., :half].sub_(x_BASD[..., half:] * sin, alpha=sense)
    out[..., half:].add_(x_BASD[..., :half] * sin, alpha=sense)
    return out


def attend_plainly(
    module: nn.Module, q_BASD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """The implementation named `eager`: [B, S, A, D] and the attention weights; softmax in fp32."""
    groups = q_BASD.shape[1] // k_BKSD.shape[1]
    k_BASD, v_BASD = k_BKSD.repeat_interleave(groups, 1), v_BKSD.repeat_interleave(groups, 1)
    scores = q_BASD @ k_BASD.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.float().softmax(-1).to(q_BASD.dtype)
    return (weights @ v_BASD).transpose(1, 2), weights


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions ("rotate half"); q, k and v have biases where `qkv_bias` says so."""

    is_causal = True  # read by transformers' attention functions, as are the four attributes below

    def __init__(self, config: ArcticConfig, index: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, index
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        hidden, has_bias = config.hidden_size, bool(getattr(config, "qkv_bias", False))
        q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, q, bias=has_bias)
        self.k_proj = nn.Linear(hidden, kv, bias=has_bias)
        self.v_proj = nn.Linear(hidden, kv, bias=has_bias)
        self.o_proj = nn.Linear(q, hidden, bias=False)

    def forward(
        self,
        x_BSH: Tensor,
        rope: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None,
        attention: Attention | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, S, H], and the attention weights where the implementation has them.

        Tokens see what `attention_mask` lets them see, or `attention`, which then computes it.
        """
        q, k, v = (p(x_BSH).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = _Rotate.apply(q, *rope), _Rotate.apply(k, *rope)
        if cache is not None:
            # Older transformers tell a static cache where to write; newer ones count for themselves.
            place = ({"cache_position": options["cache_position"]},) if "cache_position" in options else ()
            k, v = cache.update(k, v, self.layer_idx, *place)
        if attention is not None:
            return self.o_proj(attention(q, k, v)), None
        name = self.config._attn_implementation
        compute = attend_plainly if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS[name]
        out, weights = compute(self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling, **options)
        return self.o_proj(out.reshape(*x_BSH.shape[:-1], -1)), weights


def causal_mask(
    config: ArcticConfig, x_BSH: Tensor, attention_mask: Tensor | None, cache: Cache | None, position_ids: Tensor, places: Tensor
) -> Any:
    """The mask in the form that the configured attention implementation reads; None where causality says it all.

    `places` [S] are the tokens' places in the cache.
    """
    values = {
        "config": config,
        "inputs_embeds": x_BSH,
        "input_embeds": x_BSH,
        "attention_mask": attention_mask,
        "cache": cache,
        "past_key_values": cache,
        "cache_position": places,
        "position_ids": position_ids,
    }
    return create_causal_mask(**{name: value for name, value in values.items() if name in MASK_PARAMETERS})
