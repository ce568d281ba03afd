"""How much of the experts' all-to-all a schedule hides: a timeline of compute and network, forwards and backwards. No torch.

Two resources work side by side, each on one task at a time and in a fixed order; a task begins when the ones before it and the
ones that it waits for have ended. While both work, each may slow the other down. The schedule is `train/parallel/overlap.py`'s:

    compute   router | attention | experts 1 | experts 2 | residual MLP | sum          (one parallel layer, forward, two chunks)
    network          | dispatch 1, dispatch 2 | combine 1 | combine 2 |

and its mirror image backwards, where products take twice as long. The waiting schedule does the same tasks one after the other. A
timeline in which experts compute after the second all-to-all is no schedule at all: that all-to-all carries what they computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openarctic.errors import UserError
from openarctic.formats.config import HybridConfig
from openarctic.planner.flops import flops_per_token
from openarctic.planner.hardware import Gpu
from openarctic.planner.parameters import parameters

Resource = Literal["compute", "network"]
BACKWARD_PRODUCTS = 2  # of the same size as each one forwards: for the input's gradient and for the weight's


@dataclass(frozen=True, slots=True)
class Task:
    """`seconds` on an otherwise idle machine; `after` are the places, in the list of tasks, of those that must have ended."""

    resource: Resource
    seconds: float
    after: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Interference:
    """How much longer compute and network take while the other works, as a share: 0.1 is 10 % longer."""

    compute: float = 0.0
    network: float = 0.0


ALONE = Interference()


def finish_times(tasks: Sequence[Task], interference: Interference = ALONE) -> list[float]:
    """When each task ends; those of a resource run in the list's order. Raises UserError for one that waits for a later one."""
    for place, task in enumerate(tasks):
        if any(other >= place for other in task.after):
            raise UserError(f"task {place} waits for task {max(task.after)}, which does not come before it")
    queues = {r: [i for i, task in enumerate(tasks) if task.resource == r] for r in ("compute", "network")}
    left = [task.seconds for task in tasks]
    ends: dict[int, float] = {}
    now = 0.0
    while len(ends) < len(tasks):
        running = [queue[0] for queue in queues.values() if queue and all(i in ends for i in tasks[queue[0]].after)]
        rates = {i: _rate(tasks[i].resource, len(running) > 1, interference) for i in running}
        step = min(left[i] / rates[i] for i in running)
        now += step
        for i in running:
            left[i] -= step * rates[i]
            if left[i] <= 1e-12 * max(1.0, tasks[i].seconds):
                ends[i] = now
                queues[tasks[i].resource].pop(0)
    return [ends[i] for i in range(len(tasks))]


