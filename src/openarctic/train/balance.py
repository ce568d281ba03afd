"""How a model's experts are used, layer by layer, as numbers for the log.

L layers with experts, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openarctic.model.routing import RouteStats
from openarctic.train.processes import Processes

DEAD_AFTER = 100  # steps without a token


@dataclass(slots=True)
class ExpertBalance:
    """Gathers what the routers of a step's batches said, and how long each expert has had nothing to do."""

    idle_LE: list[list[int]] = field(default_factory=list)
    _load_LE: Tensor | None = None
    _dropped_L: Tensor | None = None
    _entropy_L: Tensor | None = None
    _batches: int = 0

    def add(self, routes: Sequence[RouteStats]) -> None:
        """What the layers' routers said of one batch (`RouteStats` each)."""
        if not routes:
            return
        load_LE = torch.stack([r.load_E.double().cpu() for r in routes])
        dropped_L = torch.tensor([float(r.dropped) for r in routes], dtype=torch.float64)
        entropy_L = torch.tensor([float(r.entropy) for r in routes], dtype=torch.float64)
        first = self._load_LE is None
        self._load_LE = load_LE if first else self._load_LE + load_LE
        self._dropped_L = dropped_L if first else self._dropped_L + dropped_L
        self._entropy_L = entropy_L if first else self._entropy_L + entropy_L
        self._batches += 1

    def clear(self) -> None:
        """Forget the step under way."""
        self._load_LE = self._dropped_L = self._entropy_L = None
        self._batches = 0

    def summary(self, processes: Processes, device: torch.device) -> dict[str, Any]:
        """The step's numbers over all processes: `expert_load` (each expert's share of its layer's tokens), `entropy` (mean of
        the routers', in nats), `dropped` (share of choices), `dead_experts` (without a token for DEAD_AFTER steps), by layer."""
        if self._load_LE is None or self._dropped_L is None or self._entropy_L is None:
            return {"expert_load": []}
        load_LE, dropped_L = (processes.sum(x.to(device)).cpu() for x in (self._load_LE, self._dropped_L))
        entropy_L = processes.sum(self._entropy_L.to(device)).cpu() / (self._batches * processes.count)
        self.clear()
        kept_L = load_LE.sum(1)
        idle = torch.tensor(self.idle_LE, dtype=torch.long) if self.idle_LE else torch.zeros(load_LE.shape, dtype=torch.long)
        self.idle_LE = ((idle + 1) * (load_LE == 0)).tolist()
        return {
            "expert_load": _rounded(load_LE / kept_L.clamp(min=1)[:, None]),
            "entropy": _rounded(entropy_L),
            "dropped": _rounded(dropped_L / (kept_L + dropped_L).clamp(min=1)),
            "dead_experts": [sum(steps >= DEAD_AFTER for steps in layer) for layer in self.idle_LE],
        }


def _rounded(values: Tensor) -> Any:
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [round(value, 4) for value in values.tolist()]
