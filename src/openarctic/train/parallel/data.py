"""Copies (DDP) or shards (FSDP2) of a model over processes, around experts that may be spread (`expert.py`).

Gradients are summed, so what a process differentiates is its share of the global loss (`share_of_loss`). Gradients of experts are
summed over the copies of the experts alone: the rows of all processes that share a copy have been through it already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from openarctic.model.hybrid import ArcticForCausalLM
from openarctic.train.boxes import local_part, whole
from openarctic.train.parallel.expert import distribute_experts, is_expert, sparse_moes
from openarctic.train.parallel.mesh import Processes
from openarctic.train.parallel.overlap import overlap_layers


class ParallelModel:
    """A model spread over processes: what to call, and what to do after the backward pass.

    module: the module whose forward computes this process's share (a DDP wrapper, or the model itself).
    model: the model, with Hugging Face names; of spread experts it has this process's alone.
    """

    def __init__(self, model: ArcticForCausalLM, processes: Processes) -> None:
        self.model, self.processes = model, processes
        if processes.count > 1:
            for moe in sparse_moes(model):
                moe.total = processes.sum
        if processes.expert > 1:
            distribute_experts(model, processes)
            overlap_layers(model)
        self.module: nn.Module = self._shard() if processes.config.shard else self._copy()

    def _shard(self) -> nn.Module:
        """FSDP2: each layer is gathered before it is used and its gradients are scattered after."""
        world, copies = self.processes.world_mesh, self.processes.mesh["data"]
        for moe in sparse_moes(self.model):
            if self.processes.expert > 1:
                _sum_gradients(fully_shard(moe.experts, mesh=copies))
        for layer in self.model.model.layers:
            _sum_gradients(fully_shard(layer, mesh=world))
        _sum_gradients(fully_shard(self.model, mesh=world))
        return self.model

    def _copy(self) -> nn.Module:
        if self.processes.count == 1:
            return self.model
        if self.processes.expert > 1:  # their gradients are summed by `finish_backward`
            experts = [name for name, _ in self.model.named_parameters() if is_expert(name)]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, experts)
        wrapped = DistributedDataParallel(self.model)
        wrapped.register_comm_hook(None, _sum_bucket)
        return wrapped

    @contextlib.contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Around forward and backward of one part of a batch: gradients are exchanged at the last part alone."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(is_last)
        if isinstance(self.module, DistributedDataParallel) and not is_last:
            with self.module.no_sync():
                yield
        else:
            yield

    def finish_backward(self) -> None:
        """After the backward pass of the last part: sum gradients of experts over their copies, where DDP left that to us."""
        p = self.processes
        if p.config.shard or p.expert == 1 or p.data == 1:
            return
        gradients = [x.grad for name, x in self.model.named_parameters() if is_expert(name) and x.grad is not None]
        flat = _flatten_dense_tensors(gradients)
        dist.all_reduce(flat, group=p.mesh.get_group("data"))
        for gradient, summed in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
            gradient.copy_(summed)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their norm over the whole model is at most `max_norm`; the norm before, a scalar.

        Every process must call it; all get the same number.
        """
        norm = self.gradient_norm()
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                local_part(parameter.grad).mul_(scale)
        return norm

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient of the whole model. A tensor that several processes hold counts once."""
        p = self.processes
        total = torch.zeros((), device=next(self.model.parameters()).device)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:
                continue
            spread = is_expert(name) and p.expert > 1
            holders = (p.data if spread else p.count) if not isinstance(parameter.grad, DTensor) else 1
            total += local_part(parameter.grad).float().square().sum() / holders
        return p.sum(total).sqrt()

    def full_state(self) -> dict[str, Tensor] | None:
        """The whole model's state, on the first process and its CPU; None on the others. Every process must call it."""
        p = self.processes
        own: dict[str, Tensor] = {}
        for name, tensor in self.model.state_dict().items():
            full = whole(tensor.detach())  # all along the tensor's mesh must take part
            if p.is_first or (p.data_rank == 0 and is_expert(name)):
                own[name] = full.cpu()
        if p.expert == 1:
            return own if p.is_first else None
        return self._collect(own)

    def whole_model(self) -> ArcticForCausalLM | None:
        """The model as one process has it, on the first process and its CPU; None on the others. Every process must call it."""
        state = self.full_state()
        if state is None:
            return None
        with torch.device("meta"):
            model = ArcticForCausalLM(self.model.config)
        model.set_routing(self.model.routing)
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        return model

    def _collect(self, own: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The experts of the processes that hold the first copy, sent to the first process."""
        p = self.processes
        held = p.gather({} if p.is_first else {name: (tuple(t.shape), t.dtype) for name, t in own.items()})
        device = next(self.model.parameters()).device
        if not p.is_first:
            for tensor in own.values():
                dist.send(tensor.to(device), 0)
            return None
        for rank, tensors in enumerate(held):
            for name, (shape, dtype) in tensors.items():
                received = torch.empty(shape, dtype=dtype, device=device)
                dist.recv(received, rank)
                own[name] = received.cpu()
        return own


def _sum_gradients(module: FSDPModule) -> None:
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def _sum_bucket(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings, as all here are
    """DDP's hook: the sum of gradients, where the default is their mean."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])
