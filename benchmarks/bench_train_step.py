"""How fast is a training step (forward, backward, update), beside transformers' own parts with `grouped_mm` experts?

The other side is transformers' Mixtral (attention, router, experts, norms, loss) with a residual MLP as Arctic's layers have
one: the same sizes, the same weights, the same tokens, and the same fused AdamW. Both are first shown to have the same
cross-entropy and the same gradients. Then they step in alternating order; a pair while which others used more than
`--max-foreign` percent of the machine is rejected as a whole. Reported are medians, the median of the pairs' ratios with its
range, tokens a second, and which share of the fp32 peak that is: the best rate of a product of two matrices of `--gemm` rows
and columns, measured between the pairs. FLOPs are `planner.flops_per_token` (nothing computed twice counts).
One JSON document on standard output (or in `--out`), a line a pair on standard error.

    python benchmarks/bench_train_step.py --pairs 9
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import LlamaConfig, MixtralConfig, MixtralForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, MixtralRMSNorm

from openarctic.bench.machine import ForeignClock, describe_machine
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.model.recompute import recompute_selectively
from openarctic.planner.flops import flops_per_token

AUX_LOSS_COEF = 0.01


def main() -> None:
    """Run and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    ours, peer = make_ours(options), make_peer(options)
    copy_weights(ours, peer)
    ids = torch.randint(0, options.vocabulary, (options.batch, options.length), generator=torch.Generator().manual_seed(1))
    agreement = compare(ours, peer, ids)
    config = ours.config.shape
    flops = flops_per_token(config, options.length).training * ids.numel()
    sides = {"ours": stepper(ours, ids, {"with_logits": False}), "peer": stepper(peer, ids, {"output_router_logits": True})}
    for step in sides.values():
        step()
    report = {**measure(sides, options), "agreement": agreement}
    for name, times in report["seconds"].items():
        seconds = statistics.median(times)
        report[name] = {
            "seconds": seconds,
            "tokens_per_s": ids.numel() / seconds,
            "gflops": flops / seconds / 1e9,
            "share_of_gemm_peak": flops / seconds / 1e9 / report["gemm_gflops"],
        }
    document = {
        "what": "training step, ours over transformers",
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "parameters": sum(p.numel() for p in ours.parameters()),
        "flops_of_a_step": flops,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": describe_machine(),
        **report,
    }
    text = json.dumps(document, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    else:
        print(text)
    print(
        f"ratio {report['ratio']:.3f} [{report['ratio_min']:.3f}, {report['ratio_max']:.3f}] over {options.pairs} pairs, "
        f"{report['ours']['tokens_per_s']:.0f} tokens/s, {100 * report['ours']['share_of_gemm_peak']:.0f} % of the peak "
        f"(peer {100 * report['peer']['share_of_gemm_peak']:.0f} %), {report['rejected']} rejected",
        file=sys.stderr,
    )


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-foreign", type=float, default=10.0, help="percent of all processors; 100 rejects nothing")
    parser.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=False, help="selectively, on our side")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--width", type=int, default=768, help="of an expert")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--gemm", type=int, default=2048)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """What both configurations say."""
    return {
        "vocab_size": options.vocabulary,
        "hidden_size": options.hidden,
        "intermediate_size": options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "num_local_experts": options.experts,
        "num_experts_per_tok": 2,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": options.length,
        "tie_word_embeddings": False,
        "router_aux_loss_coef": AUX_LOSS_COEF,
    }


def make_ours(options: argparse.Namespace) -> ArcticForCausalLM:
    """Our model, in training."""
    torch.manual_seed(0)
    config = ArcticConfig(**sizes(options), moe_layer_frequency=1, parallel_attn_mlp_res=True)
    model = ArcticForCausalLM(config).train()
    recompute_selectively(model, options.recompute)
    return model


class PeerLayer(MixtralDecoderLayer):
    """Mixtral's layer with a residual MLP, its experts reading the layer's input."""

    def __init__(self, config: MixtralConfig, index: int) -> None:
        super().__init__(config, index)
        self.residual_layernorm = MixtralRMSNorm(config.hidden_size, config.rms_norm_eps)
        width = {"hidden_size": config.hidden_size, "intermediate_size": config.hidden_size}
        self.residual_mlp = LlamaMLP(LlamaConfig(**width, hidden_act="silu"))

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        """As Arctic's layers."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **options)
        experts = self.mlp(self.post_attention_layernorm(hidden_states))
        hidden_states = hidden_states + attended
        return hidden_states + self.residual_mlp(self.residual_layernorm(hidden_states)) + experts


def make_peer(options: argparse.Namespace) -> MixtralForCausalLM:
    """transformers' parts, in training."""
    config = MixtralConfig(**sizes(options), use_cache=False, sliding_window=None)
    config._experts_implementation, config._attn_implementation = "grouped_mm", "sdpa"
    model = MixtralForCausalLM(config)
    model.model.layers = nn.ModuleList(PeerLayer(config, i) for i in range(config.num_hidden_layers))
    return model.train()


