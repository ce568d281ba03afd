"""Bytes that a training step's forward pass keeps for its backward pass, with and without selective recomputation.

An inventory of what `openarctic.model` keeps, tensor by tensor, in units of one value a token; tests/model/test_recompute.py
measures the same. Without recomputation a layer keeps what every step of it gave; with it, products of matrices, attention and
the sums between layers.
"""

from __future__ import annotations

from openarctic.formats.config import HybridConfig


def saved_bytes(
    config: HybridConfig, batch: int, length: int, *, recompute: bool, value_bytes: int = 4, with_logits: bool = True
) -> int:
    """Bytes held when the backward pass of `batch` sequences of `length` tokens begins, dropless.

    `value_bytes` is the size of an activation. With 4 it is an upper bound for bf16 autocast too, and not far above: sums between
    layers and norms stay float32, and every product keeps an input of its own, cast to bf16. Copies of matrices come on top:
    autocast holds those outside of experts and embedding in bf16 until the backward pass.

    The head keeps the logits' log-softmax in float32, and the backward pass begins with a gradient as large: most of it for a
    large vocabulary. A loss without logits has neither, but already the gradients
    of hidden states and head.
    """
    hidden, tokens = config.hidden_size, batch * length
    a_token = hidden  # what the embedding gave
    for layer in range(config.num_hidden_layers):
        a_token += _attention(config, recompute)
        a_token += _feed_forward(config, layer, recompute)
    a_token += 2 * hidden + 1  # the final norm and its scale, never computed again
    tables = 2 * length * config.head_dim * value_bytes
    if with_logits:
        head = 2 * 4 * tokens * config.vocab_size
    else:
        head = hidden * (tokens * value_bytes + 4 * config.vocab_size)
    return tokens * a_token * value_bytes + tables + head


def _attention(config: HybridConfig, recompute: bool) -> int:
    """A norm, turned queries and keys, values, what was attended to with a scale a head, and the sum after it."""
    attended = 2 * config.q_width + 2 * config.kv_width + config.num_attention_heads
    return attended + _norm(config, recompute) + config.hidden_size


def _feed_forward(config: HybridConfig, layer: int, recompute: bool) -> int:
    hidden = config.hidden_size
    if not config.is_moe_layer(layer):
        return _norm(config, recompute) + _mlp(config.dense_width, recompute) + hidden
    kept = _norm(config, recompute) + _experts(config, recompute) + hidden
    if config.parallel_attn_mlp_res:
        kept += _norm(config, recompute) + _mlp(config.residual_width, recompute)
    return kept


def _norm(config: HybridConfig, recompute: bool) -> int:
    """A scale; and the normalised input, before and after the weight."""
    return 1 + (0 if recompute else 2 * config.hidden_size)


def _mlp(width: int, recompute: bool) -> int:
    """Gate and up; and silu of the gate and its product with up."""
    return width * (2 if recompute else 4)


def _experts(config: HybridConfig, recompute: bool) -> int:
    """The chosen experts' MLPs on gathered rows, and what the router needs of its logits."""
    routes, experts = config.num_experts_per_tok, config.num_local_experts
    rows = _mlp(config.intermediate_size, recompute) + (0 if recompute else config.hidden_size)
    return routes * rows + experts * (1 if recompute else 2)
