"""The dense-MoE hybrid transformer, exactly as Arctic computes it (spec/arctic-architecture.md section 2).

In a parallel layer the experts read the layer's *input*, not what attention made of it:

    h = x + Attn(norm x);   y = h + ResidualMLP(norm h) + MoE(norm x)

Every other layer is the usual h = x + Attn(norm x); y = h + F(norm h). Module names give the Hugging Face tensor names.

Shapes: T tokens (all sequences of a call laid end to end), H hidden, A attention heads, K key-value heads, D head width,
E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openarctic.model.config import ArcticConfig

# (queries [T, A, D], keys [T, K, D], values [T, K, D]) -> [T, A * D]; knows which token may see which.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the weight applied after the cast back to the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_TH: Tensor) -> Tensor:
        """Normalise each token."""
        return self.weight * F.rms_norm(x_TH.float(), x_TH.shape[-1:], eps=self.eps).to(x_TH.dtype)


class MLP(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(hidden, width, bias=False)
        self.w2 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_TH: Tensor) -> Tensor:
        """Each token on its own."""
        return self.w2(F.silu(self.w1(x_TH)) * self.w3(x_TH))


class SparseMoE(nn.Module):
    """Top-k of E experts, dropless: fp32 softmax over all, then the k weights renormalised to 1 when k > 1."""

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(MLP(config.hidden_size, config.intermediate_size) for _ in range(config.num_local_experts))

    def forward(self, x_TH: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed expert output [T, H] and this layer's balancing loss (a scalar, k at perfect balance)."""
        probs_TE = self.gate(x_TH).float().softmax(-1)
        weights_Tk, chosen_Tk = probs_TE.topk(self.top_k, -1)
        if self.top_k > 1:
            weights_Tk = weights_Tk / weights_Tk.sum(-1, keepdim=True)
        out_TH = torch.zeros_like(x_TH)
        for e, expert in enumerate(self.experts):
            tokens, rank = (chosen_Tk == e).nonzero(as_tuple=True)
            if len(tokens):
                scaled = expert(x_TH[tokens]) * weights_Tk[tokens, rank, None]
                out_TH = out_TH.index_add(0, tokens, scaled.to(x_TH.dtype))
        return out_TH, self._balance(probs_TE, chosen_Tk)

    def _balance(self, probs_TE: Tensor, chosen_Tk: Tensor) -> Tensor:
        """E * sum_j sum_e f[j, e] * P[e] (spec 2.4); the choice carries no gradient."""
        num_experts = probs_TE.shape[1]
        share_E = F.one_hot(chosen_Tk, num_experts).float().mean(0).sum(0)
        return num_experts * (share_E * probs_TE.mean(0)).sum()


class DenseFFN(nn.Module):
    """The MLP of a layer without experts, under the name that Arctic checkpoints give it."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.mlp = MLP(hidden, width)

    def forward(self, x_TH: Tensor) -> tuple[Tensor, None]:
        """The MLP, and no balancing loss."""
        return self.mlp(x_TH), None


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions ("rotate half"), no biases."""

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, kv, bias=False)
        self.v_proj = nn.Linear(hidden, kv, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x_TH: Tensor, rope: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        """Tokens see what `attention` lets them see."""
        q, k, v = (p(x_TH).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(attention(rotate(q, *rope), rotate(k, *rope), v))


def rotate(x_TAD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    """Rotary embedding over pairs (i, i + D/2)."""
    first, second = x_TAD.chunk(2, -1)
    return x_TAD * cos_T1D + torch.cat((-second, first), -1) * sin_T1D


class Layer(nn.Module):
    """One transformer layer; `residual_*` exist only where attention and experts run in parallel."""

    def __init__(self, config: ArcticConfig, index: int) -> None:
        super().__init__()
        is_moe = config.is_moe_layer(index)
        self.is_parallel = is_moe and config.parallel_attn_mlp_res
        self.self_attn = SelfAttention(config)
        self.block_sparse_moe = SparseMoE(config) if is_moe else DenseFFN(config.hidden_size, config.dense_width)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.is_parallel:
            self.residual_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.residual_mlp = MLP(config.hidden_size, config.residual_width)

    def forward(self, x_TH: Tensor, rope: tuple[Tensor, Tensor], attention: Attention) -> tuple[Tensor, Tensor | None]:
        """The layer's output and its balancing loss."""
        h_TH = x_TH + self.self_attn(self.input_layernorm(x_TH), rope, attention)
        if not self.is_parallel:
            out_TH, balance = self.block_sparse_moe(self.post_attention_layernorm(h_TH))
            return h_TH + out_TH, balance
        # `post_attention_layernorm` is a historical name: here it normalises the layer's input (spec trap 2).
        out_TH, balance = self.block_sparse_moe(self.post_attention_layernorm(x_TH))
        return h_TH + self.residual_mlp(self.residual_layernorm(h_TH)) + out_TH, balance


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head_dim, self.theta = config.head_dim, config.rope_theta

    def forward(self, ids_T: Tensor, positions_T: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        """Final hidden states [T, H] and the sum of the balancing losses."""
        x_TH = self.embed_tokens(ids_T)
        rope = self.rope(positions_T, x_TH.dtype)
        losses = []
        for layer in self.layers:
            x_TH, balance = layer(x_TH, rope, attention)
            if balance is not None:
                losses.append(balance)
        return self.norm(x_TH), torch.stack(losses).sum() if losses else x_TH.new_zeros(())

    def rope(self, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [T, 1, D], computed in fp32 and rounded to the model's dtype."""
        half = torch.arange(0, self.head_dim, 2, device=positions_T.device, dtype=torch.float32)
        angles = positions_T[:, None].float() * self.theta ** (-half / self.head_dim)
        angles = torch.cat((angles, angles), -1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


@dataclass(frozen=True, slots=True)
class Output:
    """logits [B, S, V] in fp32; loss = cross-entropy + router_aux_loss_coef * aux_loss when labels were given."""

    logits: Tensor
    loss: Tensor | None
    aux_loss: Tensor


class ArcticForCausalLM(nn.Module):
    """The language model. State-dict names are those of the Hugging Face checkpoints."""

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        """input_ids and labels [B, S]; labels of -100 do not count. Every sequence starts at position 0."""
        batch, length = input_ids.shape
        positions = torch.arange(length, device=input_ids.device).repeat(batch)
        hidden, aux_loss = self.model(input_ids.flatten(), positions, CausalAttention(batch))
        logits = self.lm_head(hidden).float().view(batch, length, -1)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            loss = loss + self.config.router_aux_loss_coef * aux_loss
        return Output(logits, loss, aux_loss)


@dataclass(frozen=True, slots=True)
class CausalAttention:
    """`batch` sequences of equal length laid end to end; each token sees its own sequence up to itself."""

    batch: int

    def __call__(self, q_TAD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        """Plain causal attention."""
        q, k, v = (x.unflatten(0, (self.batch, -1)).transpose(1, 2) for x in (q_TAD, k_TKD, v_TKD))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).flatten(2).flatten(0, 1)


def parameter_counts(config: ArcticConfig) -> dict[str, int]:
    """Parameters in all, and active per token (top-k experts), counted on the meta device."""
    with torch.device("meta"):
        model = ArcticForCausalLM(config)
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    share = config.num_experts_per_tok / config.num_local_experts if config.num_local_experts else 0
    return {"total": total, "active": total - experts + round(experts * share)}
