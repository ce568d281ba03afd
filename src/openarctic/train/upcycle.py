"""Upcycling in torch: a dense model in memory becomes a hybrid that computes the very same logits; and what learns then.

How the hybrid is made stands in `formats/upcycled.py`, which also makes files of any size (`openarctic model upcycle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openarctic.errors import UserError
from openarctic.formats import HybridConfig
from openarctic.formats.names import state_dict_shapes
from openarctic.formats.quants import Raw
from openarctic.formats.upcycled import Experts, UpcycleConfig, UpcycledSource
from openarctic.formats.verify import OnBytes
from openarctic.model import ArcticConfig, ArcticForCausalLM
from openarctic.model.load import as_tensor, assemble


def upcycle(
    config: ArcticConfig | HybridConfig,
    state: Mapping[str, Tensor],
    *,
    num_local_experts: int,
    num_experts_per_tok: int,
    intermediate_size: int,
    moe_layer_frequency: int = 1,
    layers: Sequence[int] | None = None,
    experts: Experts = "slices",
    seed: int,
) -> ArcticForCausalLM:
    """A hybrid in float32 from a dense model given as Hugging Face tensors named as in `openarctic.model` (no experts).

    `layers`, or every `moe_layer_frequency`-th layer, get `num_local_experts` experts of width `intermediate_size`.
    Raises UserError when the model has experts already, or experts would be wider than its MLP.
    """
    source = _State(config if isinstance(config, HybridConfig) else config.shape, state)
    chosen = range(moe_layer_frequency - 1, source.config.num_hidden_layers, moe_layer_frequency) if layers is None else layers
    asked = UpcycleConfig(
        layers=tuple(chosen),
        num_local_experts=num_local_experts,
        num_experts_per_tok=num_experts_per_tok,
        intermediate_size=intermediate_size,
        experts=experts,
        seed=seed,
    )
    hybrid = UpcycledSource(source, asked)
    shapes = state_dict_shapes(hybrid.config)
    raw = {name: hybrid.read_rows(name, 0, np.empty(4 * int(np.prod(shapes[name])), np.uint8)) for name in hybrid.names}
    return assemble(hybrid.config, {name: as_tensor(values, "F32", shapes[name]) for name, values in raw.items()}).train()


class _State:
    """A dense model in memory as a `Source`."""

    path = Path("memory")

    def __init__(self, config: HybridConfig, state: Mapping[str, Tensor]) -> None:
        self.config = config
        self.names = tuple(state_dict_shapes(config))
        self._state = state

    def type_of(self, name: str) -> str:
        """Everything is read as float32."""
        return "F32"

    def read_rows(self, name: str, first: int, out: Raw) -> Raw:
        """Fill `out`."""
        values = self._state[name].detach().float().cpu().contiguous().view(torch.uint8).reshape(-1).numpy()
        row = values.size // (len(self._state[name]) if self._state[name].ndim > 1 else 1)
        out[:] = values[first * row : first * row + out.size]
        return out

    def verify(self, on_bytes: OnBytes) -> None:
        """There are no checksums."""

    def fingerprint(self) -> Any:
        """It is not written to files."""
        return None

    def close(self) -> None:
        """Nothing is open."""


def is_new(config: ArcticConfig | HybridConfig, name: str) -> bool:
    """Whether upcycling added the parameter of that Hugging Face name: routers, experts, and the norm before them."""
    parts = name.split(".")
    if not name.startswith("model.layers.") or not config.is_parallel_layer(int(parts[2])):
        return False
    return parts[3] in ("block_sparse_moe", "post_attention_layernorm")


def freeze_dense(model: ArcticForCausalLM) -> list[str]:
    """Let only routers, experts and the norms before them learn; returns their names.

    Raises UserError for a model without experts beside attention: nothing would learn.
    """
    learning = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_new(model.config, name))
        learning += [name] if parameter.requires_grad else []
    if not learning:
        raise UserError("freezing the dense part leaves nothing to learn", "the model has no experts beside attention")
    return learning
