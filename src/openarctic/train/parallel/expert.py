"""Expert parallelism: the experts of every layer are spread over processes, and tokens travel to them and back.

Dropless: how many rows go where is exchanged first, then exactly those rows. The router is on every process and sees the
process's own tokens, so a token is routed as it would be alone. Global is the load that the balancing loss counts; local are
capacities and their drop rules, where a routing config asks for them (as in DeepSpeed).

State-dict names stay those of Hugging Face checkpoints; a process has the names of the experts that it holds.

Shapes: T tokens of this process, k choices, H hidden, E experts, P processes that share them, n = E / P experts of one process,
C chunks of at most m experts in which a process computes its own, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openarctic.model.experts import gather_rows, run_experts, scatter_rows, sort_by_expert
from openarctic.model.hybrid import SparseMoE
from openarctic.model.routing import Route
from openarctic.train.parallel.exchange import Exchange
from openarctic.train.parallel.mesh import Processes


class LocalExperts(nn.ModuleDict):
    """The experts that this process holds, under their numbers in the model, so that tensor names stay."""

    def __init__(self, experts: nn.ModuleList, owned: range) -> None:
        super().__init__({str(e): experts[e] for e in owned})

    def forward(self, rows_NH: Tensor, counts: list[int], first: int) -> Tensor:
        """Rows sorted by expert, `counts` of each, beginning with the `first` of this process's experts."""
        return run_experts(rows_NH, counts, list(self.values())[first : first + len(counts)])


class ExpertParallel:
    """A `SparseMoE.dispatch` that takes tokens to the experts of other processes."""

    def __init__(self, processes: Processes, num_experts: int) -> None:
        config = processes.config
        self.group: dist.ProcessGroup = processes.mesh.get_group("expert")
        self.num_processes = processes.expert
        self.num_local = len(processes.owned_experts(num_experts))
        self.chunk_size = -(-self.num_local // config.expert_chunks)
        self.overlap = config.overlap
        self.place_E = self._order_of_travel(num_experts)

    def _order_of_travel(self, num_experts: int) -> Tensor:
        """Each expert's place among all, sorted by chunk, then owner, then number."""
        expert_E = torch.arange(num_experts)
        owner_E, local_E = expert_E // self.num_local, expert_E % self.num_local
        key_E = (local_E // self.chunk_size * self.num_processes + owner_E) * self.num_local + local_E
        place_E = torch.empty_like(expert_E)
        place_E[key_E.argsort()] = expert_E
        return place_E

    def chunks(self) -> Iterator[slice]:
        """The experts of this process that are computed together, by their places among its own."""
        return (slice(i, min(i + self.chunk_size, self.num_local)) for i in range(0, self.num_local, self.chunk_size))

    def __call__(self, x_TH: Tensor, route: Route, experts: nn.Module) -> Tensor:
        """Mixed expert output [T, H] of this process's tokens."""
        journey = self.start(x_TH, route, experts)
        journey.compute()
        return journey.result()

    def start(self, x_TH: Tensor, route: Route, experts: nn.Module) -> Journey:
        """Send the tokens off; they travel until `Journey.compute` needs them."""
        return Journey(self, x_TH, route, experts)

    def exchange(self, sent: list[int], received: list[int]) -> Exchange:
        """An all-to-all among the processes that share a copy of the experts."""
        return Exchange(self.group, sent, received, overlap=self.overlap)

    def exchange_counts(self, sent_Pn: Tensor) -> Tensor:
        """How many rows come from each process for each of our experts [P, n], given how many we send to each and its experts."""
        received_Pn = torch.empty_like(sent_Pn)
        dist.all_to_all_single(received_Pn, sent_Pn.contiguous(), group=self.group)
        return received_Pn.cpu()


class Journey:
    """The tokens of one layer on their way to their experts and back; a token travels once for each of its choices."""

    def __init__(self, dispatch: ExpertParallel, x_TH: Tensor, route: Route, experts: nn.Module) -> None:
        self.dispatch, self.experts = dispatch, experts
        place_E = dispatch.place_E.to(x_TH.device)
        # Experts renumbered in the order of travel: sorting by expert is then sorting for it.
        load_E = torch.empty_like(route.load_E).index_copy_(0, place_E, route.load_E)
        self.rows, self.weight_N = sort_by_expert(replace(route, chosen_Tk=place_E[route.chosen_Tk], load_E=load_E))
        sent_Pn = route.load_E.view(dispatch.num_processes, -1)
        self.came_Pn = dispatch.exchange_counts(sent_Pn)
        sent_Pn = sent_Pn.cpu()
        self.outward = [
            dispatch.exchange(sent_Pn[:, chunk].sum(1).tolist(), self.came_Pn[:, chunk].sum(1).tolist())
            for chunk in dispatch.chunks()
        ]
        rows = gather_rows(x_TH, self.rows).split([sum(exchange.sent) for exchange in self.outward])
        self.arriving = [exchange.send(x_NH) for exchange, x_NH in zip(self.outward, rows, strict=True)]

    def compute(self) -> None:
        """Chunk by chunk: wait for its rows, multiply, send the results back."""
        self.homeward = [self.dispatch.exchange(exchange.received, exchange.sent) for exchange in self.outward]
        self.returning = []
        for i, chunk in enumerate(self.dispatch.chunks()):
            came_Pm = self.came_Pn[:, chunk]
            by_expert_N, by_source_N = (order.to(self.weight_N.device) for order in _regroup(came_Pm))
            x_NH = self.outward[i].receive(self.arriving[i])[by_expert_N]
            y_NH = self.experts(x_NH, came_Pm.sum(0).tolist(), chunk.start)
            self.returning.append(self.homeward[i].send(y_NH[by_source_N]))

    def result(self) -> Tensor:
        """Wait for the results, weigh and sum them: [T, H]."""
        y_NH = torch.cat([e.receive(buffer_NH) for e, buffer_NH in zip(self.homeward, self.returning, strict=True)])
        return scatter_rows((y_NH * self.weight_N[:, None]).to(y_NH.dtype), self.rows)


def _regroup(came_Pm: Tensor) -> tuple[Tensor, Tensor]:
    """Orders of rows: from (source, expert) to (expert, source), and back."""
    sources, experts = came_Pm.shape
    by_expert_N = torch.arange(experts).repeat(sources).repeat_interleave(came_Pm.flatten()).argsort(stable=True)
    return by_expert_N, by_expert_N.argsort()


def sparse_moes(model: nn.Module) -> list[SparseMoE]:
    """The expert branches of a model, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, SparseMoE)]


def distribute_experts(model: nn.Module, processes: Processes) -> None:
    """Keep this process's experts, drop the others, and send tokens where their experts are.

    Changes the model in place. Raises UserError where the processes cannot share the experts evenly.
    """
    for moe in sparse_moes(model):
        num_experts = len(moe.experts)
        owned = processes.owned_experts(num_experts)
        moe.dispatch = ExpertParallel(processes, num_experts)
        moe.experts = LocalExperts(moe.experts, owned)


def is_expert(name: str) -> bool:
    """Whether a parameter belongs to one expert, by its name."""
    return ".block_sparse_moe.experts." in name
