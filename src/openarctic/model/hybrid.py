"""The dense-MoE hybrid transformer, exactly as Arctic computes it (spec/arctic-architecture.md section 2).

In a parallel layer the experts read the layer's *input*, not what attention made of it:

    h = x + Attn(norm x);   y = h + ResidualMLP(norm h) + MoE(norm x)

Every other layer is the usual h = x + Attn(norm x); y = h + F(norm h). Module names give the Hugging Face tensor names, and
the classes are transformers' own kind, so that generation, adapters, quantised loading and trainers work on them.

Shapes: B sequences, S tokens of each, T = B * S, H hidden, A attention heads, K key-value heads, D head width, E experts,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast

from openarctic.errors import UserError
from openarctic.model.attention import MASK_PARAMETERS, Attention, SelfAttention, causal_mask, rotary
from openarctic.model.config import ArcticConfig
from openarctic.model.experts import combine_experts
from openarctic.model.head_loss import IGNORED, head_loss
from openarctic.model.mlp import MLP
from openarctic.model.norm import ArcticRMSNorm
from openarctic.model.pretrained import ArcticPreTrainedModel
from openarctic.model.recompute import saving
from openarctic.model.routing import Route, RouteStats, RoutingConfig, Total, jitter, route, updated_bias

# transformers renamed the key-value cache in the middle of its fifth version; we answer with the name that it knows.
_CACHE = "cache" if "cache" in {f.name for f in fields(MoeCausalLMOutputWithPast)} else "past_key_values"


class Router(nn.Linear):
    """The matrix of router logits. In training it works in float32 whatever the weights are, in evaluation in the weights' own
    number type, as published; autocast never reaches it."""

    def forward(self, x_TH: Tensor) -> Tensor:
        """Logits [T, E]."""
        dtype = torch.float32 if self.training else self.weight.dtype
        with torch.autocast(x_TH.device.type, enabled=False):
            return F.linear(x_TH.to(dtype), self.weight.to(dtype))


class RouterOutput(NamedTuple):
    """What a layer's router said: its logits [T, E], its unweighted losses (scalars), and numbers for the log."""

    logits_TE: Tensor
    balance: Tensor
    z_loss: Tensor
    stats: RouteStats

    @classmethod
    def of(cls, chosen: Route) -> RouterOutput:
        """What the model wants to know of a route."""
        return cls(chosen.logits_TE, chosen.balance, chosen.z_loss, chosen.stats)


