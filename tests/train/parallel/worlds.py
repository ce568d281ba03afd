"""Several processes of one test, joined by gloo on this machine; each writes what it found to a file.

Importing torch and transformers takes seconds, so one server does it and forks the processes of all tests; it computes nothing
itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.train.config import TrainConfig
from openarctic.train.optimizer import build_optimizers
from openarctic.train.parallel import ParallelConfig, ParallelModel, Processes, join


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def spawn(job: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run `job(rank, *arguments)` in so many processes; raises what one of them raised."""
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(_start, (job, *arguments), nprocs=processes, start_method="forkserver")


def _start(rank: int, job: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    job(rank, *arguments)


@contextlib.contextmanager
def join_world(rank: int, count: int, port: int, config: ParallelConfig) -> Iterator[Processes]:
    """`join` with the environment that torchrun would give."""
    place = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = dict(os.environ)
    os.environ |= place
    try:
        with join(config) as processes:
            yield processes
    finally:
        os.environ.clear()
        os.environ |= before


def make_model(config: dict[str, Any], seed: int = 0) -> ArcticForCausalLM:
    """The same random model in every process; its weights are large enough for routers to have opinions."""
    torch.manual_seed(seed)
    model = ArcticForCausalLM(ArcticConfig(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6 if "embed" in name else 1.2 / parameter.shape[1] ** 0.5)
    return model.train()


def make_batch(config: dict[str, Any], rows: int = 8, length: int = 12) -> tuple[Tensor, Tensor]:
    """Ids and labels [rows, length] of the whole batch; the first rows have fewer labels than the others."""
    ids = torch.randint(0, config["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[: rows // 2, : length // 2] = -100
    return ids, labels


AUX = 0.05
STEPS = 3


@dataclass(frozen=True)
class Run:
    """What a process found: losses of the whole batch before each step; of the first step its gradients (shards made whole) and
    their norm; in the end the whole model's weights (first process only)."""

    losses: list[float]
    gradients: dict[str, Tensor]
    norm: float
    weights: dict[str, Tensor] | None


def loss_of_share(module: torch.nn.Module, ids: Tensor, labels: Tensor, counted: int, processes: int) -> Tensor:
    """This process's share of the global loss: mean over the counted tokens of all, and the balancing loss."""
    output = module(ids, use_cache=False)
    total = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return total / counted + AUX * output.aux_loss / processes


def train_alone(config: dict[str, Any]) -> Run:
    """What a single process computes from the whole batch."""
    model = make_model(config)
    [optimizer] = build_optimizers(model, TrainConfig(steps=STEPS))
    ids, labels = make_batch(config)
    losses, gradients, norm = [], {}, 0.0
    for step in range(STEPS):
        loss = loss_of_share(model, ids, labels, int((labels[:, 1:] != -100).sum()), 1)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        first_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        norm = norm or first_norm
        optimizer.step()
        optimizer.zero_grad()
    return Run(losses, gradients, norm, model.state_dict())


def train_together(config: dict[str, Any], processes: Processes, change: Callable[[Any], None] | None = None) -> Run:
    """The same, each process on its rows of the batch; `change` does something to the model before it is spread."""
    model = make_model(config)
    if change:
        change(model)
    parallel = ParallelModel(model, processes)
    [optimizer] = build_optimizers(model, TrainConfig(steps=STEPS))
    ids, labels = make_batch(config)
    counted = int((labels[:, 1:] != -100).sum())
    own = slice(processes.rank, None, processes.count)
    losses, gradients, norm = [], {}, 0.0
    for step in range(STEPS):
        loss = loss_of_share(parallel.module, ids[own], labels[own], counted, processes.count)
        loss.backward()
        parallel.finish_backward()
        losses.append(processes.sum(loss).item())
        if step == 0:
            gradients = {name: whole(p.grad).clone() for name, p in model.named_parameters()}
        first_norm = parallel.clip_gradients(1.0).item()
        norm = norm or first_norm
        optimizer.step()
        optimizer.zero_grad()
    return Run(losses, gradients, norm, parallel.full_state())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