def copy_weights(ours: ArcticForCausalLM, peer: MixtralForCausalLM) -> None:
    """Ours into the peer."""
    state = ours.state_dict()
    theirs: dict[str, Tensor] = {}
    residual = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    for name in peer.state_dict():
        own = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
        for their, our in residual.items():
            own = own.replace(f".residual_mlp.{their}.", f".residual_mlp.{our}.")
        if ".mlp.experts." in name:
            experts = name.split(".mlp.")[0] + ".block_sparse_moe.experts."
            parts = ("w1", "w3") if name.endswith("gate_up_proj") else ("w2",)
            theirs[name] = torch.stack(
                [
                    torch.cat([state[f"{experts}{e}.{part}.weight"] for part in parts])
                    for e in range(ours.config.num_local_experts)
                ]
            )
        else:
            theirs[name] = state[own]
    peer.load_state_dict(theirs)


def compare(ours: ArcticForCausalLM, peer: MixtralForCausalLM, ids: Tensor) -> dict[str, float]:
    """Both sides' cross-entropy and its gradient, which must agree; the balancing losses are defined differently."""
    found = {}
    for name, model in (("ours", ours), ("peer", peer)):
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        found[name] = (loss.item(), model.model.embed_tokens.weight.grad.clone())
        model.zero_grad()
    difference = (found["ours"][1] - found["peer"][1]).norm() / found["peer"][1].norm()
    if abs(found["ours"][0] - found["peer"][0]) > 1e-4 or difference > 1e-3:
        raise SystemExit(f"the two sides do not compute the same: {found['ours'][0]} and {found['peer'][0]}, {difference}")
    return {"cross_entropy_ours": found["ours"][0], "cross_entropy_peer": found["peer"][0], "gradient": difference.item()}


def stepper(model: nn.Module, ids: Tensor, options: dict[str, Any]) -> Callable[[], None]:
    """One step of training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, use_cache=False, **options).loss.backward()
        optimizer.step()

    return step


def measure(sides: dict[str, Callable[[], None]], options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of steps in alternating order, and the matrix peak between them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    square = torch.randn(options.gemm, options.gemm)
    peak, rejected, tries = gemm_rate(square), 0, 0
    while len(seconds["ours"]) < options.pairs and tries < 3 * options.pairs:
        tries += 1
        clock, pair = ForeignClock(), {}
        clock.start()
        for name in sorted(sides, reverse=tries % 2 == 0):
            wall, own = time.perf_counter(), time.process_time()
            sides[name]()
            pair[name] = (time.perf_counter() - wall, time.process_time() - own)
        foreign = clock.stop(0.0)
        peak = max(peak, gemm_rate(square))
        told = f"ours {pair['ours'][0]:.2f} s, peer {pair['peer'][0]:.2f} s, others used {100 * (foreign or 0):.0f} %"
        print(told, file=sys.stderr)
        if foreign is not None and 100 * foreign > options.max_foreign:
            rejected += 1
            continue
        for name, (wall, own) in pair.items():
            seconds[name].append(wall)
            processor[name].append(own)
    if not seconds["ours"]:
        raise SystemExit("every pair was rejected: the machine is too busy (--max-foreign 100 rejects nothing)")
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
    by_processor = [theirs / ours for ours, theirs in zip(processor["ours"], processor["peer"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_of_processor_time": statistics.median(by_processor),
        "rejected": rejected,
        "gemm_gflops": peak,
        "seconds": seconds,
        "processor_seconds": processor,
    }


def gemm_rate(square: Tensor, repetitions: int = 4) -> float:
    """GFLOP/s of the fastest of some products."""
    best = 0.0
    for _ in range(repetitions):
        start = time.perf_counter()
        square @ square
        best = max(best, 2 * len(square) ** 3 / (time.perf_counter() - start) / 1e9)
    return best


if __name__ == "__main__":
    main()