class SparseMoE(nn.Module):
    """Top-k of E experts; `routing` says how the router behaves in training.

    `dispatch(x_TH, route, experts)` runs the experts; expert parallelism puts its own function there. `total` sums over
    processes what the balancing needs to know of all of them.
    """

    choice_bias: Tensor | None

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.gate = Router(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(MLP(config.hidden_size, config.intermediate_size) for _ in range(config.num_local_experts))
        self.dispatch: Callable[[Tensor, Route, nn.ModuleList], Tensor] = combine_experts
        self.total: Total | None = None
        self.demand_E: Tensor | None = None
        self.register_buffer("choice_bias", None)
        self.set_routing(RoutingConfig())

    def set_routing(self, routing: RoutingConfig) -> None:
        """From the next forward on. The bias of loss-free balancing exists, in the state too, while it has a rate."""
        self.routing = routing
        if not routing.bias_update_rate:
            self.choice_bias, self.demand_E = None, None
        elif self.choice_bias is None:
            self.choice_bias = torch.zeros(self.gate.out_features, device=self.gate.weight.device)

    def forward(self, x_BSH: Tensor) -> tuple[Tensor, RouterOutput]:
        """Mixed expert output [B, S, H], and what the router said."""
        x_TH = x_BSH.flatten(0, -2)
        chosen = self.choose(x_TH)
        out_TH = self.dispatch(x_TH, chosen, self.experts)
        return out_TH.view_as(x_BSH), RouterOutput.of(chosen)

    def choose(self, x_TH: Tensor) -> Route:
        """Where each token goes."""
        seen_TH = jitter(x_TH.float(), self.routing.jitter) if self.training and self.routing.jitter else x_TH
        return route(
            self.gate(seen_TH), self.top_k, self.routing, training=self.training, bias_E=self.choice_bias, total=self.total
        )

    def note_demand(self, demand_E: Tensor) -> None:
        """Count towards the next `update_bias` what the experts were chosen for."""
        if self.choice_bias is not None:
            self.demand_E = demand_E if self.demand_E is None else self.demand_E + demand_E

    def update_bias(self, total: Total | None = None) -> None:
        """Move the bias against what was noted since the last time; `total` sums that over processes."""
        if self.choice_bias is not None and self.demand_E is not None:
            demand_E = self.demand_E if total is None else total(self.demand_E)
            self.choice_bias = updated_bias(self.choice_bias, demand_E, self.routing.bias_update_rate)
        self.demand_E = None


class DenseFFN(nn.Module):
    """The MLP of a layer without experts, under the name that Arctic checkpoints give it."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.mlp = MLP(hidden, width)

    def forward(self, x_BSH: Tensor) -> tuple[Tensor, None]:
        """The MLP, and no router."""
        return self.mlp(x_BSH), None


class ArcticDecoderLayer(GradientCheckpointingLayer):
    """One transformer layer; `residual_*` exist only where attention and experts run in parallel."""

    def __init__(self, config: ArcticConfig, index: int) -> None:
        super().__init__()
        self.recompute = False  # see openarctic.model.recompute
        self.is_parallel = config.is_parallel_layer(index)
        self.self_attn = SelfAttention(config, index)
        is_moe = config.is_moe_layer(index)
        self.block_sparse_moe = SparseMoE(config) if is_moe else DenseFFN(config.hidden_size, config.dense_width)
        self.input_layernorm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.is_parallel:
            self.residual_layernorm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.residual_mlp = MLP(config.hidden_size, config.residual_width)

    def forward(
        self, x_BSH: Tensor, rope: tuple[Tensor, Tensor], **options: Any
    ) -> tuple[Tensor, Tensor | None, RouterOutput | None]:
        """The layer's output, its attention weights and what its router said."""
        with saving(self.recompute and not self.gradient_checkpointing):
            return self.compute(x_BSH, rope, **options)

    def compute(
        self, x_BSH: Tensor, rope: tuple[Tensor, Tensor], **options: Any
    ) -> tuple[Tensor, Tensor | None, RouterOutput | None]:
        """What `forward` gives, in the plain order; expert parallelism puts the overlapped order here."""
        attended_BSH, weights = self.self_attn(self.input_layernorm(x_BSH), rope, **options)
        h_BSH = x_BSH + attended_BSH
        if not self.is_parallel:
            out_BSH, routing = self.block_sparse_moe(self.post_attention_layernorm(h_BSH))
            return h_BSH + out_BSH, weights, routing
        # `post_attention_layernorm` is a historical name: here it normalises the layer's input (spec trap 2).
        out_BSH, routing = self.block_sparse_moe(self.post_attention_layernorm(x_BSH))
        return h_BSH + self.residual_mlp(self.residual_layernorm(h_BSH)) + out_BSH, weights, routing


@dataclass
class ArcticModelOutput(MoeModelOutputWithPast):
    """transformers' output of a mixture-of-experts model, the sums of the layers' balancing and z-losses, and each MoE layer's
    routing in numbers."""

    aux_loss: Tensor | None = None
    z_loss: Tensor | None = None
    routes: tuple[RouteStats, ...] | None = None


@dataclass
class ArcticCausalLMOutput(MoeCausalLMOutputWithPast):
    """The same of a language model. Without logits, `correct` says how many labels that count were the likeliest."""

    z_loss: Tensor | None = None
    routes: tuple[RouteStats, ...] | None = None
    cross_entropy: Tensor | None = None
    correct: Tensor | None = None


class ArcticModel(ArcticPreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ArcticDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = ArcticRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_router_logits: bool | None = None,
        attention: Attention | None = None,
        **options: Any,
    ) -> ArcticModelOutput:
        """input_ids [B, S], or inputs_embeds [B, S, H]; attention_mask [B, past + S] with 0 for padding.

        `attention` replaces mask and attention function alike (shared-prefix packs). The key-value cache is called `cache`,
        or `past_key_values` as older callers do. The output's `aux_loss` sums the layers' balancing losses.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("exactly one of input_ids and inputs_embeds must be given")
        x_BSH = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(cache if cache is not None else past_key_values, use_cache)
        past = cache.get_seq_length() if cache is not None else 0
        places = torch.arange(past, past + x_BSH.shape[1], device=x_BSH.device)
        position_ids = places[None] if position_ids is None else position_ids
        if "cache_position" in MASK_PARAMETERS:
            options["cache_position"] = places
        mask = None if attention else causal_mask(self.config, x_BSH, attention_mask, cache, position_ids, places)
        rope = rotary(self.config, position_ids, x_BSH.dtype)
        keep = _Records(
            hidden_states=_wanted(output_hidden_states, self.config, "output_hidden_states"),
            attentions=_wanted(output_attentions, self.config, "output_attentions"),
            router_logits=_wanted(output_router_logits, self.config, "output_router_logits"),
        )
        routers: list[RouterOutput] = []
        for layer in self.layers:
            keep.add("hidden_states", x_BSH)
            x_BSH, weights, router = layer(
                x_BSH, rope, attention_mask=mask, cache=cache, attention=attention, position_ids=position_ids, **options
            )
            keep.add("attentions", weights)
            if router is not None:
                keep.add("router_logits", router.logits_TE)
                routers.append(router)
                # Noted here and not in the layer, which may be computed a second time in the backward pass.
                if self.training:
                    layer.block_sparse_moe.note_demand(router.stats.demand_E)
        x_BSH = self.norm(x_BSH)
        keep.add("hidden_states", x_BSH)
        return ArcticModelOutput(
            last_hidden_state=x_BSH,
            aux_loss=_sum_on([router.balance for router in routers], x_BSH.device),
            z_loss=_sum_on([router.z_loss for router in routers], x_BSH.device),
            routes=tuple(router.stats for router in routers),
            **keep.values(),
            **{_CACHE: cache},
        )

    def set_routing(self, routing: RoutingConfig) -> None:
        """Every router behaves so from the next forward on."""
        for moe in self._moes():
            moe.set_routing(routing)

    def update_router_biases(self, total: Total | None = None) -> None:
        """After an optimiser's step, when `bias_update_rate` is set: balance by what was routed since the last time.

        `total` sums over processes. Without a rate this does nothing.
        """
        for moe in self._moes():
            moe.update_bias(total)

    def _moes(self) -> list[SparseMoE]:
        return [layer.block_sparse_moe for layer in self.layers if isinstance(layer.block_sparse_moe, SparseMoE)]

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        if self.gradient_checkpointing and self.training:
            return None  # layers are computed again in the backward pass and would append twice
        if cache is None and _wanted(use_cache, self.config, "use_cache") and not self.training:
            return DynamicCache(config=self.config)
        return cache


def _sum_on(scalars: list[Tensor], device: torch.device) -> Tensor:
    """Their sum; one by one, as layers may live on several devices."""
    total = torch.zeros((), device=device)
    for scalar in scalars:
        total = total + scalar.to(total)
    return total


class _Records:
    """Tensors of every layer, kept for the names that were asked for."""

    def __init__(self, **wanted: bool) -> None:
        self._kept: dict[str, list[Any]] = {name: [] for name, is_wanted in wanted.items() if is_wanted}

    def add(self, name: str, tensor: Tensor | None) -> None:
        if name in self._kept:
            self._kept[name].append(tensor)

    def values(self) -> dict[str, tuple[Any, ...]]:
        return {name: tuple(tensors) for name, tensors in self._kept.items()}


def _wanted(given: bool | None, config: ArcticConfig, name: str) -> bool:
    return bool(getattr(config, name, False) if given is None else given)


class ArcticForCausalLM(ArcticPreTrainedModel, GenerationMixin):
    """The language model. State-dict names are those of the Hugging Face checkpoints."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - the base class declares a dict

    def __init__(self, config: ArcticConfig) -> None:
        super().__init__(config)
        self.model = ArcticModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.routing = RoutingConfig()
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        with_logits: bool = True,
        num_items_in_batch: int | Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> ArcticCausalLMOutput | tuple[Any, ...]:
        """Logits [B, S, V] in fp32; input_ids and labels [B, S], labels of -100 do not count.

        With labels, loss = cross-entropy of the next token + router_aux_loss_coef * aux_loss (spec 2.4), and in training +
        z_loss_coef * z_loss. `num_items_in_batch` labels are those of all batches whose losses the caller sums: the routers'
        losses then count by this batch's part of them. `logits_to_keep` computes logits of the last so many positions (0: of
        all), or of the positions in a tensor. Without logits, the loss is computed piece by piece, and `logits` are None: the
        cheaper way to train.
        """
        if labels is None and not with_logits:
            raise UserError("without logits and without labels there is nothing to compute", "give labels, or want logits")
        base = self.model(
            input_ids,
            attention_mask,
            position_ids,
            cache=cache,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **options,
        )
        hidden_BSH = base.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        logits, loss, cross_entropy, correct = None, None, None, None
        if with_logits:
            logits = self.lm_head(hidden_BSH if isinstance(kept, int) else hidden_BSH[:, kept]).float()
        if labels is not None:
            if logits is None:
                cross_entropy, correct = self._cross_entropy(hidden_BSH, labels, num_items_in_batch)
            else:
                cross_entropy = self.loss_function(
                    logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
                )
            routers = self.config.router_aux_loss_coef * base.aux_loss.to(cross_entropy.device)
            if self.training and self.routing.z_loss_coef:
                routers = routers + self.routing.z_loss_coef * base.z_loss.to(routers.device)
            if num_items_in_batch is not None:  # of several accumulated batches: this one's part
                routers = routers * (labels != -100).sum().to(routers.device) / num_items_in_batch
            loss = cross_entropy + routers
        output = ArcticCausalLMOutput(
            loss=loss,
            aux_loss=base.aux_loss,
            z_loss=base.z_loss,
            routes=base.routes,
            cross_entropy=cross_entropy,
            correct=correct,
            logits=logits,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
            router_logits=base.router_logits,
            **{_CACHE: getattr(base, _CACHE)},
        )
        wants_object = self.config.return_dict if return_dict is None else return_dict
        return output if wants_object else output.to_tuple()

    def _cross_entropy(self, hidden_BSH: Tensor, labels: Tensor, num_items: int | Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean over labels that count, each the next token of its position, or their sum over `num_items`; and how many of them
        were the likeliest."""
        following = labels[:, 1:].flatten()
        total, correct = head_loss(self.lm_head, hidden_BSH[:, :-1].flatten(0, 1), following)
        return total / ((following != IGNORED).sum() if num_items is None else num_items), correct

    def set_routing(self, routing: RoutingConfig) -> None:
        """Every router behaves so in training from the next forward on."""
        self.routing = routing
        self.model.set_routing(routing)

    def update_router_biases(self, total: Total | None = None) -> None:
        """See `ArcticModel.update_router_biases`."""
        self.model.update_router_biases(total)


def parameter_counts(config: ArcticConfig) -> dict[str, int]:
    """Parameters in all, and active per token (top-k experts), counted on the meta device."""
    with torch.device("meta"):
        model = ArcticForCausalLM(config)
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    share = config.num_experts_per_tok / config.num_local_experts if config.num_local_experts else 0
    return {"total": total, "active": total - experts + round(experts * share)}
