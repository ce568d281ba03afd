"""How the processes of a training share it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from openarctic.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the processes of a training share it.

    expert: processes over which the experts of a layer are spread; the rest of the world is data parallel.
    shard: parameters, gradients and optimiser state in shards (FSDP2) instead of copies (DDP).
    overlap: all-to-all runs beside attention, experts and residual MLP; False waits for each (the reference).
    expert_chunks: parts in which a layer's experts are computed, so that one part's tokens travel while another's are multiplied.
    timeout_s: a process that keeps the others waiting for longer counts as lost.
    """

    expert: int = 1
    shard: bool = False
    overlap: bool = True
    expert_chunks: int = 2
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("expert", "expert_chunks"):
            if getattr(self, name) < 1:
                raise UserError(f"parallel.{name} is {getattr(self, name)}", "it must be at least 1")
        if self.timeout_s <= 0:
            raise UserError(f"parallel.timeout_s is {self.timeout_s:g}", "it must be more than 0 seconds")
