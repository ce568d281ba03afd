"""How much of the all-to-all does the overlapped schedule hide, on links of a given speed?

Every process has one thread and a network namespace of its own, joined by veth pairs that tbf limits (scripts/overlap_links.sh;
needs root). At each speed the processes alternate between three things: a training step (forward and backward) that waits for
every all-to-all, the same step overlapped, and the all-to-alls of that step alone. Reported are medians, and the share hidden:

    (step that waits - overlapped step) / all-to-alls alone

Beside it stands what the timeline of `openarctic.planner.overlap` predicts from the times of a layer's parts and of the
all-to-alls alone. How much a transfer slows compute down (both share the cores here) is fitted at the chosen speed and used at
all others.

Gradients of what all processes hold are not exchanged here (`--expert` is all processes; a real run does that once a batch). The
first speed is unlimited; from it follows the speed at which communication is `--share` of the step that waits, and that comes
next. One JSON document on standard output, a table on standard error.

    python benchmarks/bench_overlap.py --processes 2 --rates 200 1000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from openarctic.bench.machine import commit, processor
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.model.attention import rotary
from openarctic.model.experts import sort_by_expert
from openarctic.planner.overlap import LayerTimes, calibrate, timeline
from openarctic.train.parallel import ParallelConfig, ParallelModel, Processes, join
from openarctic.train.parallel.exchange import Exchange
from openarctic.train.parallel.expert import sparse_moes

LINKS = Path(__file__).parents[1] / "scripts" / "overlap_links.sh"
VOCABULARY = 256


def main() -> None:
    """Start the processes, or be one of them."""
    options = parse()
    if "RANK" in os.environ:
        work(options)
        return
    run_links("up", options.processes)
    try:
        report = start(options)
    finally:
        run_links("down", options.processes)
    print(table(report), file=sys.stderr)
    print(json.dumps(report, indent=1))


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rates", type=int, nargs="*", default=[], help="link speeds in Mbit/s, beside the chosen one")
    parser.add_argument("--share", type=float, default=1 / 3, help="of communication in the step that waits, at the chosen speed")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=512, help="of one process")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--expert-width", type=int, default=352, help="Arctic's 4864 : 7168, at this hidden size")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=2)
    return parser.parse_args()


def run_links(*arguments: Any) -> None:
    """One command of scripts/overlap_links.sh."""
    subprocess.run([LINKS, *map(str, arguments)], check=True)


def start(options: argparse.Namespace) -> dict[str, Any]:
    """One process in each namespace; what the first of them prints."""
    place = {"WORLD_SIZE": str(options.processes), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500"}
    place |= {"GLOO_SOCKET_IFNAME": "link0", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [LINKS, "run", str(rank), sys.executable, *sys.argv],
            env={**os.environ, **place, "RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(options.processes)
    ]
    try:
        printed, _ = started[0].communicate()
        if any(process.wait() for process in started):
            raise SystemExit("a process failed")
    finally:
        for process in started:
            process.kill()
    return json.loads(printed)


def work(options: argparse.Namespace) -> None:
    """Measure at every speed; the first process prints."""
    torch.set_num_threads(1)
    config = ParallelConfig(expert=options.processes, expert_chunks=options.chunks)
    with join(config) as processes:
        step = Step(options, processes)
        speeds = [measure(step, None, options)]
        # Communication of a given share takes share / (1 - share) of the rest of the step.
        wanted_s = speeds[0]["compute_s"] * options.share / (1 - options.share)
        chosen = max(1, round(step.link_bytes * 8 / wanted_s / 1e6))
        speeds += [measure(step, rate, options) for rate in [chosen, *options.rates]]
        parts = step.parts()
        if processes.is_first:
            print(json.dumps(describe(options, step, compare(options, parts, speeds))))


def describe(options: argparse.Namespace, step: Step, found: dict[str, Any]) -> dict[str, Any]:
    """The report."""
    return {
        **vars(options),
        "exchanges": len(step.exchanges),
        "link_bytes": step.link_bytes,
        **found,
        "commit": commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def compare(options: argparse.Namespace, parts: dict[str, float], speeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Every speed with what the timeline predicts for it, fitted at the chosen one (the second)."""

    def arguments(speed: dict[str, Any]) -> dict[str, Any]:
        exchange = speed["communication_s"] / (4 * options.layers)
        rest = speed["compute_s"] - 3 * options.layers * sum(parts.values())
        layer = LayerTimes(**parts, dispatch=exchange, combine=exchange)
        return {"layer": layer, "num_layers": options.layers, "rest": max(0.0, rest), "chunks": options.chunks}

    fitted = calibrate(**arguments(speeds[1]), overlapped=speeds[1]["overlapped_s"])
    for speed in speeds:
        speed["predicted_hidden_share"] = timeline(**arguments(speed), interference=fitted).hidden_share
        speed["ideal_hidden_share"] = timeline(**arguments(speed)).hidden_share
    return {"parts_s": parts, "compute_slowdown": fitted.compute, "speeds": speeds}


