"""Everything the planner knows of one model as one object, which `openarctic model describe --format json` prints.

Keys, all of them always there; sizes in bytes unless the name says otherwise:

- `status` "ok"; `error` null; `name`; `source` "preset", "config", "checkpoint" or "gguf"
- `config`: the model's `config.json`
- `parameters`: `embedding attention residual_mlp dense_mlp router experts norms biases head`, which sum up to `total`; `dense`
  (all but experts), `expert` (one expert over all layers), `active` (of one token), `active_without_lookup`
- `flops_per_token`: `context`, `prefill` (averaged over that many tokens), `decode` (the token that sees them all), `training`
- `weight_bytes`: by precision, bare; `gguf_bytes`: by file type, exact, null where the model cannot be stored so
- `kv_bytes_per_token`: by form of keys and values
- `stored`: null, or where there are weights `file_bytes`, `tensor_bytes` and `types` {type: {tensors, parameters, bytes}}
- `stock_obstacles`: why stock GGUF runtimes (llama.cpp) cannot run it, as sentences; empty when they can
- `assumptions`: of `fits`: `usable_share`, `runtime_bytes`, `activation_bytes`, `kv_value_bytes`, `batch`, `max_gpus`
- `fits`: a list, by GPU, precision and count: `gpu precision gpus tensor_parallel pipeline_stages weight_bytes kv_room_bytes
  context sequences decode_ms prefill_tokens_per_s` (see `planner.fit.Fit`; the times are bounds)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from openarctic.errors import UserError
from openarctic.formats.mixture import FILE_TYPES
from openarctic.formats.names import stock_obstacles
from openarctic.planner.fit import (
    KV_VALUE_BYTES,
    MAX_GPUS,
    RUNTIME_BYTES,
    USABLE_SHARE,
    activation_bytes,
    check_context,
    fit,
)
from openarctic.planner.flops import flops_per_token
from openarctic.planner.hardware import GPUS, Gpu
from openarctic.planner.memory import KV_FORMS, PRECISIONS, gguf_bytes, kv_bytes_per_token, weight_bytes
from openarctic.planner.parameters import parameters
from openarctic.planner.source import Source


def describe(
    source: Source, *, context: int | None = None, batch: int = 1, gpus: Iterable[Gpu] = tuple(GPUS.values())
) -> dict[str, Any]:
    """The object above. Raises UserError for a context or batch that makes no sense."""
    config = source.config
    context = check_context(config, context)
    flops = flops_per_token(config, context)
    fits = [f for gpu in gpus for p in PRECISIONS for f in fit(config, gpu, p, context=context, batch=batch)]
    return {
        "status": "ok",
        "name": source.name,
        "source": source.kind,
        "config": config.to_dict(),
        "parameters": _parameters(source),
        "flops_per_token": {**asdict(flops), "training": flops.training},
        "weight_bytes": {precision: weight_bytes(config, precision) for precision in PRECISIONS},
        "gguf_bytes": {type_: _gguf_bytes(source, type_) for type_ in FILE_TYPES},
        "kv_bytes_per_token": {form: kv_bytes_per_token(config, size) for form, size in KV_FORMS.items()},
        "stored": source.stored and {**asdict(source.stored), "tensor_bytes": source.stored.tensor_bytes},
        "stock_obstacles": stock_obstacles(config),
        "assumptions": {
            "usable_share": USABLE_SHARE,
            "runtime_bytes": RUNTIME_BYTES,
            "activation_bytes": activation_bytes(config, batch),
            "kv_value_bytes": KV_VALUE_BYTES,
            "batch": batch,
            "max_gpus": MAX_GPUS,
        },
        "fits": [{**asdict(f), "gpus": f.gpus} for f in fits],
        "error": None,
    }


def _parameters(source: Source) -> dict[str, int]:
    counted = parameters(source.config)
    parts = ("embedding", "attention", "residual_mlp", "dense_mlp", "router", "experts", "norms", "biases", "head")
    sums = ("dense", "total", "expert", "active", "active_without_lookup")
    return {name: getattr(counted, name) for name in (*parts, *sums)}


def _gguf_bytes(source: Source, file_type: str) -> int | None:
    try:
        return gguf_bytes(source.config, file_type)
    except UserError:
        return None
