"""`openarctic model overlap`: what the overlapped schedule of expert parallelism saves on a cluster."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "predict what overlapping the experts' all-to-all saves in training"
DESCRIPTION = """\
A timeline of one training step on every GPU, forwards and backwards: dispatch under attention, combine under the residual
MLP, experts in chunks (docs/parallel.md). NAME_OR_PATH is a model as in `openarctic model describe`. Printed for several
speeds at which a GPU may reach other nodes; products reach a share of the peak, experts are evenly loaded.

examples:
  openarctic model overlap arctic-480b
  openarctic model overlap arctic-480b --gpu H200 --network 12.5 25 50 --utilisation 0.5 --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", metavar="NAME_OR_PATH", help="whose training")
    parser.add_argument("--gpu", default="H100", metavar="NAME", help="of the cluster (default H100)")
    told = "GB (10^9) a second that a GPU sends to other nodes (default: 400 Gbit/s and less)"
    parser.add_argument("--network", type=float, nargs="+", default=[50, 40, 30, 20, 15, 10, 5], metavar="GB_S", help=told)
    parser.add_argument("--fabric", type=float, default=450, metavar="GB_S", help="the same inside a node (default 450)")
    parser.add_argument("--node", type=int, default=8, metavar="N", help="GPUs of a node (default 8)")
    parser.add_argument("--expert-parallel", type=int, default=64, metavar="N", help="GPUs that share the experts (default 64)")
    parser.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help="of the GPU's peak (default 0.4)")
    parser.add_argument("--tokens", type=int, default=16384, metavar="N", help="of one GPU and step (default 16384)")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens of a sequence (default 4096)")
    parser.add_argument("--chunks", type=int, default=2, metavar="N", help="of a GPU's experts (default 2)")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Predict and print."""
    from openarctic.cli.render import render
    from openarctic.planner import find

    model = find(args.model)
    steps = [_predict(model.config, network, args) for network in args.network]
    if args.format == "json":
        named = ("gpu", "fabric", "node", "expert_parallel", "utilisation", "tokens", "context", "chunks")
        assumptions = {name: getattr(args, name) for name in named}
        print(json.dumps({"status": "ok", "name": model.name, "assumptions": assumptions, "steps": steps, "error": None}))
        return 0
    columns = ("GB/s to other nodes", "waits, ms", "overlapped, ms", "all-to-all", "hidden", "step shorter by")
    rows = []
    for step in steps:
        shares = (f"{step[name]:.1%}" for name in ("all_to_all_share", "hidden_share", "saving"))
        rows.append((f"{step['network_gb_s']:g}", f"{step['waiting_ms']:.0f}", f"{step['overlapped_ms']:.0f}", *shares))
    print(render(columns, rows, args.format), end="")
    return 0


def _predict(config: Any, network: float, args: argparse.Namespace) -> dict[str, float]:
    """One step at one speed of the network."""
    from openarctic.planner import find_gpu
    from openarctic.planner.overlap import Cluster, predict

    cluster = Cluster(
        gpu=find_gpu(args.gpu),
        network=network * 1e9,
        fabric=args.fabric * 1e9,
        node=args.node,
        expert_parallel=args.expert_parallel,
        utilisation=args.utilisation,
    )
    step = predict(config, cluster, tokens=args.tokens, context=args.context, chunks=args.chunks)
    return {
        "network_gb_s": network,
        "waiting_ms": 1e3 * step.waiting,
        "overlapped_ms": 1e3 * step.overlapped,
        "all_to_all_share": step.communication_share,
        "hidden_share": step.hidden_share,
        "saving": step.saving,
    }
