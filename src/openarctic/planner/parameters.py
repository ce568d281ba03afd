"""Parameters of a configuration by part, in closed form (spec 4). `formats.names.tensor_table` is the other way to them."""

from __future__ import annotations

from dataclasses import dataclass

from openarctic.formats.config import HybridConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Counts over the whole model. A tied head costs nothing: it is the embedding matrix."""

    embedding: int
    attention: int
    residual_mlp: int
    dense_mlp: int
    router: int
    experts: int
    norms: int
    biases: int
    head: int
    num_experts: int
    experts_per_token: int

    @property
    def dense(self) -> int:
        """All but the experts: what every token passes."""
        matrices = self.embedding + self.attention + self.residual_mlp + self.dense_mlp + self.router + self.head
        return matrices + self.norms + self.biases

    @property
    def total(self) -> int:
        """Everything."""
        return self.dense + self.experts

    @property
    def expert(self) -> int:
        """One expert slot, summed over all layers that have experts; 0 without any."""
        return self.experts // self.num_experts if self.num_experts else 0

    @property
    def active(self) -> int:
        """What one token passes: the dense part and its top-k experts."""
        return self.dense + self.experts_per_token * self.expert

    @property
    def active_without_lookup(self) -> int:
        """`active` less the embedding table, of which a token reads one row; a tied table stays, as it is the head."""
        return self.active - (self.embedding if self.head else 0)

    @property
    def active_matrices(self) -> int:
        """Weights that a token is multiplied with: all that are active but norms, biases and lookup."""
        return self.active_without_lookup - self.norms - self.biases


def parameters(config: HybridConfig) -> Parameters:
    """Parameters by part; exact for every layout."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    moe_layers = layers // config.moe_layer_frequency if config.num_local_experts else 0
    moe_layers = moe_layers if config.moe_layers is None else len(config.moe_layers)
    parallel_layers = moe_layers if config.parallel_attn_mlp_res else 0
    return Parameters(
        embedding=config.vocab_size * hidden,
        attention=layers * 2 * hidden * (config.q_width + config.kv_width),
        residual_mlp=parallel_layers * 3 * hidden * config.residual_width,
        dense_mlp=(layers - moe_layers) * 3 * hidden * config.dense_width,
        router=moe_layers * config.num_local_experts * hidden,
        experts=moe_layers * config.num_local_experts * 3 * hidden * config.intermediate_size,
        norms=(2 * layers + parallel_layers + 1) * hidden + layers * config.qk_norm_width,
        biases=layers * config.bias_width,
        head=0 if config.tie_word_embeddings else config.vocab_size * hidden,
        num_experts=config.num_local_experts if moe_layers else 0,
        experts_per_token=config.num_experts_per_tok if moe_layers else 0,
    )