def _rate(resource: Resource, is_shared: bool, interference: Interference) -> float:
    return 1 / (1 + getattr(interference, resource)) if is_shared else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTimes:
    """Seconds that the parts of one parallel layer take forwards, each alone; `dispatch` and `combine` are the whole all-to-alls.

    `counts` is the exchange of row counts before the dispatch, which nothing hides.
    """

    router: float
    attention: float
    experts: float
    residual: float
    dispatch: float
    combine: float
    counts: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Seconds of a training step (forward and backward) in both schedules, and of its all-to-alls alone."""

    waiting: float
    overlapped: float
    communication: float

    @property
    def hidden_share(self) -> float:
        """Of the all-to-alls."""
        return (self.waiting - self.overlapped) / self.communication if self.communication else 0.0

    @property
    def communication_share(self) -> float:
        """Of the step that waits."""
        return self.communication / self.waiting

    @property
    def saving(self) -> float:
        """The share of the waiting step that overlapping saves."""
        return 1 - self.overlapped / self.waiting

    @property
    def speedup(self) -> float:
        """Steps in the time of one that waits."""
        return self.waiting / self.overlapped


def timeline(
    layer: LayerTimes, num_layers: int, *, rest: float = 0.0, chunks: int = 2, interference: Interference = ALONE
) -> Timeline:
    """A step of so many equal layers; `rest` are the seconds of everything else in the step (head, other layers, update)."""
    if num_layers < 1 or chunks < 1:
        raise UserError(f"{num_layers} layers in {chunks} chunks", "both must be at least 1")
    step = _Step()
    for _ in range(num_layers):
        step.forward(layer, chunks)
    step.add("compute", rest)
    for _ in range(num_layers):
        step.backward(layer, chunks)
    waiting = sum(task.seconds for task in step.tasks)
    communication = 2 * num_layers * (layer.dispatch + layer.combine)
    return Timeline(waiting=waiting, overlapped=max(finish_times(step.tasks, interference)), communication=communication)


def calibrate(layer: LayerTimes, num_layers: int, overlapped: float, *, rest: float = 0.0, chunks: int = 2) -> Interference:
    """How much transfers slow compute down, if an overlapped step was measured to take so long; none if it took even less."""
    low, high = 0.0, 4.0
    for _ in range(50):
        middle = (low + high) / 2
        step = timeline(layer, num_layers, rest=rest, chunks=chunks, interference=Interference(compute=middle))
        low, high = (middle, high) if step.overlapped < overlapped else (low, middle)
    return Interference(compute=low)


class _Step:
    """The overlapped schedule as tasks, in the order in which the program starts them."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.joined: tuple[int, ...] = ()  # what the next layer waits for

    def add(self, resource: Resource, seconds: float, *after: int) -> int:
        """Append a task; its place."""
        self.tasks.append(Task(resource, seconds, (*self.joined, *after)))
        return len(self.tasks) - 1

    def forward(self, layer: LayerTimes, chunks: int) -> None:
        """One layer."""
        router = self.add("compute", layer.router + layer.counts)
        dispatches = [self.add("network", layer.dispatch / chunks, router) for _ in range(chunks)]
        self.add("compute", layer.attention)
        combines = self._experts(dispatches, layer.experts, layer.combine)
        residual = self.add("compute", layer.residual)
        self.joined = (residual, *combines)

    def backward(self, layer: LayerTimes, chunks: int) -> None:
        """One layer: the way of the combine first, the way of the dispatch last."""
        combines = [self.add("network", layer.combine / chunks) for _ in range(chunks)]
        self.add("compute", BACKWARD_PRODUCTS * layer.residual)
        dispatches = self._experts(combines, BACKWARD_PRODUCTS * layer.experts, layer.dispatch)
        self.add("compute", BACKWARD_PRODUCTS * layer.attention)
        self.joined = (*self.joined, *dispatches)
        self.joined = (self.add("compute", BACKWARD_PRODUCTS * layer.router),)

    def _experts(self, arrivals: Sequence[int], products: float, departure: float) -> list[int]:
        """Each chunk's products when its rows have come; its results leave at once."""
        computed = [self.add("compute", products / len(arrivals), arrival) for arrival in arrivals]
        return [self.add("network", departure / len(arrivals), done) for done in computed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """GPUs of one training, as assumed for a prediction.

    network: bytes a second that one GPU sends to other nodes, and receives; `fabric`: the same inside its node, at the same time.
    utilisation: share of the peak that products reach. expert_parallel: GPUs that share one copy of the experts.
    latency: seconds that the exchange of counts takes.
    """

    gpu: Gpu
    network: float = 50e9
    fabric: float = 450e9
    node: int = 8
    expert_parallel: int = 64
    utilisation: float = 0.4
    latency: float = 30e-6

    def __post_init__(self) -> None:
        for name in ("network", "fabric", "node", "expert_parallel", "utilisation"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name):g}", "it must be more than 0")
        if self.utilisation > 1:
            raise UserError(f"utilisation is {self.utilisation:g}", "it is a share of the GPU's peak, at most 1")

    def exchange_seconds(self, payload: float) -> float:
        """An all-to-all in which every GPU spreads so many bytes evenly over those that share its experts, itself among them."""
        inside = min(self.node, self.expert_parallel)
        outside_bytes = payload * (self.expert_parallel - inside) / self.expert_parallel
        inside_bytes = payload * (inside - 1) / self.expert_parallel
        return max(outside_bytes / self.network, inside_bytes / self.fabric)


def layer_times(config: HybridConfig, cluster: Cluster, *, tokens: int, context: int, value_bytes: int = 2) -> LayerTimes:
    """A parallel layer's times on one GPU that computes `tokens` in sequences of `context`, experts evenly loaded.

    Raises UserError where the model has no parallel layer, or the GPUs cannot share its experts.
    """
    if not (config.num_local_experts and config.parallel_attn_mlp_res):
        raise UserError("the model has no layer whose experts read the layer's input", "only such layers overlap")
    if config.num_local_experts % cluster.expert_parallel:
        raise UserError(f"{cluster.expert_parallel} GPUs cannot share {config.num_local_experts} experts evenly")
    hidden, top_k = config.hidden_size, config.num_experts_per_tok
    attention = 2 * 2 * hidden * (config.q_width + config.kv_width) + 4 * config.q_width * (context + 1) / 2
    flops = {
        "router": 2 * hidden * config.num_local_experts,
        "attention": attention,
        "experts": 2 * 3 * hidden * config.intermediate_size * top_k,
        "residual": 2 * 3 * hidden * config.residual_width,
    }
    rate = cluster.gpu.bf16_flops * cluster.utilisation
    exchange = cluster.exchange_seconds(tokens * top_k * hidden * value_bytes)
    seconds = {name: tokens * count / rate for name, count in flops.items()}
    return LayerTimes(**seconds, dispatch=exchange, combine=exchange, counts=cluster.latency)


def predict(
    config: HybridConfig, cluster: Cluster, *, tokens: int, context: int, chunks: int = 2, interference: Interference = ALONE
) -> Timeline:
    """A training step of the whole model, update and gradients' reduction left out (a real run does both once in many steps)."""
    layer = layer_times(config, cluster, tokens=tokens, context=context)
    num_layers = parameters(config).router // (config.num_local_experts * config.hidden_size)
    whole = tokens * flops_per_token(config, context).training / (cluster.gpu.bf16_flops * cluster.utilisation)
    in_layers = (1 + BACKWARD_PRODUCTS) * num_layers * (layer.router + layer.attention + layer.experts + layer.residual)
    chunks = min(chunks, config.num_local_experts // cluster.expert_parallel)
    return timeline(layer, num_layers, rest=max(0.0, whole - in_layers), chunks=chunks, interference=interference)
