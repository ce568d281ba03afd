"""The dense-MoE hybrid on vLLM's own layers, computing what `model.hybrid` computes (spec/arctic-architecture.md section 2).

vLLM brings paged attention, fused experts, tensor, expert and pipeline parallelism, adapters and quantisation; here is only
how they are wired. The one trick: to vLLM the residual MLP is a *shared expert* with an input of its own. Its output and the
experts' are summed before the one all-reduce, and on GPUs vLLM runs it beside the experts or their all-to-all.

Shapes: T tokens of the batch laid end to end, H hidden, V vocabulary. Between layers the stream travels as two tensors whose
sum it is, as vLLM's norms add them on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.logger import init_logger
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    PPMissingLayer,
    WeightsMapper,
    extract_layer_index,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.model.vllm.checkpoint import CheckedNames

logger = init_logger(__name__)


class MLP(nn.Module):
    """w2(silu(w1 x) * w3 x), w1 and w3 in one matrix; a partial sum over the ranks unless it is told to `reduce`."""

    def __init__(self, hidden: int, width: int, quant_config: QuantizationConfig | None, prefix: str, reduce: bool) -> None:
        super().__init__()
        self.w13 = MergedColumnParallelLinear(hidden, [width] * 2, bias=False, quant_config=quant_config, prefix=f"{prefix}.w13")
        self.w2 = RowParallelLinear(
            width, hidden, bias=False, reduce_results=reduce, quant_config=quant_config, prefix=f"{prefix}.w2"
        )
        self.activation = SiluAndMul()

    def forward(self, x_TH: Tensor) -> Tensor:
        """Each token on its own."""
        out, _ = self.w13(x_TH)
        out_TH, _ = self.w2(self.activation(out))
        return out_TH


class DenseFFN(nn.Module):
    """The MLP of a layer without experts, under the name that Arctic checkpoints give it."""

    def __init__(self, shape: HybridConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.mlp = MLP(shape.hidden_size, shape.dense_width, quant_config, f"{prefix}.mlp", reduce=True)

    def forward(self, x_TH: Tensor) -> Tensor:
        """Each token on its own."""
        return self.mlp(x_TH)


class SparseMoE(nn.Module):
    """Top-k experts, and the residual MLP where the layer has one."""

    def __init__(
        self, shape: HybridConfig, quant_config: QuantizationConfig | None, prefix: str, residual_mlp: MLP | None
    ) -> None:
        super().__init__()
        # The router stays in the model's dtype, as everywhere: what it saves in bytes it would cost in wrong experts.
        self.gate = GateLinear(shape.hidden_size, shape.num_local_experts, prefix=f"{prefix}.gate")
        self.experts = FusedMoEFactory(
            num_experts=shape.num_local_experts,
            top_k=shape.num_experts_per_tok,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            renormalize=shape.num_experts_per_tok > 1,
            quant_config=quant_config,
            prefix=f"{prefix}.experts",
            ckpt_names=("w1", "w2", "w3"),
            gate=self.gate,
            shared_experts=residual_mlp,
        )

    def forward(self, x_TH: Tensor, residual_TH: Tensor | None = None) -> Tensor:
        """Experts on `x_TH`, plus the residual MLP on `residual_TH`. The runner applies the gate to its input itself."""
        return self.experts(hidden_states=x_TH, router_logits=x_TH, shared_experts_input=residual_TH)


class SelfAttention(nn.Module):
    """Grouped-query attention over vLLM's pages, rotary positions ("rotate half"), no biases."""

    def __init__(self, shape: HybridConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        quant_config = vllm_config.quant_config
        self.qkv_proj = QKVParallelLinear(
            shape.hidden_size,
            shape.head_dim,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            shape.hidden_size, shape.hidden_size, bias=False, quant_config=quant_config, prefix=f"{prefix}.o_proj"
        )
        self.rotary = get_rope(
            shape.head_dim,
            max_position=shape.max_position_embeddings,
            is_neox_style=True,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        )
        num_heads, num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads  # of this rank
        self.widths = [num_heads * shape.head_dim, num_kv_heads * shape.head_dim, num_kv_heads * shape.head_dim]
        self.attn = Attention(
            num_heads,
            shape.head_dim,
            shape.head_dim**-0.5,
            num_kv_heads=num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions_T: Tensor, x_TH: Tensor) -> Tensor:
        """Tokens see what vLLM's metadata of the batch says."""
        qkv, _ = self.qkv_proj(x_TH)
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = self.rotary(positions_T, q, k)
        out_TH, _ = self.o_proj(self.attn(q, k, v))
        return out_TH


class DecoderLayer(nn.Module):
    """One transformer layer; `residual_*` exist only where attention and experts run in parallel."""

    def __init__(self, shape: HybridConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        index, quant_config = extract_layer_index(prefix), vllm_config.quant_config
        hidden, eps = shape.hidden_size, shape.rms_norm_eps
        self.is_parallel = shape.is_parallel_layer(index)
        self.self_attn = SelfAttention(shape, vllm_config, f"{prefix}.self_attn")
        self.input_layernorm = RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps=eps)
        residual_mlp = None
        if self.is_parallel:
            residual_mlp = MLP(hidden, shape.residual_width, quant_config, f"{prefix}.residual_mlp", reduce=False)
            self.residual_layernorm, self.residual_mlp = RMSNorm(hidden, eps=eps), residual_mlp
        moe_prefix = f"{prefix}.block_sparse_moe"
        self.block_sparse_moe = (
            SparseMoE(shape, quant_config, moe_prefix, residual_mlp)
            if shape.is_moe_layer(index)
            else DenseFFN(shape, quant_config, moe_prefix)
        )

    def forward(self, positions_T: Tensor, out_TH: Tensor, x_TH: Tensor | None) -> tuple[Tensor, Tensor]:
        """`out_TH` of the layer before and the stream `x_TH` that it has still to be added to; returns the same two."""
        if x_TH is None:
            x_TH = out_TH
            normed_TH = self.input_layernorm(x_TH)
        else:
            normed_TH, x_TH = self.input_layernorm(out_TH, x_TH)
        if not self.is_parallel:
            normed_TH, h_TH = self.post_attention_layernorm(self.self_attn(positions_T, normed_TH), x_TH)
            return self.block_sparse_moe(normed_TH), h_TH
        # `post_attention_layernorm` is a historical name: here it normalises the layer's input (spec trap 2). It comes
        # before the next norm, which adds to `x_TH` in place.
        moe_TH = self.post_attention_layernorm(x_TH)
        normed_TH, h_TH = self.residual_layernorm(self.self_attn(positions_T, normed_TH), x_TH)
        return self.block_sparse_moe(moe_TH, normed_TH), h_TH


def _is_compiled(vllm_config: VllmConfig) -> bool:
    """Not on CPU: there, traced parallel layers came out wrong with vLLM 0.32.0's oneDNN products (docs/vllm.md)."""
    if current_platform.is_cpu() and not vllm_config.model_config.enforce_eager:
        logger.warning("Arctic is not compiled on CPU: it runs as with --enforce-eager")
    return not current_platform.is_cpu()


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": -1, "intermediate_tensors": 0, "inputs_embeds": 0}, enable_if=_is_compiled
)
class ArcticModel(nn.Module):
    """Embedding, the layers of this pipeline stage, and the final norm."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        shape = vllm_config.model_config.hf_config.shape
        _check_parallelism(shape, vllm_config)
        self.embed_tokens = VocabParallelEmbedding(
            shape.vocab_size, shape.hidden_size, quant_config=vllm_config.quant_config, prefix=f"{prefix}.embed_tokens"
        )
        self.start_layer, self.end_layer, self.layers = make_layers(
            shape.num_hidden_layers, lambda prefix: DecoderLayer(shape, vllm_config, prefix), prefix=f"{prefix}.layers"
        )
        self.norm = RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states", "residual"], shape.hidden_size
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """[T] -> [T, H]."""
        return self.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """Final hidden states [T, H], or what the next pipeline stage needs."""
        residual: Tensor | None = None
        if get_pp_group().is_first_rank:
            hidden_states = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        else:
            assert intermediate_tensors is not None
            hidden_states, residual = intermediate_tensors["hidden_states"], intermediate_tensors["residual"]
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            hidden_states, residual = layer(positions, hidden_states, residual)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": hidden_states, "residual": residual})
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class ArcticForCausalLM(nn.Module, SupportsLoRA, SupportsPP):
    """The language model as vLLM wants it; reads checkpoints with the official Hugging Face names."""

    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "w13": ["w1", "w3"]}  # noqa: RUF012
    embedding_modules = {"embed_tokens": "input_embeddings", "lm_head": "output_embeddings"}  # noqa: RUF012
    # The dots matter: `.w1` alone would also take the experts' matrices, whose fused form vLLM fills itself.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={
            ".self_attn.q_proj.": (".self_attn.qkv_proj.", "q"),
            ".self_attn.k_proj.": (".self_attn.qkv_proj.", "k"),
            ".self_attn.v_proj.": (".self_attn.qkv_proj.", "v"),
            ".residual_mlp.w1.": (".residual_mlp.w13.", 0),
            ".residual_mlp.w3.": (".residual_mlp.w13.", 1),
            ".block_sparse_moe.mlp.w1.": (".block_sparse_moe.mlp.w13.", 0),
            ".block_sparse_moe.mlp.w3.": (".block_sparse_moe.mlp.w13.", 1),
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.quant_config = vllm_config.quant_config
        self.model = ArcticModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            self.config.vocab_size,
            self.config.hidden_size,
            quant_config=self.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if self.config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors
        # The first call of `load_weights` brings the whole checkpoint; later ones (trainers that update a running
        # engine) may bring a part, and so may the first where the weights are dummies.
        self.is_complete = vllm_config.load_config.load_format == "dummy"

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """[T] -> [T, H]."""
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """Final hidden states [T, H], or what the next pipeline stage needs."""
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[T, H] -> [T, V], on the rank that samples."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill the parameters from tensors under Hugging Face names; returns the names of the parameters filled.

        Raises CorruptError for a tensor that the model does not have, of another shape, or missing.
        """
        names = CheckedNames(self.config.shape, is_quantized=self.quant_config is not None)
        loaded = AutoWeightsLoader(self).load_weights(names.check(weights), mapper=self.hf_to_vllm_mapper)
        if not self.is_complete:
            names.check_complete(self._is_read_here)
            self.is_complete = True
        return loaded

    def _is_read_here(self, layer: int, expert: int) -> bool:
        """Whether this rank is handed the expert's weights: vLLM may skip reading those that other ranks hold."""
        module = self.model.layers[layer]
        if isinstance(module, PPMissingLayer):
            return False
        expert_map = module.block_sparse_moe.experts.expert_map
        return expert_map is None or bool(expert_map[expert] >= 0)


def _check_parallelism(shape: HybridConfig, vllm_config: VllmConfig) -> None:
    """Raises UserError where the ranks cannot share the model evenly, or more is asked than this model can do."""
    if vllm_config.parallel_config.enable_eplb:
        raise UserError("enable_eplb is not supported for Arctic", "leave out --enable-eplb; expert parallelism works without")
    if shape.qkv_bias or shape.explicit_head_dim:
        told = f"qkv_bias {shape.qkv_bias} with head_dim {shape.head_dim}"
        raise UserError(f"{told} is not supported in vLLM", "the torch model and the embedded engine run it")
    ranks, heads, kv_heads = get_tensor_model_parallel_world_size(), shape.num_attention_heads, shape.num_key_value_heads
    if heads % ranks or max(kv_heads, ranks) % min(kv_heads, ranks):
        raise UserError(f"{heads} attention and {kv_heads} key-value heads cannot be shared by {ranks} tensor-parallel ranks")
