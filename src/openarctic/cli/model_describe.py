"""`openarctic model describe`: what a model weighs, computes and needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

SUMMARY = "count a model's parameters, FLOPs, bytes, and the GPUs that hold it"
DESCRIPTION = """\
NAME_OR_PATH is a name (arctic-480b, arctic-nano, ...), a config.json, the checkpoint folder that holds one, or a GGUF file.
No weight is read: sizes come from the configuration, and of files with weights from their lists of tensors too.
--format csv prints every number of --format json as a line of key and value.

examples:
  openarctic model describe arctic-480b
  openarctic model describe arctic-480b --gpu H200 --context 2048 --batch 16
  openarctic model describe ./checkpoint --format json
"""

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]


class Count(int):
    """A number that prints with thousands separators."""

    def __str__(self) -> str:
        return f"{int(self):,}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", metavar="NAME_OR_PATH", help="what to describe")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a sequence (default: the model's longest)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once (default 1)")
    parser.add_argument("--gpu", metavar="NAME", help="only this GPU, and every number of it that holds the model")
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def run(args: argparse.Namespace) -> int:
    """Describe and print."""
    from openarctic.cli.render import render
    from openarctic.planner import GPUS, describe, find, find_gpu

    gpus = [find_gpu(args.gpu)] if args.gpu else list(GPUS.values())
    body = describe(find(args.model), context=args.context, batch=args.batch, gpus=gpus)
    if args.format == "json":
        print(json.dumps(body, ensure_ascii=False))
    elif args.format == "csv":
        print(render(("key", "value"), list(_flat(body)), "csv"), end="")
    else:
        print("\n".join(_page(body, args)), end="")
    return 0


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in the JSON object; a fit's key is `fits.GPU.PRECISION.GPUS`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            is_fit = key == "fits"
            yield from _flat(inner, f"fits.{inner['gpu']}.{inner['precision']}.{inner['gpus']}" if is_fit else f"{key}.{i}")
    else:
        yield key, value


def _page(body: dict[str, Any], args: argparse.Namespace) -> Iterator[str]:
    """The parts of the page: a title, then tables under their headings, then what they rest on."""
    from openarctic.cli.render import render

    is_markdown = args.format == "md"
    yield f"{'# ' if is_markdown else ''}{body['name']}: {_shape(body['config'])}\n"
    tables = [_parameter_table(body), _token_table(body), _weight_table(body)]
    if body["stored"]:
        tables.append(_stored_table(body["stored"]))
    tables.append(_detail_table(body) if args.gpu else _gpu_table(body))
    for heading, columns, rows in tables:
        if is_markdown:
            cells = [[cell.strip() if isinstance(cell, str) else cell for cell in row] for row in rows]
            yield f"## {heading}\n\n" + render(columns, cells, "md")
        else:
            yield f"{heading}\n" + render(columns, rows, "table")
    yield "".join(f"{'- ' if is_markdown else ''}{note}\n" for note in _notes(body))


def _shape(config: dict[str, Any]) -> str:
    """The layout in a line."""
    text = f"{config['num_hidden_layers']} layers, hidden {config['hidden_size']:,}, {config['num_attention_heads']} heads"
    text += f" ({config['num_key_value_heads']} kv)"
    if config["num_local_experts"]:
        every = config["moe_layer_frequency"]
        text += f", top-{config['num_experts_per_tok']} of {config['num_local_experts']} experts in "
        everywhere = "every layer" if every == 1 else f"one layer of {every}"
        text += f"layers {', '.join(map(str, config['moe_layers']))}" if config.get("moe_layers") else everywhere
    return text


def _parameter_table(body: dict[str, Any]) -> Table:
    counts = body["parameters"]
    names = {
        "embedding": "embedding",
        "attention": "attention",
        "residual_mlp": "residual MLP",
        "dense_mlp": "dense MLP",
        "router": "router",
        "experts": "experts",
        "norms": "norms",
        "biases": "biases",
        "head": "head",
        "total": "total",
        "dense": "dense: all but experts",
        "expert": "one expert, all layers",
        "active": "active per token",
        "active_without_lookup": "active, embedding looked up",
    }
    rows = [(name, Count(counts[key]), f"{counts[key] / counts['total']:8.2%}") for key, name in names.items()]
    return "PARAMETERS", ("part", "parameters", "of total"), rows


def _token_table(body: dict[str, Any]) -> Table:
    flops = body["flops_per_token"]
    context = f"{flops['context']:,}"
    rows = [
        (f"FLOPs, prefill, mean of {context} tokens", Count(flops["prefill"])),
        (f"FLOPs, decode behind {context} tokens", Count(flops["decode"])),
        (f"FLOPs, training on {context} tokens", Count(flops["training"])),
        *((f"bytes of keys and values, {form}", Count(size)) for form, size in body["kv_bytes_per_token"].items()),
    ]
    return "PER TOKEN", ("what", "number"), rows


def _weight_table(body: dict[str, Any]) -> Table:
    total = body["parameters"]["total"]
    sizes = {**body["weight_bytes"], **{f"GGUF {type_}": size for type_, size in body["gguf_bytes"].items()}}
    rows = [(name, *_bytes(size), None if size is None else f"{8 * size / total:6.2f}") for name, size in sizes.items()]
    return "WEIGHTS", ("precision", "bytes", "GB (10^9)", "GiB (2^30)", "bits a weight"), rows


def _stored_table(stored: dict[str, Any]) -> Table:
    rows: list[tuple[Any, ...]] = [
        (t, Count(e["tensors"]), Count(e["parameters"]), *_bytes(e["bytes"])) for t, e in stored["types"].items()
    ]
    counts = [Count(sum(e[key] for e in stored["types"].values())) for key in ("tensors", "parameters")]
    rows.append(("all tensors", *counts, *_bytes(stored["tensor_bytes"])))
    rows.append(("whole file", None, None, *_bytes(stored["file_bytes"])))
    return "AS STORED", ("type", "tensors", "parameters", "bytes", "GB (10^9)", "GiB (2^30)"), rows


def _bytes(size: int | None) -> tuple[Count | None, str | None, str | None]:
    if size is None:
        return None, None, None
    return Count(size), f"{size / 1e9:9,.3f}", f"{size / 2**30:10,.3f}"


def _gpu_table(body: dict[str, Any]) -> Table:
    """The fewest GPUs of each kind that hold the model, and what fits beside it."""
    from openarctic.planner import GPUS

    fewest: dict[tuple[str, str], str] = {}
    for fit in body["fits"]:
        cell = f"{fit['gpus']}: {fit['context']:,} x {fit['sequences']:,}"
        fewest.setdefault((fit["gpu"], fit["precision"]), cell)
    columns = {"fp32": "fp32", "bf16": "bf16", "fp8": "fp8, int8", "int4": "int4"}
    rows = [(gpu, *(fewest.get((gpu, precision), "-") for precision in columns)) for gpu in GPUS]
    return "FEWEST GPUS THAT HOLD IT: context x sequences beside the weights", ("GPU", *columns.values()), rows


def _detail_table(body: dict[str, Any]) -> Table:
    rows = [
        (
            fit["precision"],
            fit["gpus"],
            f"{fit['tensor_parallel']} x {fit['pipeline_stages']}",
            f"{fit['weight_bytes'] / 1e9:9.3f}",
            f"{fit['kv_room_bytes'] / 1e9:9.3f}",
            Count(fit["context"]),
            Count(fit["sequences"]),
            f"{fit['decode_ms']:9.3f}",
            Count(fit["prefill_tokens_per_s"]),
        )
        for fit in body["fits"]
    ]
    name = body["fits"][0]["gpu"] if body["fits"] else "NONE HOLDS IT"
    columns = ("", "GPUs", "TP x PP", "weights GB", "kv GB", "context", "sequences", "decode ms >=", "prefill tok/s <=")
    return f"GPUS: {name}; GB (10^9) on the fullest GPU", columns, rows


def _notes(body: dict[str, Any]) -> Iterator[str]:
    rest = body["assumptions"]
    yield "FLOPs: 2 x each active matrix + 4 x heads x head_dim x positions seen in each layer."
    yield "fp32 to int4 are bare bytes; GGUF bytes are exact, with scales, norms and routers in F32."
    yield (
        f"GPUs: {rest['usable_share']:.0%} of memory, less {rest['runtime_bytes'] / 2**30:g} GiB for the runtime and "
        f"{rest['activation_bytes'] / 1e9:.2f} GB for activations;"
    )
    yield f"keys and values in bf16; --batch {rest['batch']} must fit; at most {rest['max_gpus']} GPUs."
    yield "TP: tensor parallel, PP: pipeline stages. Times are bounds by memory and FLOPs, no predictions."
    if rest["batch"] > 1:
        yield "Experts that a batch reads are the mean of even routing."
    for obstacle in body["stock_obstacles"]:
        yield f"stock runtimes cannot run it: {obstacle}"