class Step:
    """A training step in two schedules, and its all-to-alls alone."""

    def __init__(self, options: argparse.Namespace, processes: Processes) -> None:
        self.options, self.processes = options, processes
        torch.manual_seed(0)
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": options.hidden,
            "intermediate_size": options.expert_width,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.hidden // 64,
            "num_key_value_heads": max(1, options.hidden // 256),
            "num_local_experts": options.experts,
            "num_experts_per_tok": 2,
            "moe_layer_frequency": 1,
            "parallel_attn_mlp_res": True,
            "rope_theta": 1e4,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        }
        model = ArcticForCausalLM(ArcticConfig(**shape)).train()
        self.parallel = ParallelModel(model, processes)
        self.ids = torch.randint(0, VOCABULARY, (2, options.tokens // 2), generator=torch.Generator().manual_seed(processes.rank))
        self.exchanges = list(self._record())
        self.link_bytes = self._link_bytes()

    def _record(self) -> Iterator[tuple[torch.Tensor, list[int], list[int]]]:
        """(rows, how many go where, how many come from where) of every all-to-all of a step, in order."""
        begin, seen = Exchange.begin, []

        def recording(exchange: Exchange, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
            seen.append((rows.detach().clone(), sent, received))
            return begin(exchange, rows, sent, received)

        Exchange.begin = recording  # type: ignore[method-assign]
        try:
            self.waiting()
        finally:
            Exchange.begin = begin  # type: ignore[method-assign]
        return iter(seen)

    def _link_bytes(self) -> int:
        """Bytes that the busiest link carries one way in a step."""
        own = [0, 0]
        for rows, sent, received in self.exchanges:
            row_bytes = rows.shape[1] * rows.element_size()
            for way, counts in enumerate((sent, received)):
                own[way] += row_bytes * (sum(counts) - counts[self.processes.rank])
        most = torch.tensor(max(own))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def waiting(self) -> None:
        """The reference: every all-to-all is waited for at once."""
        self._step(overlap=False)

    def overlapped(self) -> None:
        """The schedule under test."""
        self._step(overlap=True)

    def _step(self, *, overlap: bool) -> None:
        for moe in sparse_moes(self.parallel.model):
            moe.dispatch.overlap = overlap
        self.parallel.model.zero_grad()
        with self.parallel.accumulating(is_last=False):
            output = self.parallel.module(self.ids, use_cache=False)
            loss = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), self.ids[:, 1:].flatten())
            (loss + 0.01 * output.aux_loss).backward()

    def parts(self) -> dict[str, float]:
        """Median seconds that the parts of one layer take forwards, each alone, while the other processes do the same."""
        layer = self.parallel.model.model.layers[0]
        moe = layer.block_sparse_moe
        x_BSH = torch.randn(*self.ids.shape, self.options.hidden)
        rope = rotary(self.parallel.model.config, torch.arange(x_BSH.shape[1])[None], x_BSH.dtype)
        num_local = len(moe.experts)
        rows_NH = torch.randn(2 * self.options.tokens // num_local * num_local, self.options.hidden)
        counts = [len(rows_NH) // num_local] * num_local
        ways: dict[str, Callable[[], Any]] = {
            "router": lambda: sort_by_expert(moe.choose(layer.post_attention_layernorm(x_BSH).flatten(0, 1))),
            "attention": lambda: layer.self_attn(layer.input_layernorm(x_BSH), rope, attention_mask=None, cache=None),
            "experts": lambda: moe.experts(rows_NH, counts, 0),
            "residual": lambda: layer.residual_mlp(layer.residual_layernorm(x_BSH)),
        }
        return {name: statistics.median(timed(way) for _ in range(self.options.repetitions)) for name, way in ways.items()}

    def communication(self) -> None:
        """All-to-alls alone, one after the other."""
        group = self.processes.mesh.get_group("expert")
        for rows, sent, received in self.exchanges:
            dist.all_to_all_single(rows.new_empty(sum(received), rows.shape[1]), rows, received, sent, group=group)


def measure(step: Step, rate: int | None, options: argparse.Namespace) -> dict[str, Any]:
    """Medians at one link speed; a time is that of the slowest process."""
    dist.barrier()
    if step.processes.is_first:
        run_links("rate", options.processes, "none" if rate is None else rate)
    dist.barrier()
    ways = {"waiting_s": step.waiting, "overlapped_s": step.overlapped, "communication_s": step.communication}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(options.repetitions + 2):
        for name, way in ways.items():
            seconds = timed(way)
            if repetition >= 2:
                times[name].append(seconds)
    middle = {name: statistics.median(values) for name, values in times.items()}
    saved = [w - o for w, o in zip(times["waiting_s"], times["overlapped_s"], strict=True)]
    hidden = (middle["waiting_s"] - middle["overlapped_s"]) / middle["communication_s"]
    return {
        "rate_mbit_s": rate,
        **middle,
        "compute_s": middle["waiting_s"] - middle["communication_s"],
        "communication_share": middle["communication_s"] / middle["waiting_s"],
        "hidden_share": hidden,
        "hidden_share_paired": statistics.median(saved) / middle["communication_s"],
        "speedup": middle["waiting_s"] / middle["overlapped_s"],
        "times": times,
    }


def timed(way: Callable[[], None]) -> float:
    """Seconds until the slowest process is done, from a common start."""
    dist.barrier()
    start_s = time.perf_counter()
    way()
    slowest = torch.tensor(time.perf_counter() - start_s, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.item()


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    megabytes = report["link_bytes"] / 1e6
    lines = [f"{report['processes']} processes, {megabytes:.1f} MB a link and step, {report['exchanges']} all-to-alls"]
    lines.append("  Mbit/s   waits ms  overlapped   a2a alone   share of step   hidden  predicted   speed-up")
    for speed in report["speeds"]:
        rate = "none" if speed["rate_mbit_s"] is None else speed["rate_mbit_s"]
        waits, overlapped, alone = (1e3 * speed[f"{name}_s"] for name in ("waiting", "overlapped", "communication"))
        shares = [speed[f"{name}_share"] for name in ("communication", "hidden", "predicted_hidden")]
        cells = f"{shares[0]:15.1%} {shares[1]:8.1%} {shares[2]:10.1%} {speed['speedup']:10.2f}"
        lines.append(f"{rate:>8} {waits:10.1f} {overlapped:11.1f} {alone:11.1f} {cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
