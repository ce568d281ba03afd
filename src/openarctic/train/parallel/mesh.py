"""The processes of one training and how they share the work: a mesh of data x expert.

Every process reads its own share of the batch. Along `expert` each holds E / P of the experts of every layer; along `data` the
same experts are held again. Everything else is held by all.

Two conventions hold everywhere in this room:
- a process differentiates *its share* of the global loss, so gradients are **summed** over processes, never averaged;
- what the balancing loss calls load is counted over all processes (`Processes.sum`), so that it is the loss of the whole batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import rendezvous
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from openarctic.errors import CapacityError, UserError
from openarctic.train.parallel.config import ParallelConfig

# What torchrun tells a process about its place.
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Processes:
    """This process among the others of a training. Made by `join`."""

    def __init__(self, config: ParallelConfig, device_type: str) -> None:
        self.config = config
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        if self.count % config.expert:
            raise UserError(
                f"{self.count} processes cannot share experts in groups of {config.expert}",
                "parallel.expert must divide the number of processes",
            )
        shape = (self.count // config.expert, config.expert)
        self.mesh: DeviceMesh = init_device_mesh(device_type, shape, mesh_dim_names=("data", "expert"))
        self.world_mesh: DeviceMesh = init_device_mesh(device_type, (self.count,), mesh_dim_names=("world",))

    @property
    def data(self) -> int:
        """Copies of each expert."""
        return self.mesh.size(0)

    @property
    def expert(self) -> int:
        """Processes over which the experts are spread."""
        return self.mesh.size(1)

    @property
    def expert_rank(self) -> int:
        """This process's place among those that share one copy of the experts."""
        return self.mesh.get_local_rank("expert")

    @property
    def data_rank(self) -> int:
        """The copy of the experts that this process belongs to."""
        return self.mesh.get_local_rank("data")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, without a gradient. The argument is left as it is."""
        total = tensor.detach().clone()
        if self.count > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """The values (plain Python) of all processes in order of rank, everywhere; also a barrier."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def owned_experts(self, num_experts: int) -> range:
        """The experts that this process holds. Raises UserError where they cannot be shared evenly."""
        if num_experts % self.expert:
            raise UserError(
                f"{num_experts} experts cannot be shared evenly by {self.expert} processes",
                "parallel.expert must divide the number of experts",
            )
        each = num_experts // self.expert
        return range(self.expert_rank * each, (self.expert_rank + 1) * each)


@contextlib.contextmanager
def join(config: ParallelConfig) -> Iterator[Processes]:
    """Join the training that torchrun (or a SLURM script) started this process for; leave it in the end.

    CPU processes speak gloo, GPU processes NCCL (each its own GPU by LOCAL_RANK). Raises UserError where the process was not
    started as one of several or the sizes do not fit, CapacityError where the others do not come, or go, or fall silent.
    """
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise UserError(
            f"this process was not started as one of several: {', '.join(missing)} not set",
            "start it with torchrun --nproc-per-node N, or see docs/parallel.md for SLURM",
        )
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with peers_answer(config.timeout_s):
        _meet("nccl" if device_type == "cuda" else "gloo", timedelta(seconds=config.timeout_s))
        try:
            yield Processes(config, device_type)
        finally:
            dist.destroy_process_group()


def _meet(backend: str, timeout: timedelta) -> None:
    """`init_process_group`, but not among what an earlier attempt left behind.

    torchrun keeps its store over restarts, with the addresses of processes that are gone, and now and then one is tried. On one
    node all processes know the number of the attempt; for several see `examples/train_slurm.sh`.
    """
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)


@contextlib.contextmanager
def peers_answer(timeout_s: float) -> Iterator[None]:
    """Turns what torch.distributed raises when a process dies or hangs into a CapacityError that says so."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not _speaks_of_peers(error):
            raise
        raise CapacityError(
            f"another process of this training ended, or gave no sign for {timeout_s:g} s: {_first_line(error)}",
            "its own output says why; torchrun --max-restarts N starts all of them again from the last checkpoint",
        ) from error


# gloo tells of a lost peer by plain RuntimeErrors, most with the name of its source file in them, "Application timeout caused
# pair closure" and the like without; NCCL and the store have classes of their own.
_SIGNS = ("gloo", "timed out", "timeout")


def _speaks_of_peers(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in _SIGNS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
